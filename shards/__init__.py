"""The contract between preprocessing and training: one format of aligned RGB/flow shards."""
