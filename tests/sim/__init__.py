"""A federation in one process whose clock, chance, disk and network are a seed's: docs/guides/simulator.md.

The real core, agent, round machine and storage run in tasks of which one goes on at a time; where a task
touches disk or network, the seed says whether it goes on, another does, or its process dies there.
"""
