"""Shards to batches of snippets."""
