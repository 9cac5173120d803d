"""Hostile input: a structure-aware fuzz target for each parser of foreign bytes."""
