"""The trainer of a node: text in, delta out, no network.

`spool` and `launcher` import no torch; everything else is for the trainer's own process.
"""
