"""HTTP between node and core: the forms both sides share, the client, the server's plumbing."""
