"""Tensors as they lie in shard bytes. torch, no I/O; formats in docs/formats/artifact.md."""
