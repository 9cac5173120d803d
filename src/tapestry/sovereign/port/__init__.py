"""Onto the next base without training: new = new base + (derivative − old base)."""
