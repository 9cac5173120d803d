"""A node's ranks as a job of a cluster: Slurm (by a script, or by submitit) or Kubernetes.

`python -m tapestry.training.clusters --home HOME` is the watcher, which a node's supervisor starts in the
place of torchrun. It submits the job, waits, cancels it when told to stop, and ends when the job did.
It speaks to the scheduler through the scheduler's own commands and reads none of the node's text.
"""
