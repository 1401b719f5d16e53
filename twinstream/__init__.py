"""Action videos to aligned RGB/TV-L1-flow shards to a two-branch network with cross-modality
attention.
"""
