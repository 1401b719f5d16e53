"""Trainings that put the paper's claim to the test: `python -m benchmarks.proofs.NAME`."""
