"""Schema of the core's database, one module a revision; run by `tapestry.storage.database`."""
