"""The dashboard: pages over the core's public API. It holds no privilege that a member lacks."""
