"""What a shard dataset is: samples, indexes, the manifest and the table of videos."""
