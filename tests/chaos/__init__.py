"""Faults of real processes and of the lines between them, and a core that shows two histories."""
