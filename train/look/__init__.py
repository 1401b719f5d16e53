"""Attention maps, and their pictures."""
