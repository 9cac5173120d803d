"""How close training in rounds comes to training on one machine: loss against bytes, at equal tokens.

One member a language, all methods from one initial artifact. `python -m benchmarks.parity --help`.
"""
