"""Sovereign builds: what a member makes of a shared base on its own machines, and owns.

A build reads data and writes models; only the endpoint, on loopback, listens to a network.
"""
