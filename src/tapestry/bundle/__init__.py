"""Bundles: what a node takes with it when it leaves, and what an auditor is shown; and whether one holds.

Files and rules only: no network, no torch, no database. Format: docs/formats/bundle.md.
"""
