"""Old deltas are erased, nothing that is still referred to is; a merge that is not finite ends its round."""

from __future__ import annotations

from pathlib import Path

from tapestry.cli import corehome
from tapestry.cli.recompute import recompute
from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.protocol import canonical
from tapestry.protocol.plan import Retention
from tests.core.support import CoreUnderTest, code, make_plan, shards


def test_deltas_of_old_rounds_are_erased_and_nothing_else(serving: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made", total=3).model_copy(update={"retention": Retention(blob_rounds=1)})
    a, b = serving.running(plan, tmp_path / "made", "ada", "bob")
    state = plan.initial_state
    # ada's first delta is also the initial base, bob's of round 1 is contributed once more in round 3
    sent = [(1.0, 0.5), (0.25, 0.125), (0.0625, 0.5)]
    for number, (of_a, of_b) in enumerate(sent, 1):
        a.hand_in(plan, of_a, round=number, state=state)
        b.hand_in(plan, of_b, round=number, state=state)
        state = a.wait(lambda v, n=number: v.head.merges == n).head.state  # type: ignore[misc]
    assert serving.stop() == 0
    with Core.open(serving.root) as core:

        def there(value: float) -> bool:
            return all(core.store.has(canonical.sha256(data)) for data in shards(value))

        assert [there(v) for v in (1.0, 0.5, 0.25, 0.125, 0.0625)] == [True, True, False, False, True]
        records = corehome.records(core, "run")
        found = recompute(core.store, records, scratch_parent=serving.root)
    assert [one.verdict for one in found] == ["same", "gone", "same"]
    assert "not kept any more" in found[1].note


def test_a_merge_that_is_not_finite_ends_its_round_and_the_node_can_be_withdrawn(
    serving: CoreUnderTest, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "made", min_nodes=2, quorum=1)
    a, b = serving.running(plan, tmp_path / "made", "ada", "bob")
    a.hand_in(plan, 0.5, tokens=1)
    b.hand_in(plan, 3.4e38)
    view = a.wait(lambda v: v.current is not None and v.current.round == 2)
    assert view.head.merges == 0 and view.head.state == plan.initial_state
    assert view.waiting_for is not None
    assert "round 1 was abandoned, merge-not-finite" in view.waiting_for
    assert "delta of node bob-1" in view.waiting_for
    operator.withdraw(serving.root, "run", "bob-1")
    assert code(b.enrol(plan)) == "refused"
    a.hand_in(plan, 0.5, round=2)
    assert a.wait(lambda v: v.head.merges == 1).head.round == 2
