"""Deltas in few bytes: encodings, error feedback. torch, no I/O; the format is docs/formats/delta.md."""
