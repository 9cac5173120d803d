"""The cluster that a node's settings name."""

from __future__ import annotations

import shlex
from pathlib import Path

from tapestry.errors import SettingsError
from tapestry.training import launcher
from tapestry.training.clusters import settings as tables
from tapestry.training.clusters.contract import Cluster, Launch
from tapestry.training.clusters.kubernetes import KubernetesCluster
from tapestry.training.clusters.settings import HINT, LaunchSettings
from tapestry.training.clusters.slurm import SlurmCluster
from tapestry.training.clusters.submitit import SubmititCluster


def open_cluster(home: Path, settings: LaunchSettings) -> Cluster:
    """Raises `SettingsError` where its table is missing or does not fit the home."""
    launch = Launch(home.absolute(), settings.training)
    kind = settings.training.launcher
    if kind == "slurm":
        return SlurmCluster(launch, settings.slurm)
    if kind == "submitit":
        return SubmititCluster(launch, settings.slurm)
    if kind == "kubernetes":
        if settings.kubernetes is None:
            raise SettingsError(
                "launcher kubernetes needs the table [kubernetes] with image and claim", hint=HINT
            )
        return KubernetesCluster(launch, settings.kubernetes)
    raise SettingsError(
        f"launcher {kind} asks no cluster", hint="the node's supervisor starts the ranks itself"
    )


def describe(home: Path) -> dict[str, str]:
    """What starts the ranks of a home: `launcher`, `job` (its name there), `text`, and the command that
    submits the text. Raises `SettingsError`."""
    given = tables.load(home)
    training = given.training
    if training.launcher == "local":
        text = shlex.join(launcher.command(home, training.processes)) + "\n"
        return {"launcher": "local", "job": "", "text": text, "submit": f"tapestry node run {home}"}
    cluster = open_cluster(home, given)
    return {
        "launcher": cluster.name,
        "job": cluster.launch.name,
        "text": cluster.text(),
        "submit": cluster.by_hand,
    }
