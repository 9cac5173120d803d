"""Defences, each switched off by loading its module: `played` has the processes of a rehearsal load it."""
