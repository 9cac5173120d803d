"""The digest of a plan is kept, and is never another plan's."""

from __future__ import annotations

from tapestry.protocol import canonical
from tapestry.protocol.plan import KEPT_DIGESTS, Inner, Plan, Rounds

PLAN = Plan(
    run="run",
    model="0" * 64,
    layout="1" * 64,
    initial_state="2" * 64,
    parameters=1,
    rounds=Rounds(total=2),
    inner=Inner(steps=3),
)


def test_each_plan_has_its_own_digest() -> None:
    others = [PLAN.model_copy(update={"revision": number}) for number in range(1, 3 * KEPT_DIGESTS)]
    for each in (PLAN, *others, PLAN, *others):
        assert each.digest == canonical.sha256(each.to_bytes())
    assert PLAN.digest == Plan.from_bytes(PLAN.to_bytes()).digest == others[0].digest
    assert len({each.digest for each in others}) == len(others)


def test_copies_that_come_and_go_do_not_mix() -> None:
    """One that is gone may leave its place in memory to the next."""
    for number in range(1, 4 * KEPT_DIGESTS):
        made = PLAN.model_copy(update={"title": str(number)})
        assert made.digest == canonical.sha256(made.to_bytes())
