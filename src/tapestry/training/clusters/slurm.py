"""Slurm by a script of our own: sbatch, squeue, sacct, scancel."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tapestry.errors import SettingsError, Unreachable
from tapestry.host import files
from tapestry.training import launcher
from tapestry.training.clusters import commands
from tapestry.training.clusters.contract import Launch, Phase, Seen
from tapestry.training.clusters.settings import Slurm

WARNING_S: Final = 120
"""So long before its time is up a job is told, and the trainer writes a checkpoint."""
COMMENT: Final = "tapestry:"
SEPARATOR: Final = "|"
FORMAT: Final = SEPARATOR.join(("%i", "%T", "%r", "%k"))
"""Of squeue: number, state, reason, comment."""

_PHASES: Final[dict[str, Phase]] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"), "queued"),
    **dict.fromkeys(("RESV_DEL_HOLD", "SPECIAL_EXIT"), "queued"),
    **dict.fromkeys(("RUNNING", "RESIZING", "SUSPENDED", "STOPPED"), "running"),
    **dict.fromkeys(("COMPLETING", "SIGNALING", "STAGE_OUT"), "ending"),
}
"""Every other state is the end."""
_LOST: Final = frozenset(("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED"))
_UNKNOWN_JOB: Final = "Invalid job id"
_AWAY: Final = re.compile(
    r"unable to contact|connect|timed out|time out|temporarily|try again|not responding|slurm_receive_msg|"
    r"communication|zero bytes",
    re.IGNORECASE,
)
"""What sbatch says when the controller, not the job, is the trouble."""
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f\"'\\%#]")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.,:&|*()@+=/\[\]!%-]+")


class SlurmCluster:
    """See `Cluster`."""

    name = "slurm"
    by_hand = "sbatch job.sh"

    def __init__(self, launch: Launch, settings: Slurm) -> None:
        check_home(launch.home)
        self.launch = launch
        self.settings = settings
        self.poll_s = settings.poll_s

    @property
    def digest(self) -> str:
        return self.launch.digest(self._render(""))

    def text(self) -> str:
        return self._render(self.digest)

    def submit(self, folder: Path) -> str:
        script = folder / "job.sh"
        files.write_atomic(script, self.text().encode(), mode=0o700)
        try:
            said = commands.run(["sbatch", "--parsable", str(script)])
        except commands.Failed as e:
            raise refusal(self.name, e) from e
        job = said.strip().splitlines()[-1].partition(";")[0] if said.strip() else ""
        return job_number(job, said)

    def live(self) -> list[Seen]:
        ours = ["--me", f"--name={self.launch.name}", "--states=all"]
        said = commands.ask(["squeue", "--noheader", *ours, f"--format={FORMAT}"])
        return [seen for seen in _read(said) if seen.phase != "gone"]

    def state(self, job: str) -> Seen:
        argv = ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--format={FORMAT}"]
        try:
            found = [seen for seen in _read(commands.run(argv)) if seen.job == job]
        except commands.Failed as e:
            if _UNKNOWN_JOB not in e.said:
                raise Unreachable(e.message) from e
            found = []
        return found[-1] if found else self._past(job)

    def cancel(self, job: str) -> None:
        try:
            commands.run(["scancel", job])
        except commands.Failed as e:
            if _UNKNOWN_JOB not in e.said:
                raise Unreachable(e.message) from e

    def tidy(self, job: str) -> None:
        """Slurm leaves nothing but its log."""

    def output(self, job: str) -> str:
        return str(self.launch.home / "logs" / f"job-{job}.log")

    def _past(self, job: str) -> Seen:
        """How a job ended that the controller has forgotten; a site without accounting cannot tell."""
        argv = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State"]
        try:
            state = commands.run(argv).strip().partition("\n")[0]
        except (commands.Failed, SettingsError):
            state = ""
        return _seen(job, state or "UNKNOWN", None, None)

    def _render(self, digest: str) -> str:
        directives = "\n".join(f"#SBATCH {line}" for line in self._directives(digest))
        lines = [
            "#!/bin/bash",
            directives,
            "",
            f"# The trainer of node {self.launch.training.node}; made from its node.toml.",
            *self.exports(),
            *self.settings.setup,
            *self.meet(),
            f"exec srun {shlex.join(self.step())} \\",
            f"  {shlex.join(self.ranks())}",
        ]
        return "\n".join(lines) + "\n"

    def _directives(self, digest: str) -> Iterator[str]:
        launch, given = self.launch, self.settings
        yield f"--job-name={launch.name}"
        yield f"--comment={COMMENT}{digest}"
        yield f"--nodes={launch.hosts}"
        yield "--ntasks-per-node=1"
        yield f"--cpus-per-task={self.cpus()}"
        if gpus := launch.gpus(given.gpus_per_host):
            yield f"--gpus-per-node={gpus}"
        for option, value in (
            ("mem", given.memory),
            ("time", given.time_limit),
            ("partition", given.partition),
            ("account", given.account),
            ("qos", given.qos),
            ("constraint", given.constraint),
        ):
            if value is not None:
                yield f"--{option}={carried(value)}"
        yield f"--signal=TERM@{WARNING_S}"
        yield "--no-requeue"
        if launch.elastic:
            yield "--no-kill"
        yield "--export=NONE"
        yield f"--chdir={carried(str(launch.home))}"
        yield f"--output={carried(self.output('%j'))}"
        yield "--open-mode=append"
        for option in given.extra:
            yield carried(option)

    def cpus(self) -> int:
        """Of each host."""
        training = self.launch.training
        return training.processes * (self.settings.cpus_per_process or training.threads)

    def exports(self) -> list[str]:
        """Lines of bash: the ranks' variables."""
        variables = self.launch.environment(self.settings.interface)
        return [
            f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
            for name, value in variables.items()
        ]

    def meet(self) -> list[str]:
        """Lines of bash: where the ranks of several hosts meet."""
        if self.launch.hosts == 1:
            return []
        port = self.settings.port or "$((20000 + SLURM_JOB_ID % 20000))"
        return [
            'first_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f'export TAPESTRY_MEET="$first_host:{port}"',
        ]

    def step(self) -> list[str]:
        """Options of srun: a task a host, which has all of the job's environment and processors."""
        gone = ["--no-kill", "--kill-on-bad-exit=0"] if self.launch.elastic else ["--kill-on-bad-exit=1"]
        return ["--ntasks-per-node=1", f"--cpus-per-task={self.cpus()}", "--export=ALL", *gone]

    def ranks(self) -> list[str]:
        """What each host runs. The ranks of a single host have no network but its loopback; those of
        several have the network that the site gives."""
        launch = self.launch
        python = python_of(self.settings)
        torchrun = launcher.torchrun(
            launch.home,
            launch.training.processes,
            meet=launcher.ONE_HOST if launch.hosts == 1 else launch.meet,
            max_restarts=self.settings.max_restarts,
        )
        if launch.hosts == 1:
            return [python, "-P", "-m", "tapestry.host.isolation", "--", python, *torchrun]
        return ["bash", "-c", AT_EACH_HOST, python, *torchrun]


AT_EACH_HOST: Final = (
    'exec "$0" "$1" "$2" "$3" --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$TAPESTRY_MEET"'
    ' --rdzv-conf=is_host=$((SLURM_NODEID == 0)) --local-addr="$SLURMD_NODENAME" "${@:4}"'
)
"""Slurm says which host is the first; torchrun would guess it from names, which differ at some sites."""


def check_home(home: Path) -> None:
    """Raises `SettingsError` for a path that Slurm's own syntax cannot carry."""
    text = str(home)
    if _UNFIT.search(text) or not text.isprintable():
        raise SettingsError(
            f"Slurm cannot be given the node's home {text!r}: its path has a quote, %, #, a backslash or a"
            " control character",
            hint="move the node to a folder with a plainer path",
        )


def carried(value: str) -> str:
    """A value on a line of #SBATCH, which knows quotes and nothing else of a shell."""
    if _UNFIT.search(value.replace("%", "")):
        raise SettingsError(f"Slurm cannot be given {value!r}: it has a quote, # or control character")
    return value if _PLAIN.fullmatch(value) else f'"{value}"'


def python_of(settings: Slurm) -> str:
    """Path of the hosts' Python."""
    return settings.python or sys.executable


def refusal(name: str, error: commands.Failed) -> Exception:
    """What a submission that failed is: the controller is away, or it will not have this job."""
    if _AWAY.search(error.said):
        return Unreachable(error.message)
    return SettingsError(
        f"{name} does not take the job: {error.said or error.message}",
        hint="correct [slurm] in node.toml; tapestry node script HOME shows what is submitted",
    )


def job_number(job: str, said: str) -> str:
    if not (job.isascii() and job.isdigit()):
        raise Unreachable(f"sbatch answered {commands.brief(said)!r} and no job number")
    return job


def _read(said: str) -> Iterator[Seen]:
    for line in said.splitlines():
        job, state, reason, comment = [*line.strip().split(SEPARATOR, 3), "", "", ""][:4]
        if job.isdigit() and state:
            yield _seen(job, state, reason, comment)


def _seen(job: str, state: str, reason: str | None, comment: str | None) -> Seen:
    word = state.split()[0].rstrip("+")
    phase = _PHASES.get(word, "gone")
    why = commands.brief(reason or "").removeprefix("None") or None
    if phase != "queued":
        why = f"{state} ({why})" if why else state
    return Seen(
        job=job,
        phase=phase,
        reason=None if word == "RUNNING" else why,
        lost=word in _LOST,
        digest=comment.removeprefix(COMMENT) if comment and comment.startswith(COMMENT) else None,
    )
