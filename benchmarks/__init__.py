"""Benchmarks: `python -m benchmarks NAME`, one command per question; README.md says what each measures."""
