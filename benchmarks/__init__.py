"""Side-by-side measurements: `python -m benchmarks.NAME`. No figure here is a test."""
