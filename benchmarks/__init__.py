"""Programs that measure Tapestry: `python -m benchmarks [name...]`. See `benchmarks/report.py`."""
