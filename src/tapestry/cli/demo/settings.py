"""What one demo was asked for, kept beside its output so that a second call can go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from tapestry.cli.demo import defaults
from tapestry.errors import FormatError, InputError
from tapestry.host import files
from tapestry.protocol.algorithms import AlgorithmName
from tapestry.protocol.message import Part, explain

FILE: Final = "demo.json"
MAX_BYTES: Final = 1 << 20


class DemoSettings(Part):
    """All that changes what is trained. Another value of any of them is another demo."""

    format: Literal["tapestry.demo"] = "tapestry.demo"
    version: Literal[1] = 1
    nodes: Annotated[int, Field(ge=1, le=64)]
    rounds: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    corpora: str | None
    """Absolute path; None stands for the standard library."""
    algorithm: AlgorithmName | None = None
    """None stands for the demo's own settings."""
    build: bool = False
    """Whether part of the first member's text is kept from the run, for a model of its own."""


class Asked(Part):
    """Settings, and the wish for the comparison, which may be added later."""

    settings: DemoSettings
    compare: bool


def load(out: Path) -> DemoSettings | None:
    """The settings of an earlier call with this `out`; None where there was none."""
    path = out / FILE
    if not path.is_file():
        return None
    try:
        return DemoSettings.model_validate_json(files.read_limited(path, MAX_BYTES))
    except ValidationError as e:
        raise FormatError(
            f"{path} is not what this release wrote: {explain(e)}",
            hint="give another --out, or remove the folder",
        ) from e


def save(settings: DemoSettings, out: Path) -> None:
    files.write_atomic(out / FILE, settings.model_dump_json(indent=1).encode() + b"\n")


_OPTIONS: Final = {
    "nodes": "--nodes",
    "rounds": "--rounds",
    "steps": "--steps",
    "seed": "--seed",
    "corpora": "--corpora",
    "algorithm": "--algorithm",
    "build": "--build",
}


def choose(
    *,
    out: Path,
    nodes: int | None,
    rounds: int | None,
    steps: int | None,
    seed: int | None,
    corpora: Path | None,
    algorithm: str | None = None,
    compare: bool,
    build: bool = False,
) -> Asked:
    """The settings to run with: those of an unfinished demo at `out`, or new ones with the defaults.

    Raises:
        InputError: `out` holds a demo with other settings, or something that is no demo.
    """
    given = {
        "nodes": nodes,
        "rounds": rounds,
        "steps": steps,
        "seed": seed,
        "corpora": None if corpora is None else str(corpora.absolute()),
        "algorithm": algorithm,
        "build": build or None,
    }
    asked = {name: value for name, value in given.items() if value is not None}
    before = load(out)
    if before is not None:
        kept = before.model_dump()
        other = [name for name, value in asked.items() if kept[name] != value]
        if other:
            name = other[0]
            if name == "build":
                raise InputError(
                    f"{out} holds a demo without --build: all text of its members went into the run",
                    hint="give another --out, and --build from the start",
                )
            raise InputError(
                f"{out} holds a demo with {_OPTIONS[name]} {kept[name]}, not {asked[name]}",
                hint="give the same options to go on with it, another --out for a new demo, "
                f"or remove the folder: rm -r {out}",
            )
        return Asked(settings=before, compare=compare)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and holds no demo", hint="give --out a folder that is new or empty")
    return Asked(settings=_new(asked, corpora), compare=compare)


def _new(asked: dict[str, Any], corpora: Path | None) -> DemoSettings:
    from tapestry.cli.demo import texts

    nodes = asked.get("nodes")
    if nodes is None:
        nodes = len(texts.from_folder(None, corpora)) if corpora is not None else defaults.NODES
    values = {"rounds": defaults.ROUNDS, "steps": defaults.STEPS, "seed": defaults.SEED, "corpora": None}
    try:
        return DemoSettings.model_validate({**values, **asked, "nodes": nodes})
    except ValidationError as e:
        raise InputError(
            f"demo settings: {explain(e)}", hint="see tapestry demo --help for what each option takes"
        ) from e
