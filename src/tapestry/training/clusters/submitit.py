"""Slurm through the library submitit, for sites that have their habits around it.

Only the submission differs from `slurm`. submitit writes what it submits as a pickle into the node's own
folder and the job reads it back; nothing of it comes from outside, and nothing of ours is in it but the
path of a script.
"""

from __future__ import annotations

import importlib
import shlex
import shutil
from pathlib import Path
from typing import Any

from tapestry.errors import SettingsError
from tapestry.host import files
from tapestry.training.clusters import commands
from tapestry.training.clusters.contract import Launch
from tapestry.training.clusters.settings import HINT, Slurm
from tapestry.training.clusters.slurm import COMMENT, WARNING_S, SlurmCluster, job_number, python_of, refusal


class SubmititCluster(SlurmCluster):
    """See `Cluster`."""

    name = "submitit"
    by_hand = "submitit, with these parameters"

    def __init__(self, launch: Launch, settings: Slurm) -> None:
        super().__init__(launch, settings)
        if settings.time_limit is None:
            raise SettingsError(
                "launcher submitit needs time_limit in [slurm]: without one submitit asks for five minutes",
                hint=HINT,
            )

    def submit(self, folder: Path) -> str:
        script = folder / "job.sh"
        files.write_atomic(script, self.text().encode(), mode=0o700)
        shutil.rmtree(folder / "submitit", ignore_errors=True)  # of jobs that have ended
        library = _library()
        try:
            executor = library.SlurmExecutor(
                folder=folder / "submitit", python=shlex.quote(python_of(self.settings))
            )
            executor.update_parameters(**self.parameters(self.digest))
            run = importlib.import_module("submitit.helpers").CommandFunction(["bash", str(script)])
            job = str(executor.submit(run).job_id)
        except (RuntimeError, ValueError, FileNotFoundError) as e:
            said = commands.brief(str(e))
            raise refusal(self.name, commands.Failed("submitit", 1, said)) from e
        return job_number(job, job)

    def output(self, job: str) -> str:
        return f"{self.launch.home / 'launch' / 'submitit' / job}_0_log.err and {super().output(job)}"

    def parameters(self, digest: str) -> dict[str, Any]:
        """What submitit is given; all of `[slurm]`, by its names."""
        launch, given = self.launch, self.settings
        named = {
            "partition": given.partition,
            "account": given.account,
            "qos": given.qos,
            "constraint": given.constraint,
            "mem": given.memory,
            "gpus_per_node": launch.gpus(given.gpus_per_host) or None,
            "setup": list(given.setup) or None,
        }
        more: dict[str, Any] = {
            "time": given.time_limit,
            "signal": f"TERM@{WARNING_S}",
            "no-requeue": True,
            "export": "NONE",
            "chdir": str(launch.home),
        }
        if launch.elastic:
            more["no-kill"] = True
        for option in given.extra:
            name, _, value = option.removeprefix("--").partition("=")
            more[name] = value or True
        return {
            "job_name": launch.name,
            "comment": f"{COMMENT}{digest}",
            "nodes": launch.hosts,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus(),
            **{name: value for name, value in named.items() if value is not None},
            "srun_args": self.step(),
            "additional_parameters": more,
        }

    def _render(self, digest: str) -> str:
        described = [f"#   {name} = {value!r}" for name, value in self.parameters(digest).items()]
        logs = shlex.quote(str(self.launch.home / "logs"))
        lines = [
            "#!/bin/bash",
            f"# The trainer of node {self.launch.training.node}; made from its node.toml.",
            "# submitit runs it on each host of a job with:",
            *described,
            "",
            f'exec >>{logs}/job-"$SLURM_JOB_ID".log 2>&1',
            *self.exports(),
            *self.meet(),
            f"exec {shlex.join(self.ranks())}",
        ]
        return "\n".join(lines) + "\n"


def _library() -> Any:
    try:
        return importlib.import_module("submitit")
    except ModuleNotFoundError as e:
        raise SettingsError(
            "launcher submitit needs the package submitit, which is not installed",
            hint="pip install 'tapestry[slurm]', here and where the job runs; or use launcher slurm",
        ) from e
