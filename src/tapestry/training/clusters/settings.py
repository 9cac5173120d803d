"""The tables `[slurm]` and `[kubernetes]` of a node's `node.toml`.

What goes into a scheduler's own syntax is held to the characters that syntax carries: a value can name a
thing, not add a line. `setup` alone is shell, written by the node's owner for the node's owner.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.message import explain
from tapestry.training.settings import MAX_SETTINGS_BYTES, TrainerSettings

HINT: Final = "see docs/guides/islands.md"
RESERVED: Final = frozenset(
    (
        *("array", "chdir", "comment", "cpus-per-task", "error", "export", "get-user-env", "gid", "input"),
        *("job-name", "nodes", "no-kill", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output"),
        *("parsable", "quiet", "requeue", "signal", "test-only", "uid", "wait", "wrap"),
    )
)
"""Options of sbatch that the watcher needs as it sets them."""

_EXTRA: Final = re.compile(r"--([a-z][a-z0-9-]*)(=[A-Za-z0-9_.,:;&|*()@+=/\[\]!%-]*)?")


def _extra(option: str) -> str:
    """An option of sbatch that may be given besides ours."""
    match = _EXTRA.fullmatch(option)
    if match is None:
        raise ValueError(f"{option!r} is not of the form --name or --name=value without spaces or quotes")
    if match[1] in RESERVED:
        raise ValueError(f"--{match[1]} is set by tapestry itself")
    return option


def _one_line(text: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("must be one line without control characters")
    return text


Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:&|*()@+=/\[\]!-]{1,256}$")]
"""What Slurm calls a partition, account or feature: no spaces, quotes, `#`, `$`, or line ends."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_one_line)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
LabelName = Annotated[
    str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
]
DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$")]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(?:\.[0-9]{1,6})?(?:m|[kKMGTPE]i?)?$")]
PodPath = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_-][A-Za-z0-9._/-]{0,250}$")]
SubPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._/-]{0,250}$")]
Environment = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.:_-]{1,64}$")]


class Table(BaseModel):
    """What every cluster's table has. Frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 10
    """How often the ranks are started again inside one job before it ends and another is submitted."""
    interface: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:=^,-]{1,64}$")] | None = None
    """Network interface over which the hosts' ranks talk, if not the one their names resolve to."""
    poll_s: Annotated[float, Field(ge=0.05, le=3600, allow_inf_nan=False, strict=False)] = 30.0
    """Seconds between two questions to the scheduler, at most."""


class Slurm(Table):
    """`[slurm]`, of launchers slurm and submitit. None leaves a matter to the site."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time_limit: (
        Annotated[
            str,
            StringConstraints(pattern=r"^(?:\d{1,4}-)?\d{1,6}(?::\d{1,2}){0,2}$"),
        ]
        | None
    ) = None
    """Of one job, as sbatch has it: minutes, hours:minutes:seconds, days-hours."""
    memory: Annotated[str, StringConstraints(pattern=r"^\d{1,12}[KMGT]?$")] | None = None
    """Of each host; 0 for all it has."""
    gpus_per_host: Annotated[int, Field(ge=0, le=1024)] | None = None
    """None: as many as processes with device cuda, else 0."""
    cpus_per_process: Annotated[int, Field(ge=1, le=4096)] | None = None
    """None: as many as threads."""
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """Where the ranks of several hosts meet, on the first. None: 20000 to 39999, by the job's number."""
    python: Line | None = None
    """Python that the hosts run; None: the one that runs the node."""
    extra: Annotated[
        tuple[Annotated[str, AfterValidator(_extra)], ...], Field(max_length=64, strict=False)
    ] = ()
    """More options of sbatch, each --name or --name=value."""
    setup: Annotated[tuple[Line, ...], Field(max_length=64, strict=False)] = ()
    """Shell commands that the job runs first: module load, export."""


class Toleration(BaseModel):
    """As in a pod's specification."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: LabelName | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: Label | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Volume(BaseModel):
    """One more claim that the pods mount: the text, where it lies outside the home."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    claim: DnsName
    mount_path: PodPath
    sub_path: SubPath | None = None
    read_only: bool = True


class Kubernetes(Table):
    """`[kubernetes]`. The cluster's defaults hold where nothing is given."""

    image: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}$")]
    """With this release of Tapestry and its extra `node`."""
    claim: DnsName
    """PersistentVolumeClaim with the node's home; of the kind that many hosts mount at once."""
    mount_path: PodPath = "/node"
    """The home, as the pods see it."""
    sub_path: SubPath | None = None
    """Folder of the volume that is the home; None where the volume itself is."""
    namespace: DnsName = "default"
    context: Environment | None = None
    """Of the kubeconfig; None: its current one."""
    python: PodPath | Literal["python", "python3"] = "python3"
    gpu_resource: LabelName = "nvidia.com/gpu"
    gpus_per_host: Annotated[int, Field(ge=0, le=1024)] | None = None
    """None: as many as processes with device cuda, else 0."""
    cpu_request: Quantity | None = None
    """None: processes times threads."""
    cpu_limit: Quantity | None = None
    memory_request: Quantity | None = None
    memory_limit: Quantity | None = None
    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, which NCCL uses; it counts as the pod's memory."""
    run_as_user: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Owner of the home; None: the user that runs the node, unless that is root."""
    run_as_group: Annotated[int, Field(ge=1, le=2**31)] | None = None
    time_limit_s: Annotated[int, Field(ge=60, le=10**8)] | None = None
    node_selector: Annotated[dict[LabelName, Label], Field(max_length=32)] = Field(default_factory=dict)
    labels: Annotated[dict[LabelName, Label], Field(max_length=32)] = Field(default_factory=dict)
    """More labels of the job, such as the queue of a batch scheduler."""
    service_account: DnsName | None = None
    """Its token is not mounted."""
    priority_class: DnsName | None = None
    runtime_class: DnsName | None = None
    pull_secret: DnsName | None = None
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32, strict=False)] = ()
    volumes: Annotated[tuple[Volume, ...], Field(max_length=32, strict=False)] = ()


class LaunchSettings(BaseModel):
    """What of `node.toml` says how the ranks are started."""

    model_config = ConfigDict(frozen=True)

    training: TrainerSettings
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes | None = None


def load(home: Path) -> LaunchSettings:
    """Raises `SettingsError` naming the file and the key."""
    path = home / "node.toml"
    training = TrainerSettings.load(home)
    try:
        table: dict[str, Any] = tomllib.loads(files.read_limited(path, MAX_SETTINGS_BYTES).decode("utf-8"))
    except (OSError, ValueError, TapestryError) as e:
        raise SettingsError(f"{path} cannot be read: {e}") from e
    given = {key: table[key] for key in ("slurm", "kubernetes") if key in table}
    try:
        return LaunchSettings.model_validate({**given, "training": training})
    except ValidationError as e:
        raise SettingsError(f"{path}: {explain(e)}", hint=HINT) from e
