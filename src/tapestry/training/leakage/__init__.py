"""What weights and updates give away of the text they were trained on: the attacks, and their statistics.

Reads text and weights, writes nothing and knows no network. See docs/concepts/leakage.md.
"""
