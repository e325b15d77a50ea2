"""What is stored and published: every column, work units, run records, checksums."""
