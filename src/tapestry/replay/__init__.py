"""Plan, state and contributions → next state: the only implementation, run by a resident worker process.

`client` and `job` load no torch; `engine` runs in the worker (`python -m tapestry.replay BLOB_ROOT`).
"""
