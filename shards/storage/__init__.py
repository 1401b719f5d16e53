"""Where bytes are: a disk or an object store."""
