"""Participation rules that run: the charter, the count of votes, who could block or force what, and what a
run would take. No torch, numpy, network or database.
"""
