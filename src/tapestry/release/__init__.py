"""Released bases: a TUF repository that k of n members sign, and the client that fetches from it."""
