"""Who says so: keys, signed envelopes, the ring of valid keys, proofs of requests, invitations.

Pure: bytes in, bytes out. Reading a key file or a clock is the caller's part.
"""
