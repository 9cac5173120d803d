"""The demo from beginning to end: lay out, start, watch, then export, measure and show."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli.demo import cards, defaults, display, lay, report, settings
from tapestry.cli.demo import compare as comparison
from tapestry.cli.demo import result as results
from tapestry.cli.demo.cards import KeptOut
from tapestry.cli.demo.children import Children
from tapestry.cli.demo.dashboard import Dashboard
from tapestry.cli.demo.display import MemberView, Snapshot
from tapestry.cli.demo.places import Places
from tapestry.cli.demo.result import MemberResult, Result
from tapestry.cli.output import emit_json, note
from tapestry.errors import MergeMismatch, ProcessDied
from tapestry.node import account
from tapestry.node.home import Home

if TYPE_CHECKING:
    from tapestry.cli.demo.settings import Asked
    from tapestry.cli.demo.texts import MemberText
    from tapestry.core.service import Core

POLL_S: Final = 0.25
START_S: Final = 60.0
CORE: Final = "core"
MAX_STATUS_BYTES: Final = 1 << 20


def demo(asked: Asked, out: Path, *, as_json: bool, web: bool = False) -> None:
    """Run, or go on with, the demo at `out`; show its result.

    Raises:
        TapestryError: what core, node or trainer ended with; the same call goes on from there.
    """
    places = Places(out)
    found = results.load(places.result)
    if found is None or (asked.compare and not found.compared):
        try:
            found = _run(asked, places, web=web)
        except KeyboardInterrupt:
            note(f"stopped; the same command goes on from here: --out {out}")
            raise
    if as_json:
        emit_json(found.to_json())
    else:
        report.print_result(found)


def _run(asked: Asked, places: Places, *, web: bool) -> Result:
    from tapestry.core.service import Core
    from tapestry.host import files

    places.out.mkdir(parents=True, exist_ok=True)
    with files.Lock(places.out), _Clock(places.clock) as clock:
        if settings.load(places.out) is None:
            settings.save(asked.settings, places.out)
        members = lay.members(asked.settings, places)
        lay.core(places)
        lay.nodes(members, places, threads=max(1, (os.cpu_count() or 1) // len(members)))
        cards.make(members, places, own_text=asked.settings.corpora is not None)
        kept_out = cards.keep_out(members, places)
        with Core.open(places.core) as opened:
            lay.plan(asked.settings, opened, places)
            _train(members, places, opened, kept_out, web=web)
            return _finish(members, places, opened, clock, kept_out, compare=asked.compare)


class _Clock:
    """Seconds of this call and of all calls before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._before = 0.0

    def __enter__(self) -> _Clock:
        with suppress(OSError, ValueError, TypeError):
            self._before = float(json.loads(self._path.read_bytes()))
        return self

    def __exit__(self, *_: object) -> None:
        from tapestry.host import files

        files.write_atomic(self._path, json.dumps(self.seconds).encode())

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began


def _train(members: list[MemberText], places: Places, opened: Core, kept_out: KeptOut, *, web: bool) -> None:
    """Core and nodes as processes, until every node has the last base and has scored it."""
    if _complete(members, opened):
        return
    children = Children(places.logs)
    try:
        with display.choose() as shown:
            children.start(CORE, "core", "serve", str(places.core))
            shown.say(f"{len(members)} members, each with its own text, keys and node, in {places.out}")
            url = _serving_url(places, children)
            lay.join(members, places, url)
            for member in members:
                children.start(member.name, "node", "run", str(places.node(member.name)), "--once")
            shown.say(f"kept out of training: {kept_out}")
            shown.say("starting trainers; none of them has a network")
            look = Dashboard(children, places.node(members[0].name), url) if web else None
            while not _complete(members, opened):
                children.check()
                if look is not None and (news := look.news()) is not None:
                    shown.say(news)
                shown.update(_snapshot(members, places, opened))
                time.sleep(POLL_S)
            shown.update(_snapshot(members, places, opened))
    except KeyboardInterrupt:
        note("stopping core and nodes; nothing is lost")
        raise
    finally:
        children.stop()


def _serving_url(places: Places, children: Children) -> str:
    """Where the core listens, once it does. Raises `ProcessDied` where it does not come up."""
    from tapestry.core import operator

    deadline = time.monotonic() + START_S
    while (url := operator.serving_url(places.core)) is None:
        children.check()
        if time.monotonic() > deadline:
            raise ProcessDied(
                f"the core did not begin to listen within {START_S:.0f} s",
                hint=f"its log is {children.log(CORE)}; the same command tries again",
            )
        time.sleep(0.05)
    return url


def _complete(members: list[MemberText], opened: Core) -> bool:
    from tapestry.cli.corehome import scores

    state = opened.runs.standing(defaults.RUN).state
    if state.status != "finished":
        return False
    found = scores(opened, defaults.RUN)
    return all(state.merges in found.get(member.name, {}) for member in members)


def _status(places: Places, member: str, name: str) -> dict[str, Any]:
    """What a node's process says of itself; empty while it says nothing."""
    from tapestry.host import files

    with suppress(OSError, ValueError):
        value = json.loads(files.read_limited(places.node(member) / name, MAX_STATUS_BYTES))
        if isinstance(value, dict):
            return value
    return {}


def _traffic(places: Places, member: str) -> tuple[int, int]:
    """Bytes a node has sent and received."""
    traffic = _status(places, member, "status/agent.json").get("traffic") or {}
    return int(traffic.get("sent_bytes", 0)), int(traffic.get("received_bytes", 0))


def _snapshot(members: list[MemberText], places: Places, opened: Core) -> Snapshot:
    from tapestry.cli.corehome import scores
    from tapestry.rounds.waiting import waiting_for

    state = opened.runs.standing(defaults.RUN).state
    found = scores(opened, defaults.RUN)
    views = []
    for member in members:
        trainer = _status(places, member.name, "status/trainer.json")
        phase = str(trainer.get("phase") or "starting")
        progress = {} if phase == "starting" else _status(places, member.name, "spool/train/progress.json")
        sent, received = _traffic(places, member.name)
        views.append(
            MemberView(
                name=member.name,
                about=member.about,
                phase=phase,
                step=int(progress.get("step") or 0),
                steps=int(progress.get("steps") or state.plan.inner.steps_at(state.merges)),
                loss=progress.get("loss"),
                tokens_per_s=progress.get("tokens_per_s"),
                bytes_sent=sent,
                bytes_received=received,
                scores=found.get(member.name, {}),
            )
        )
    current = state.current
    now_ms = opened.journal.now_ms()
    return Snapshot(
        phase=current.phase if current is not None else state.status,
        merges=state.merges,
        rounds=state.plan.rounds.total,
        parameters=state.plan.parameters,
        members=views,
        waiting_for=waiting_for(state, now_ms) if current is None else None,
    )


def _finish(
    members: list[MemberText],
    places: Places,
    opened: Core,
    clock: _Clock,
    kept_out: KeptOut,
    *,
    compare: bool,
) -> Result:
    """Export the base, let it write a little, measure the baselines, keep the result."""
    import shutil

    from tapestry.cli import corehome
    from tapestry.protocol.artifact import State
    from tapestry.training.export import Lineage, export, sample

    state = opened.runs.standing(defaults.RUN).state
    head = State.from_bytes(opened.store.read(state.head, State.MAX_BYTES))
    tokens = corehome.merged_tokens(opened, defaults.RUN)
    if not (places.export / "config.json").is_file():
        shutil.rmtree(places.export, ignore_errors=True)
        lineage = Lineage(
            plan=state.plan.digest,
            rounds=state.head_round,
            members=[member.name for member in members],
            tokens=sum(tokens.values()),
            title=state.plan.title,
            consortium=opened.consortium.id,
        )
        export(head, opened.store, places.export, lineage)
    bigrams, alone, pooled = _baselines(members, places, opened, compare=compare)
    scores = corehome.scores(opened, defaults.RUN)
    shared = []
    for member in members:
        sent, received = _traffic(places, member.name)
        name = member.name
        shared.append(
            MemberResult(
                name=name,
                about=member.about,
                scores=scores[name],
                tokens=tokens[name],
                bytes_sent=sent,
                bytes_received=received,
                egress=str(places.node(name) / "egress.jsonl"),
                bits_per_byte_bigram=bigrams[name],
                bits_per_byte_alone=alone.get(name),
                bits_per_byte_pooled=pooled.get(name),
                times=account.summary(Home(places.node(name))).get(defaults.RUN),
            )
        )
    found = Result(
        run=defaults.RUN,
        rounds=state.merges,
        parameters=state.plan.parameters,
        base=head.base,
        export=str(places.export),
        plot=str(places.plot),
        sample=sample(places.export, defaults.SAMPLE_PROMPT, defaults.SAMPLE_BYTES),
        seconds=clock.seconds,
        compared=compare,
        ledger=_verified(opened),
        kept_out=kept_out.to_json(),
        members=shared,
    )
    report.plot(found, places.plot)
    results.save(found, places.result)
    return found


def _verified(opened: Core) -> dict[str, Any]:
    """What a verification of the whole ledger has seen, its newest merges repeated. Raises `IntegrityError`
    or `MergeMismatch` where it does not hold."""
    from tapestry.cli import verification
    from tapestry.core.proofs import Proofs

    lines = Proofs(opened.journal, opened.consortium).lines(opened.store)
    found, repeated = verification.verify(lines, opened.store, newest=defaults.REPEATED)
    if repeated.differing:
        raise MergeMismatch("; ".join(repeated.told()), hint="verify it yourself: tapestry ledger verify OUT")
    return {**asdict(found), **repeated.to_json()}


def _baselines(
    members: list[MemberText], places: Places, opened: Core, *, compare: bool
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Bits per byte by member: of byte bigrams and, where asked for, of training alone and pooled."""
    from tapestry.training import baselines

    plan = opened.runs.standing(defaults.RUN).state.plan
    request = baselines.Request(
        plan=opened.store.put(plan.to_bytes()),
        blobs=str(opened.store.root),
        members={member.name: str(member.folder) for member in members},
        cache=str(places.cache),
        what=("bigrams",),
    )
    found = baselines.measure(request)["bigrams"]
    bigrams = {name: one["bits_per_byte"] for name, one in found.items()}
    return bigrams, *(comparison.measure(request, places.comparison) if compare else ({}, {}))
