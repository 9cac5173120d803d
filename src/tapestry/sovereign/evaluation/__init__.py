"""Evaluation of a build against what it came from: figures with intervals, one report, and gates."""
