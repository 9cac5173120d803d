"""Tapestry: one open foundation model, trained together, without pooling data."""

__version__ = "0.1.0"
