"""Which run, and where what is known of it lies: with a core, or at a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tapestry.protocol.views import RoundRecord
    from tapestry.storage.blobs import BlobStore


def run_of(core: Path, given: str | None) -> str:
    from tapestry.cli import corehome
    from tapestry.core.service import Core

    with Core.open(core) as opened:
        return corehome.choose_run(opened.runs.names(), given, where=core)


def one_home(core: Path | None, node: Path | None) -> None:
    from tapestry.errors import InputError

    if (core is None) == (node is None):
        raise InputError(
            "give either --core HOME or --node HOME",
            hint="--core on the core's own machine, --node where a node of yours runs",
        )


def source(core: Path | None, node: Path | None, run: str | None) -> tuple[BlobStore, str, str]:
    """Blobs, run and newest state of a core or of a node's copy."""
    from tapestry.cli import nodehome
    from tapestry.core.service import Core

    one_home(core, node)
    if node is not None:
        return nodehome.head(node, run)
    assert core is not None  # noqa: S101 - `one_home`
    name = run_of(core, run)
    with Core.open(core) as opened:
        return opened.store, name, opened.runs.standing(name).state.head


def records_of(
    core: Path | None, node: Path | None, run: str | None
) -> tuple[BlobStore, list[RoundRecord], str, Path]:
    from tapestry.cli import corehome, nodehome
    from tapestry.core.service import Core

    one_home(core, node)
    if node is not None:
        return (*nodehome.records(node, run), node)
    assert core is not None  # noqa: S101 - `one_home`
    name = run_of(core, run)
    with Core.open(core) as opened:
        return opened.store, corehome.records(opened, name), name, core
