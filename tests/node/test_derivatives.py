"""Which derivatives of the registry stand on a base that descends from a withdrawn dataset."""

from __future__ import annotations

from tapestry.node.derivatives import standing_on
from tapestry.node.touched import Base, Run, Touched
from tapestry.protocol.derivative import DerivativeRecord, ShownBase, ShownDerivative

OLD, NEW, ELSEWHERE = "1" * 64, "2" * 64, "3" * 64
NOTHING = dict.fromkeys(ShownDerivative.model_fields)


def record(name: str, base: ShownBase | None, *, shown: bool = True) -> DerivativeRecord:
    return DerivativeRecord(
        consortium="0" * 64, member="ada", node="ada-1", derivative=name, at="2026-11-22T00:00:00.000Z",
        shown=ShownDerivative(**{**NOTHING, "base": base}) if shown else None, public=(),
    )  # fmt: skip


def on(state: str | None, run: str | None, round: int | None) -> ShownBase:
    return ShownBase(weights="a" * 64, state=state, run=run, round=round)


def test_by_state_or_by_run_and_round() -> None:
    touched = Touched(runs=[Run("first", bases=[Base(round=4, merges=4, state=NEW, base="b" * 64)])])
    records = [
        record("by-state", on(NEW, None, None)),
        record("by-round", on(None, "first", 4)),
        record("later", on(ELSEWHERE, "first", 9)),
        record("before", on(OLD, "first", 3)),
        record("another-run", on(ELSEWHERE, "second", 4)),
        record("hidden", None),
        record("taken-back", None, shown=False),
    ]
    assert [each.derivative for each in standing_on(records, touched)] == ["by-state", "by-round", "later"]
    assert standing_on(records, Touched()) == ()
