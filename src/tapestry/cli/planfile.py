"""The plan file an operator writes: TOML, from which a run's initial state and its `Plan` are made.

    format = "tapestry.plan-file"
    version = 1
    sync = "replay"

    [run]         name, title, algorithm
    [model]       tokenizer, seed, shard_bytes, and [model.config] in the words of Hugging Face's config.json;
                  or adopt, the folder of a trained model, and licence; add_tokens, a file of tokens to add
    [origin]      instead of [model]: the run, round and state that the run begins with, which repeats another
    [rounds] [inner] [codec] [merge] [streaming] [witness] [evaluation] [retention]     as in the plan itself

The tables of the plan are those of `tapestry.protocol.plan`, so a field is described in one place.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from tapestry.cli import tomlfile
from tapestry.cli.tomlfile import as_tuples, describe, faults, line_of
from tapestry.errors import PlanError
from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName, with_algorithm
from tapestry.protocol.canonical import Name, Sha256, is_name
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import DEFAULT_SHARD_BYTES, MAX_SHARD_BYTES, MIN_SHARD_BYTES
from tapestry.protocol.message import Part
from tapestry.protocol.plan import (
    Evaluation,
    Inner,
    Merge,
    Origin,
    Plan,
    Retention,
    Rounds,
    Streaming,
    TrainingStage,
    Witness,
    check_feedback,
    check_overlap,
    check_witness,
)

FORMAT: Final = "tapestry.plan-file"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 18
REVEAL_S: Final = 600.0
LARGEST_OVERLAP: Final = 0.6
"""Honest updates come to 0.32 of it (benchmarks/results, `copies`)."""


class RunTable(Part):
    """[run]"""

    name: Name
    title: Annotated[str, StringConstraints(max_length=200)] = ""
    stage: TrainingStage = "base"
    """What the run is to a dataset, whose card says for which of them it may be used."""
    algorithm: AlgorithmName | None = None
    """Fields of [inner], [codec] and [merge] that are not given are this algorithm's."""


class ModelTable(Part):
    """[model]: what the initial state is made from."""

    tokenizer: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = "byte"
    """`byte`, or the folder of a tokenizer in Hugging Face's format, relative to the plan file."""
    seed: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] = 0
    shard_bytes: Annotated[int, Field(ge=MIN_SHARD_BYTES, le=MAX_SHARD_BYTES)] = DEFAULT_SHARD_BYTES
    adopt: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """Folder of a trained model in Hugging Face's format, relative to the plan file, to start from instead of
    from `config`, `tokenizer` and `seed`."""
    licence: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Of the adopted model; where its README.md says it, this may be left out."""
    add_tokens: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """File of tokens to add to the tokenizer, one a line or a JSON list, relative to the plan file."""
    config: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Any] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> ModelTable:
        if (self.adopt is None) == (self.config is None):
            raise ValueError("either model.config or model.adopt is needed, and not both")
        if self.adopt is not None and self.model_fields_set & {"tokenizer", "seed"}:
            raise ValueError("an adopted model has its own tokenizer and needs no seed")
        if self.adopt is None and self.licence is not None:
            raise ValueError("licence is of an adopted model")
        return self

    @field_validator("config")
    @classmethod
    def _plain(cls, config: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, value in (config or {}).items():
            if isinstance(value, datetime.date | datetime.time):
                raise ValueError(f"{name} is a date or time, which no model has")
        return config


class OriginTable(Part):
    """[origin]: where a run begins that repeats another from the middle."""

    run: Name
    round: Annotated[int, Field(ge=0, le=1 << 40)]
    """The last one that stays as it was."""
    state: Sha256
    """That the one after it began with."""


class PlanFile(Part):
    """A whole plan file."""

    format: Literal["tapestry.plan-file"]
    version: Literal[1]
    sync: Literal["replay", "fetch"] = "replay"
    run: RunTable
    model: ModelTable | None = None
    origin: OriginTable | None = None
    rounds: Rounds
    inner: Inner
    codec: Codec = PLAIN
    merge: Merge = Merge()
    streaming: Streaming = Streaming()
    witness: Witness = Witness()
    evaluation: Evaluation = Evaluation()
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _feasible(self) -> PlanFile:
        if (self.model is None) == (self.origin is None):
            raise ValueError("either [model] or [origin] is needed, and not both")
        if self.origin is not None and self.origin.run == self.run.name:
            raise ValueError("a run cannot repeat itself: give it a name other than origin.run")
        if self.rounds.quorum > self.rounds.min_nodes:
            raise ValueError(
                f"rounds.quorum {self.rounds.quorum} is above rounds.min_nodes {self.rounds.min_nodes}"
            )
        check_feedback(self.codec, self.merge, self.streaming)
        check_overlap(self.rounds, self.inner, self.streaming)
        check_witness(self.rounds, self.witness, self.sync)
        return self

    def plan(
        self,
        *,
        model: str,
        layout: str,
        initial_state: str,
        parameters: int,
        revision: int = 1,
        origin: Origin | None = None,
    ) -> Plan:
        """The plan, once the initial state exists. Raises `PlanError` where the parts do not agree."""
        try:
            return Plan(
                run=self.run.name,
                title=self.run.title,
                revision=revision,
                model=model,
                layout=layout,
                initial_state=initial_state,
                parameters=parameters,
                rounds=self.rounds,
                inner=self.inner,
                codec=self.codec,
                merge=self.merge,
                streaming=self.streaming,
                witness=self.witness,
                evaluation=self.evaluation,
                retention=self.retention,
                sync=self.sync,
                stage=None if self.run.stage == "base" else self.run.stage,
                origin=origin,
            )
        except ValidationError as e:
            raise PlanError(
                describe(e, "", "the plan"),
                hint="see docs/guides/plan-file.md for every field and its limits",
            ) from e


def _hint(error: ValidationError) -> str:
    first = faults(error)[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        model: Any = PlanFile
        for part in where[:-1]:
            field = getattr(model, "model_fields", {}).get(part)
            model = field.annotation if field is not None else None
        known = getattr(model, "model_fields", None)
        if known:
            return "fields here: " + ", ".join(known)
    return "examples/plan.toml is a plan with every field"


def parse(data: bytes, *, what: str) -> PlanFile:
    """A plan file from its bytes; `what` names it in errors. Raises `PlanError`."""
    value, text = tomlfile.read(
        data, what=what, format=FORMAT, version=VERSION, max_bytes=MAX_BYTES, error=PlanError
    )
    run = value["run"] if isinstance(value.get("run"), dict) else {}
    algorithm = run.get("algorithm")
    if isinstance(algorithm, str) and algorithm in ALGORITHMS:
        value = with_algorithm(algorithm, value)
    value = _overlap(_reveals(_witnesses(_steps_of_tokens(value, what))))
    name = value["run"].get("name") if isinstance(value.get("run"), dict) else None
    if isinstance(name, str) and not is_name(name):
        line = line_of(text, ["run", "name"])
        raise PlanError(
            f"{what}, line {line}: run.name: {name[:80]!r} cannot be a run's name",
            hint="take a-z, 0-9, '.', '_' and '-', at most 64 characters, a letter or digit first and last",
        )
    listed = {table: value[table] for table in ("inner", "codec", "witness") if table in value}
    try:
        return PlanFile.model_validate({**value, **as_tuples(listed)})
    except ValidationError as e:
        raise PlanError(describe(e, text, what), hint=_hint(e)) from e


def _steps_of_tokens(value: dict[str, Any], what: str) -> dict[str, Any]:
    """`inner.tokens`, where a round is given in tokens, as `inner.steps`: at least so many."""
    inner = value.get("inner")
    if not isinstance(inner, dict) or "tokens" not in inner:
        return value
    inner = dict(inner)
    tokens = inner.pop("tokens")
    if "steps" in inner:
        raise PlanError(f"{what}: inner.steps and inner.tokens both say how long a round is", hint="take one")
    if type(tokens) is not int or tokens < 1:
        raise PlanError(
            f"{what}: inner.tokens is a whole number of tokens, not {tokens!r}",
            hint="write a number like 1000000, without quotes",
        )
    fields = Inner.model_fields
    each = 1
    for name in ("sequence_length", "batch_sequences", "accumulation"):
        given = inner.get(name, fields[name].default)
        each *= given if type(given) is int and given > 0 else 1  # what is wrong with it is said later
    return {**value, "inner": {**inner, "steps": -(-tokens // each)}}


def _witnesses(value: dict[str, Any]) -> dict[str, Any]:
    """With `witness.quorum`, where it is not given, as a majority: of the members named, or of as many as
    there are nodes at least, as far as nodes repeat merges at all."""
    table, rounds = value.get("witness", {}), value.get("rounds", {})
    if not isinstance(table, dict) or not isinstance(rounds, dict) or "quorum" in table:
        return value
    named, nodes = table.get("members", ()), rounds.get("min_nodes", 1)
    if value.get("sync", "replay") != "replay" and not named:
        return value
    if not isinstance(named, list | tuple) or type(nodes) is not int:  # what is wrong with it is said later
        return value
    return {**value, "witness": {**table, "quorum": (len(named) or nodes) // 2 + 1}}


def _reveals(value: dict[str, Any]) -> dict[str, Any]:
    """With `rounds.reveal_s`, where it is not given, but for rounds that late contributions may enter: there
    nobody is to wait. 0 is to have none."""
    rounds = value.get("rounds")
    if not isinstance(rounds, dict):
        return value
    rounds = {"reveal_s": 0 if rounds.get("staleness") else REVEAL_S, **rounds}
    if type(rounds["reveal_s"]) in (int, float) and not rounds["reveal_s"]:
        del rounds["reveal_s"]
    return {**value, "rounds": rounds}


def _overlap(value: dict[str, Any]) -> dict[str, Any]:
    """With `merge.largest_overlap`, where it is not given, as measured (docs/decisions/0019). 0 is to have
    none."""
    table = value.get("merge", {})
    if not isinstance(table, dict):
        return value
    table = {"largest_overlap": LARGEST_OVERLAP, **table}
    if type(table["largest_overlap"]) in (int, float) and not table["largest_overlap"]:
        del table["largest_overlap"]
    return {**value, "merge": table}


def load(path: Path) -> PlanFile:
    """Read and validate a plan file; paths of tokenizer, model and tokens to add become absolute."""
    data = tomlfile.bytes_of(path, kind="a plan file", max_bytes=MAX_BYTES, error=PlanError)
    file = parse(data, what=str(path))
    if file.model is None:
        return file
    table, found = file.model, {}
    if table.adopt is not None:
        found["adopt"] = _beside(path, "adopt", table.adopt)
    elif table.tokenizer != "byte":
        found["tokenizer"] = _beside(path, "tokenizer", table.tokenizer)
    if table.add_tokens is not None:
        found["add_tokens"] = _beside(path, "add_tokens", table.add_tokens)
    return file.model_copy(update={"model": table.model_copy(update=found)})


_KINDS: Final = {
    "adopt": ("folder", "a model's folder"),
    "tokenizer": ("folder", '"byte", or a tokenizer\'s folder'),
    "add_tokens": ("file", "a file with one token a line"),
}
"""Fields of [model] that are paths: of what, and what to take."""


def _beside(plan: Path, field: str, given: str) -> str:
    """Where a path that is relative to the plan file leads. Raises `PlanError`."""
    kind, wanted = _KINDS[field]
    try:
        found = (plan.parent / given).resolve()
        fits = found.is_dir() if kind == "folder" else found.is_file()
    except (OSError, ValueError) as e:  # no name that a file can have
        raise PlanError(
            f"{plan}: model.{field}: {given[:80]!r} is not a {kind}: {e}", hint=f"take {wanted}"
        ) from e
    if not fits:
        raise PlanError(f"{plan}: model.{field}: {found} is not a {kind}", hint=f"take {wanted}")
    return str(found)
