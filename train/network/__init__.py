"""The two-branch network, its stages and its first weights."""
