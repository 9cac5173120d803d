"""`node.toml`: what the owner of a node decides."""

from __future__ import annotations

import fnmatch
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.node.home import Home
from tapestry.protocol.canonical import Name
from tapestry.protocol.layout import DEFAULT_SHARD_BYTES, MAX_BLOB_BYTES
from tapestry.protocol.message import explain
from tapestry.training.clusters.settings import Kubernetes, Slurm
from tapestry.training.settings import Training
from tapestry.transport.observe import MetricsSection

MAX_SETTINGS_BYTES = 64 << 10
MIN_CHUNK_BYTES = 64 << 10

Publish = Literal["all", "scores", "none"]
"""How much of what a node measures leaves it: losses and scores, scores only, or neither."""
Mirror = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""An address (http, https) or a folder; relative ones lie below the node's home."""
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]
"""A user of this machine, by name or number."""
RunPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*?._-]{1,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NodeSection(_Section):
    member: Name
    name: Name
    publish: Publish = "all"
    approve: bool = False
    """Whether each update waits for the owner's word before it leaves: tapestry node egress pending."""
    agent_user: UserName | None = None
    """Under whom the agent runs, where the node is started as root; see `node.agent_user`."""
    runs: Annotated[tuple[RunPattern, ...], Field(min_length=1, max_length=64, strict=False)] = ("*",)
    """Runs this node takes part in, as shell patterns."""


class TransferSection(_Section):
    chunk_bytes: Annotated[int, Field(ge=MIN_CHUNK_BYTES, le=MAX_BLOB_BYTES)] = DEFAULT_SHARD_BYTES
    """Bytes of one upload request; a broken one is gone on with, not begun again."""
    parallel: Annotated[int, Field(ge=1, le=16)] = 4
    """Blobs in flight at once."""
    direct: bool = False
    """Whether the agent also talks to the object store that the core names, by signed URLs."""


class LedgerSection(_Section):
    mirrors: Annotated[tuple[Mirror, ...], Field(max_length=16, strict=False)] = ()
    """Static mirrors of the ledger, whose heads are held against what the core shows this node."""


def folder_of(home: Home, source: str) -> Path | None:
    """Where a mirror lies that is a folder; None for one that is fetched."""
    if source.startswith(("http://", "https://")):
        return None
    return home.root / Path(source).expanduser()


class NodeSettings(_Section):
    """All of node.toml."""

    node: NodeSection
    training: Training
    transfer: TransferSection = TransferSection()
    ledger: LedgerSection = LedgerSection()
    metrics: MetricsSection = MetricsSection()
    slurm: Slurm | None = None
    """For launchers slurm and submitit; None leaves all to the site."""
    kubernetes: Kubernetes | None = None
    """For launcher kubernetes, which needs it."""

    @model_validator(mode="after")
    def _table_of_the_launcher(self) -> NodeSettings:
        if self.training.launcher == "kubernetes" and self.kubernetes is None:
            raise ValueError("launcher kubernetes needs the table [kubernetes] with image and claim")
        return self

    @model_validator(mode="after")
    def _user_beside_a_local_trainer(self) -> NodeSettings:
        if self.node.agent_user is not None and self.training.launcher != "local":
            raise ValueError("node.agent_user needs launcher local: a cluster's files are not this machine's")
        return self

    def takes_part_in(self, run: str) -> bool:
        return any(fnmatch.fnmatchcase(run, pattern) for pattern in self.node.runs)

    def corpus_path(self, home: Home) -> Path:
        return home.root / Path(self.training.corpus).expanduser()


def parse(text: str, where: Path) -> NodeSettings:
    """Settings from TOML. Raises `SettingsError` naming the file and the field."""
    try:
        return NodeSettings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise SettingsError(f"{where} is not valid TOML: {e}") from e
    except ValidationError as e:
        raise SettingsError(f"{where}: {explain(e)}", hint="correct that field and start again") from e


def load(home: Home) -> NodeSettings:
    """The settings of a home. Raises `SettingsError`."""
    home.check()
    try:
        text = files.read_limited(home.settings, MAX_SETTINGS_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, TapestryError) as e:
        raise SettingsError(f"{home.settings} cannot be read: {e}") from e
    return parse(text, home.settings)


def _toml(value: Any) -> str:
    """A value in TOML, tables inline; strings as in JSON, but characters beyond ASCII stand as they are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(name: str, given: BaseModel | None) -> str:
    """A table of its own with what is not left to the defaults; nothing where there is none."""
    if given is None:
        return ""
    values = given.model_dump(exclude_defaults=True, exclude_none=True)
    return f"\n[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def render(settings: NodeSettings) -> str:
    """The settings as a commented file."""
    node, training, transfer = settings.node, settings.training, settings.transfer
    ledger = settings.ledger if settings.ledger.mirrors else None
    metrics = settings.metrics if settings.metrics.port is not None else None
    more = {"ledger": ledger, "metrics": metrics, "slurm": settings.slurm, "kubernetes": settings.kubernetes}
    tables = "".join(_table(name, given) for name, given in more.items())
    return f"""\
# Settings of a Tapestry node. See docs/guides/run-a-node.md.

[node]
member = {_toml(node.member)}
name = {_toml(node.name)}
# What this node measures and publishes: "all" (losses and scores), "scores", "none".
publish = {_toml(node.publish)}
# Whether each update waits for your word before it leaves: tapestry node egress pending HOME.
approve = {_toml(node.approve)}
# A user who owns nothing, under whom the agent runs where the node is started as root.
{_optional("agent_user", node.agent_user, "tapestry-agent")}
# Runs to take part in; "*" stands for all.
runs = {_toml(list(node.runs))}

[training]
# Folder with train.* and valid.* (.jsonl or .txt). It is read by the trainer alone.
corpus = {_toml(training.corpus)}
# Country this node stands in (ISO 3166-1, two letters). Text is only trained on where its card allows.
{_optional("residency", training.residency, "CH")}
threads = {training.threads}
# Seconds between two checkpoints inside a round.
checkpoint_s = {float(training.checkpoint_s)}
# "cpu" or "cuda"; passes in "fp32" or "bf16".
device = {_toml(training.device)}
precision = {_toml(training.precision)}
# Processes that share the model and each batch, on each host; one a GPU. More hosts need a cluster's
# launcher: "slurm", "submitit", "kubernetes". See docs/guides/islands.md.
processes = {training.processes}
hosts = {training.hosts}
min_hosts = {training.min_hosts}
launcher = {_toml(training.launcher)}
# Against too little memory: sequences of one forward pass (0: all of a rank's part of a batch), and
# activations computed again instead of kept.
sequences_at_once = {training.sequences_at_once}
recompute_activations = {str(training.recompute_activations).lower()}
compile = {str(training.compile).lower()}

[transfer]
chunk_bytes = {transfer.chunk_bytes}
parallel = {transfer.parallel}
# true: fetch from and send to the core's object store where the core offers it; the agent then talks to the
# hosts that the core names.
direct = {str(transfer.direct).lower()}
{tables}"""


def _optional(key: str, value: str | None, example: str) -> str:
    return f"# {key} = {_toml(example)}" if value is None else f"{key} = {_toml(value)}"


def make(
    *,
    member: str,
    name: str,
    corpus: Path | str,
    publish: Publish = "all",
    runs: tuple[str, ...] = ("*",),
    threads: int | None = None,
    checkpoint_s: float = 60.0,
    device: str = "cpu",
    residency: str | None = None,
    agent_user: str | None = None,
) -> NodeSettings:
    """Checked settings. Raises `SettingsError` naming the field."""
    if any("\ud800" <= letter <= "\udfff" for letter in str(corpus)):
        raise SettingsError("node settings: training.corpus: the folder's name is not valid UTF-8")
    try:
        return NodeSettings.model_validate(
            {
                "node": {
                    "member": member,
                    "name": name,
                    "publish": publish,
                    "agent_user": agent_user,
                    "runs": runs,
                },
                "training": {
                    "corpus": str(corpus),
                    "threads": threads or max(1, min(8, os.cpu_count() or 1)),
                    "checkpoint_s": checkpoint_s,
                    "device": device,
                    "residency": residency,
                },
            }
        )
    except ValidationError as e:
        raise SettingsError(f"node settings: {explain(e)}") from e
