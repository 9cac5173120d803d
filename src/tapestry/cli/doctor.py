"""`tapestry doctor`: is this machine fit, or this core, or this node, and if not, what mends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from tapestry.cli.checkup import machine
from tapestry.cli.checkup.finding import Finding
from tapestry.cli.output import emit_json, emit_table, note

DEFAULT_PORT: Final = 8440
DEFAULT_ROUNDS: Final = 100
EXIT_UNFIT: Final = 6


def of_machine(home: Path, port: int | None) -> Iterator[Finding]:
    """The machine itself; without its port where a core has one of its own."""
    checks: list[Callable[[], Finding]] = [
        machine.check_python,
        machine.check_packages,
        machine.check_torch,
        lambda: machine.check_disk(home),
        machine.check_clock,
        machine.check_isolation,
        machine.check_landlock,
        machine.check_limits,
    ]
    for check in checks:
        yield check()
    if port is not None:
        yield machine.check_port(port)


def examine(home: Path, port: int | None, core: Path | None, node: Path | None, rounds: int) -> list[Finding]:
    """Every check, each of which always answers."""
    findings = list(of_machine(core or node or home, None if core or node else port))
    if core is not None:
        from tapestry.cli.checkup.core import of_core

        findings += of_core(core, rounds)
    if node is not None:
        from tapestry.cli.checkup.node import of_node

        findings += of_node(node, rounds)
    return findings


def doctor(
    home: Annotated[Path, typer.Option(help="Folder a core or node is to live in.")] = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port a core is to listen on.")] = DEFAULT_PORT,
    core: Annotated[
        Path | None, typer.Option("--core", metavar="HOME", help="Examine this core as well.")
    ] = None,
    node: Annotated[
        Path | None, typer.Option("--node", metavar="HOME", help="Examine this node as well.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Rounds the disk must have room for.")
    ] = DEFAULT_ROUNDS,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check this machine, a core or a node, and say what mends each finding. Changes nothing.

    A machine: Python, packages, torch and accelerator, disk, clock, network namespace, Landlock, port, open
    files. A core: settings, keys, database, store of blobs, certificate, port, whether it serves and what
    troubles it. A node: settings, keys and their end, text, device, whether the core can be reached, knows
    its key and speaks the same formats, and how far the clocks are apart. Both: room for so many rounds.

    Ends with exit code 6 when something must be mended first.

    Examples: tapestry doctor --home /srv/tapestry

    tapestry doctor --core ./core

    tapestry doctor --node ./node --rounds 500 --json
    """
    if core is None and node is None:
        # Of `os.path`: a folder that is shut to this user is a finding, and no error.
        core = home if os.path.isfile(home / "core.toml") else None  # noqa: PTH113
        node = home if os.path.isfile(home / "node.toml") else None  # noqa: PTH113
    findings = examine(home, port, core, node, rounds)
    if as_json:
        emit_json(
            {"fit": all(f.verdict != "fail" for f in findings), "findings": [asdict(f) for f in findings]}
        )
    else:
        emit_table(("check", "", "found"), [(f.check, f.verdict, f.found) for f in findings])
        for finding in findings:
            if finding.mend:
                note(f"{finding.verdict}: {finding.check}: {finding.mend}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(EXIT_UNFIT)
