"""The account of ledgers of real cores: what is counted, and that it adds up."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.audit import account
from tapestry.errors import FormatError, IntegrityError, Refused
from tapestry.governance.accounting import NUMBERS, Account, Fold, Row, Sums
from tapestry.governance.entitlement import Merged
from tapestry.governance.throughput import Throughput, bounded, edge, place
from tapestry.ledger.entries import Entry
from tapestry.rounds import taking
from tapestry.rounds.state import KEPT_ROUNDS
from tapestry.rounds.weights import UNIT
from tests.audit import scenes, second
from tests.audit.released import HOURLY, released, trained
from tests.audit.support import Ledger, refused

Pairs = st.lists(st.tuples(st.integers(1, 1 << 40), st.integers(0, 1 << 45)), max_size=40)


PASSED_OVER = taking._passed_over


def second_refuses(given_: Ledger) -> bool:
    try:
        second.verify(given_.to_bytes().splitlines(keepends=True))
    except ValueError:
        return True
    return False


def counted(given_: Ledger, *, verify: bool = True) -> tuple[Account, list[Row]]:
    rows: list[Row] = []
    return account.read(given_.lines, on_row=rows.append, verify=verify), rows


def anything(seed: int) -> Callable[[Path], Ledger]:
    return lambda root: scenes.anything(root, seed)


@pytest.mark.parametrize(
    "play",
    [
        scenes.late, scenes.revealed, scenes.withdrawn, scenes.widened, scenes.abandoned,
        scenes.fragments, scenes.governed, anything(31),
    ],
)  # fmt: skip
def test_it_adds_up(play: Callable[[Path], Ledger], tmp_path: Path) -> None:
    ledger = play(tmp_path / "core")
    found, rows = counted(ledger)
    assert counted(ledger, verify=False)[0] == found
    entries = [each for each in ledger.entries if each.scope != "consortium"]
    for run in found.runs.values():
        mine = [each for each in entries if each.scope == run.run]
        types = Counter(each.type for each in mine)
        own = [row for row in rows if row.run == run.run]
        assert len({(row.round, row.member) for row in own}) == len(own), "each member once a round"
        assert [row.round for row in own] == sorted(row.round for row in own)
        assert (run.rounds, run.merges) == (types["round-opened"], types["round-committed"])
        sums = run.members.values()
        assert sum(each.weight for each in sums) == UNIT * run.merges
        assert sum(each.accepted for each in sums) == types["contribution-accepted"]
        assert sum(each.attested for each in sums) == types["base-attested"]
        refused = types["contribution-refused"] + types["contribution-late"]
        assert sum(sum(each.refused.values()) for each in sums) == refused
        again = {name: Sums() for name in run.members}
        for row in own:
            again[row.member].add(row)
        for name, each in run.members.items():
            kept = again[name]
            kept.attested, kept.plausible_ms, kept.typical_ms = (
                each.attested, each.plausible_ms, each.typical_ms,
            )  # fmt: skip
            assert kept == each
            assert each.answered <= min(each.expected, each.rounds) and each.merged <= each.rounds
            assert each.plausible_ms <= each.claimed_ms
            told = sum(found.plausible(row) for row in own if row.member == name)
            assert 0 <= each.plausible_ms - told <= len(own), "rows are rounded down one by one"
        merged = Merged()
        for entry in ledger.entries:
            merged.take(entry)
        whole = merged.upto({run.run: 1 << 40})
        for name, each in run.members.items():
            given_ = whole.given(name)
            assert (given_.rounds, given_.weight) == (each.merged, each.weight)
            assert given_.of_merges == run.merges and given_.tokens <= each.tokens
    total = found.total()
    for name in NUMBERS:
        whole_sum = sum(getattr(each, name) for run in found.runs.values() for each in run.members.values())
        assert sum(getattr(each, name) for each in total.values()) == whole_sum


def test_what_a_member_gave(tmp_path: Path) -> None:
    scene = trained(tmp_path / "core")
    with scene.core:
        found, rows = counted(scene.ledger())
    ada, bob, cyd = (found.runs["run"].members[name] for name in ("ada", "bob", "cyd"))
    assert (ada.expected, ada.answered, ada.merged, ada.tokens, ada.steps) == (3, 3, 3, 1500, 12)
    assert (cyd.expected, cyd.answered, cyd.merged, cyd.tokens) == (3, 1, 1, 1500)
    assert (ada.bytes, ada.unsized, ada.claimed_ms) == (3000, 0, 3 * HOURLY["train_ms"])
    assert ada.plausible_ms == ada.claimed_ms and bob.untimed == 0
    assert bob.typical_ms == pytest.approx(bob.claimed_ms, rel=0.02), "the middle of three nodes"
    assert ada.typical_ms == pytest.approx(ada.claimed_ms / 2, rel=0.02)
    assert "dan" not in found.runs["run"].members
    assert [(row.round, row.member, row.accepted) for row in rows][:4] == [
        (1, "ada", 1), (1, "bob", 1), (1, "cyd", 1), (2, "ada", 1),
    ]  # fmt: skip


def test_a_time_beyond_the_round_or_the_own_throughput_is_not_plausible(tmp_path: Path) -> None:
    with scenes.on_core(tmp_path / "core") as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_total=3)
        for number in range(3):
            scene.now += 1_000_000
            ranks = {"ranks": "4"}
            scene.send(ada, train_ms=(900_000, 900_000, 90_000)[number], environment=ranks)
            scene.send(bob, train_ms=10**9, environment={"ranks": ("1", "9999999", "0")[number]})
            scene.merge()
        found, rows = counted(scene.ledger())
    sums = found.runs["run"].members
    assert sums["ada"].claimed_ms == 4 * 1_890_000
    assert sums["ada"].plausible_ms == pytest.approx(4 * 1_890_000, rel=0.02), "the middle is the slow rate"
    assert sums["bob"].claimed_ms == 3 * 10**9
    assert sums["bob"].plausible_ms == pytest.approx(3_000_000, rel=0.01), "a round was no longer"
    assert found.plausible(rows[1]) == pytest.approx(1_000_000, rel=0.01)


def test_who_never_enrolled_has_no_account_and_spoils_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a core notes what such a node sent to a round that is over."""
    monkeypatch.setattr(taking, "_passed_over", lambda at, node: False)
    with scenes.on_core(tmp_path / "core") as scene:
        ada, bob, eve = scene.node("ada"), scene.node("bob"), scene.node("eve")
        scene.running(ada, bob, rounds_total=3)
        for node in (ada, bob):
            scene.send(node)
        for node in (eve, bob):
            with pytest.raises(Refused, match="is late"):
                scene.core.runs.contribute("run", scene.envelope(node, tokens=7), node.signer)
        scene.merge()
        ledger = scene.ledger()
    assert [each.body["node"] for each in ledger.entries if each.type == "contribution-late"] == [
        eve.name, bob.name,
    ]  # fmt: skip
    found, rows = counted(ledger)
    assert second_refuses(ledger), "whoever was not expected is not noted"
    with monkeypatch.context() as again:
        again.setattr(taking, "_passed_over", PASSED_OVER)
        assert refused(ledger)
    assert {name: each.refused for name, each in found.runs["run"].members.items()} == {
        "ada": {}, "bob": {"late": 1},
    }  # fmt: skip
    assert {row.member for row in rows} == {"ada", "bob"}


def test_a_ledger_that_does_not_hold_has_no_account(tmp_path: Path) -> None:
    ledger = scenes.late(tmp_path / "core")
    wrong = ledger.changed(ledger.of("contribution-received"), tokens=999_999).signed_anew()
    with pytest.raises(IntegrityError):
        counted(wrong)
    assert counted(wrong, verify=False)[0] != counted(ledger)[0], "the control"
    for type_ in ("run-planned", "node-enrolled", "round-opened", "contribution-received"):
        broken = ledger.put(ledger.of(type_), body={})
        with pytest.raises(FormatError, match="not as the rules give it"):
            counted(broken, verify=False)


def test_an_envelope_that_nobody_has_verified_ends_with_a_word(tmp_path: Path) -> None:
    ledger = scenes.late(tmp_path / "core")
    place = ledger.of("contribution-received") - 1
    assert ledger.lines[place][0] == "blob"
    deep = base64.b64encode(b"[" * 100_000)
    for wrong in (b"", b"{}", b"[]", b'{"payload":"W10="}', b'{"payload":"%b"}' % deep):
        lines = [*ledger.lines[:place], ("blob", wrong or b"x"), *ledger.lines[place + 1 :]]
        with pytest.raises(FormatError):
            account.read(lines, verify=False)
        with pytest.raises(IntegrityError):
            account.read(lines)


def test_rows_are_handed_on_and_not_kept() -> None:
    """What a fold holds does not grow with rounds."""
    rows: list[Row] = []
    fold, held = Fold(rows.append), []
    plan = {"streaming": {"overlap_steps": 0}, "rounds": {"staleness": 2}}

    def take(type_: str, **body: Any) -> None:
        at = "2026-05-01T12:00:00.000Z"
        fold.take(Entry(sequence=1, at=at, scope="run", type=type_, body=body))

    take("run-planned", plan=plan)
    take("node-enrolled", node="ada-1", member="ada")
    for number in range(1, 301):
        take("round-opened", round=number, nodes=["ada-1"], opened_ms=number)
        held.append(len(fold._runs["run"].open) + len(fold._runs["run"].opened_ms))
        assert len(rows) >= number - KEPT_ROUNDS - 3
        take("round-abandoned", round=number)
    assert max(held) == held[50] == held[-1] <= 2 * (KEPT_ROUNDS + 4)
    assert fold.account().runs["run"].members["ada"].expected == 300 == len(rows)


def test_disputes_stand_beside_it(tmp_path: Path) -> None:
    scene = released(tmp_path / "core")
    with scene.core:
        before = counted(scene.ledger())[0]
        name = scene.dispute("cyd", round=2, what="availability", claim="we were there")
        size = scene.core.journal.tree_head()[0]
        assert scene.dispute("cyd", round=2, what="availability", claim="we were there") == name
        assert scene.core.journal.tree_head()[0] == size, "again, no effect"
        scene.dispute("ada", about="bob", round=None, what="other")
        after = counted(scene.ledger())[0]
    assert after.runs == before.runs, "no number is changed"
    assert [(each.said.member, each.said.about, each.said.claim) for each in account.disputes(after)] == [
        ("cyd", "cyd", "we were there"), ("ada", "bob", "2000 tokens"),
    ]  # fmt: skip


@given(Pairs)
def test_what_is_plausible_is_at_most_what_was_told(pairs: list[tuple[int, int]]) -> None:
    speed = Throughput("ada")
    for tokens, ms in pairs:
        speed.take(tokens, ms)
    middle = speed.middle()
    each = [bounded(middle, tokens, ms) for tokens, ms in pairs]
    assert all(0 <= one <= ms for one, (_, ms) in zip(each, pairs, strict=True))
    assert 0 <= speed.plausible_ms() - sum(each) <= len(pairs)
    timed = sorted(place(tokens, ms) for tokens, ms in pairs if ms)
    assert middle == (timed[len(timed) // 2] if timed else 0)


@given(st.integers(1, 1 << 50), st.integers(1, 1 << 45))
def test_bins_are_narrow(tokens: int, ms: int) -> None:
    rate, number = (tokens << 20) // ms, place(tokens, ms)
    assert edge(number) <= rate < edge(number + 1)
    assert edge(number + 1) - edge(number) <= max(1, rate // 64)
