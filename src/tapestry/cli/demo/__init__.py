"""`tapestry demo`: a core and N nodes on one machine, over real HTTP, on real text."""
