"""Reads datasets by key, frame and flow field."""
