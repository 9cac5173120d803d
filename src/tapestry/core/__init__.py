"""The core: keeps the event log, admits members, takes contributions, has rounds merged.

`settings` and `home` say where and how, `service` changes state, `coordinator` does the work that the
state asks for, `api` answers nodes, `operator` serves the command line on the core's machine, `serve`
runs it all in one process. Nothing here imports torch or numpy.
"""
