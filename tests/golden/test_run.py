"""A run recorded by the first version, in recorded.json: its ledger must verify for ever, by both verifiers,
and its merges must give the same bases. `TAPESTRY_REWRITE_GOLDEN=1` records another; who needs that breaks
with all ledgers there are."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.references import References
from tapestry.core.service import Core
from tapestry.ledger.entries import Entry
from tapestry.protocol.plan import Plan
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds import events as ev
from tapestry.storage.blobs import BlobStore
from tests.audit import second
from tests.core.support import CoreUnderTest, make_plan

FILE = Path(__file__).with_name("recorded.json")


def record(folder: Path) -> None:
    """Three merges of three members, one of them without one member's; each base signed by two witnesses."""
    core = CoreUnderTest(folder / "core").start()
    plan = make_plan(folder / "seed", total=3, min_nodes=3, quorum=2, deadline_s=3.0, witnesses=2)
    members = core.running(plan, folder / "seed", "ada", "bob", "cyd")
    for number in (1, 2, 3):
        head = members[0].wait(lambda v, n=number: v.current is not None and v.current.round == n).head
        for place, member in enumerate(members[: 2 if number == 2 else 3]):
            checkpoint = member.ask("GET", "/v1/ledger/checkpoint").text
            member.hand_in(plan, 0.5 * place + number, round=number, state=head.state, checkpoint=checkpoint)
        members[0].wait(lambda v, n=number: v.head.merges == n)
        for member in members[:2]:
            assert member.attest().status_code == 200
    members[0].wait(lambda v: v.status == "finished")
    members[0].score(plan, 3.25)
    core.close()
    with Core.open(core.root) as opened:
        lines = Proofs(opened.journal, opened.consortium).lines(opened.store)
        ledger = (file.FIRST + b"".join(map(file.encode, lines))).decode()
        named = sorted(set(References(opened.runs, opened.store.read).named()))
        blobs = {sha: base64.b64encode(zlib.compress(opened.store.read(sha))).decode() for sha in named}
    FILE.write_text(json.dumps({"ledger": ledger, "blobs": blobs}, indent=0) + "\n")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | dict[str, str]]:
    if os.environ.get("TAPESTRY_REWRITE_GOLDEN"):
        record(tmp_path_factory.mktemp("record"))
    found: dict[str, str | dict[str, str]] = json.loads(FILE.read_text())
    return found


@pytest.fixture
def ledger(recorded: dict[str, str], tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    path.write_text(recorded["ledger"])
    return path


def test_it_verifies(ledger: Path) -> None:
    found = Verifier().take(file.read(ledger))
    assert (found.members, found.merges, found.contributions, found.attestations) == (3, 3, 8, 6)


def test_it_verifies_by_other_code(ledger: Path) -> None:
    with ledger.open("rb") as lines:
        assert second.verify(lines).endswith("3 members, 1 runs")


def test_its_merges_give_the_same_bases(
    ledger: Path, recorded: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    store = BlobStore.open(tmp_path / "blobs")
    for sha, packed in recorded["blobs"].items():
        assert store.put(zlib.decompress(base64.b64decode(packed)), durable=False) == sha
    merged = 0
    for plan, opened, closed, committed in rounds(ledger):
        job = MergeJob.of(plan, state=opened.state, contributions=closed.merged, durable=False)
        assert Engine(store).merge(job).state == committed.state
        merged += 1
    assert merged == 3


def rounds(ledger: Path) -> Iterator[tuple[Plan, ev.RoundOpened, ev.RoundClosed, ev.RoundCommitted]]:
    plan = opened = closed = None
    for kind, value in file.read(ledger):
        if kind != "entry" or not isinstance(value, Entry) or value.scope != "run":
            continue
        match ev.parse_event(value.type, value.body):
            case ev.RunPlanned(plan=plan):
                pass
            case ev.RoundOpened() as opened:
                pass
            case ev.RoundClosed() as closed:
                pass
            case ev.RoundCommitted() as committed:
                assert plan is not None and opened is not None and closed is not None
                yield plan, opened, closed, committed
