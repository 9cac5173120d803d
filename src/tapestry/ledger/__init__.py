"""The append-only event log of a consortium: what an entry is, as bytes."""
