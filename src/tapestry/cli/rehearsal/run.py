"""A rehearsal from beginning to end: set up, one fault after the other, a last check, the report."""

from __future__ import annotations

import datetime
import os
import platform
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tapestry import __version__
from tapestry.cli.demo.places import Places
from tapestry.cli.output import note
from tapestry.cli.rehearsal import closing, defaults, telling
from tapestry.cli.rehearsal.fault import Fault, NotSeen, Stage
from tapestry.cli.rehearsal.faults import FAULTS
from tapestry.cli.rehearsal.pages import write
from tapestry.cli.rehearsal.scene import Scene
from tapestry.cli.rehearsal.told import Chapter, Report
from tapestry.errors import InputError, ProcessDied, TapestryError
from tapestry.protocol.clock import format_time

if TYPE_CHECKING:
    from tapestry.cli.rehearsal.telling import Teller

WARM_UP_MERGES: Final = 2
NOT_REACHED: Final = "an earlier fault left the consortium unable to go on"


def chosen(names: Sequence[str]) -> tuple[Fault, ...]:
    """The faults of these names, in the order in which they are rehearsed; all if none is named.

    Raises:
        InputError: there is no such fault.
    """
    known = [fault.key for fault in FAULTS]
    for name in names:
        if name not in known:
            raise InputError(f"there is no fault {name[:80]!r}", hint=f"these are: {', '.join(known)}")
    return tuple(fault for fault in FAULTS if not names or fault.key in names)


def rehearse(out: Path, *, quick: bool, faults: Sequence[Fault] = FAULTS) -> Report:
    """Rehearse in a folder that is new or empty; the report lies there, too.

    Args:
        out: everything stays there.
        quick: a smaller model, and fewer rounds between the faults.
        faults: what is rehearsed.

    Raises:
        InputError: there is something in `out`.
        TapestryError: the consortium could not be set up.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} exists and is not empty", hint=f"give --out another folder, or remove it: rm -r {out}"
        )
    from tapestry.host import files

    out.mkdir(parents=True, exist_ok=True)
    began = format_time(datetime.datetime.now(datetime.UTC))
    size = defaults.QUICK if quick else defaults.FULL
    scene = Scene(Places(out.absolute()), size, thorough=not quick)
    try:
        with files.Lock(out), telling.choose() as teller:
            teller.say(f"a consortium of {defaults.MEMBERS} is set up in {out}")
            with scene.set_up():
                return _played(scene, teller, began, faults, quick=quick)
    except KeyboardInterrupt:
        note(f"stopped, with every process; a rehearsal is not gone on with: rm -r {out}")
        raise


def _played(scene: Scene, teller: Teller, began: str, faults: Sequence[Fault], *, quick: bool) -> Report:
    names = ", ".join(member.name for member in scene.members)
    teller.say(f"core and nodes run, each a process of its own: {names}")
    teller.waits("the first merges")
    try:
        scene.until("the first merges", lambda: scene.state().merges >= WARM_UP_MERGES)
    except NotSeen as error:
        raise ProcessDied(
            f"the consortium does not train: {error}",
            hint=f"logs are in {scene.places.logs} and in each node's folder; is the machine very busy?",
        ) from error
    teller.say(f"{scene.state().merges} merges, each repeated and signed by a quorum of members")
    chapters: list[Chapter] = []
    broken = False
    for number, fault in enumerate((*faults, closing.CLOSING), start=1):
        teller.begins(number, len(faults) + 1, fault)
        chapter = _play(scene, teller, fault, skip=broken)
        chapters.append(chapter)
        teller.ends(chapter)
        broken = broken or chapter.failure is not None
    members = closing.members(
        scene, {scene.members[f.member].name: f.part for f in faults if f.member is not None}
    )
    report = Report(
        release=__version__,
        began=began,
        seconds=round(scene.seconds, 1),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        consortium=scene.opened.consortium.id,
        quick=quick,
        passed=all(map(telling.good, chapters)),
        members=members,
        chapters=tuple(chapters),
        figures=closing.figures(scene),
        merges=tuple(scene.merges),
    )
    write(report, scene.places.out)
    return report


def _play(scene: Scene, teller: Teller, fault: Fault, *, skip: bool) -> Chapter:
    stage = Stage(fault, teller, scene.seconds)
    if skip:
        return stage.chapter(scene.seconds, NOT_REACHED)
    try:
        fault.play(scene, stage)
    except (NotSeen, TapestryError) as error:
        _keep(error, scene)
        return stage.chapter(scene.seconds, str(error))
    return stage.chapter(scene.seconds)


def _keep(error: Exception, scene: Scene) -> None:
    """Where it came from, for whoever looks into it."""
    with suppress(OSError):
        path = scene.places.logs / "rehearsal.log"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
