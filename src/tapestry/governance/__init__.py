"""Participation rules that run: the charter, the count of votes, and who could block or force what."""
