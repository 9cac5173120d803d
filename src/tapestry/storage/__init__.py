"""Where things lie: content-addressed blobs, and the core's database with its event log."""
