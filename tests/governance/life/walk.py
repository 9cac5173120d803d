"""Walks, so many steps; and rules that are taken out of the machine, each of which a walk must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.attacks.switches import Switches
from tests.governance.life.machine import Life

RULES: Final = "tapestry.governance.machine"
TALLY: Final = "tapestry.governance.tally"
RING: Final = "tapestry.identity.keyring.KeyRing"
EFFECTS: Final = "tapestry.governance.effects"
MUTANTS: Final[dict[str, tuple[Any, ...]]] = {
    "late ballots count": (f"{RULES}._refuse_late", "item.outcome is not None or at > item.closes"),
    "old ballots count again": (f"{RULES}.vote", "said.number != expected"),
    "suspended members vote": (f"{RULES}._refuse_suspended", "found is not None"),
    "members without a vote vote": (f"{RULES}._refuse_barred", "why is not None"),
    "everybody may propose": (f"{RULES}.propose", "not may_propose(charter, kind, own)"),
    "proposals are under any charter": (f"{RULES}.propose", "said.charter != charter.digest"),
    "proposals have nothing to do": (
        f"{RULES}.propose",
        "(why := hindrance(assembly, said.subject, moment.at, opening=True)) is not None",
    ),
    "what others overtook is done all the same": (
        f"{RULES}.settle",
        "hindrance(assembly, item.subject, moment.at) is None",
        lambda: True,
    ),
    "no quorum is needed": (
        f"{TALLY}.verdict",
        "not count.voters or not bound(rule.quorum).reached(count.turnout(rule))",
    ),
    "one yes is enough": (f"{TALLY}.verdict", "count.yes_members < rule.yes_members"),
    "the first ballot counts": (
        f"{TALLY}._sort",
        "(before := counted.get(ballot.member)) is not None",
    ),
    "votes are counted by the charter in force": (
        f"{RULES}.settle",
        "assembly.governance.charters[item.charter]",
        lambda governance: governance.charter,
        "assembly.governance",
    ),
    "votes are decided when they are opened": (
        "tapestry.governance.state.Governance.overdue",
        "each.closes < at",
        lambda closes, at: closes[:16] < at,
        "each.closes, at",
    ),
    "revoked keys sign": (
        f"{RING}._refuse_invalid",
        "entry.revoked is not None and (sequence is None or sequence > entry.revoked)",
    ),
    "who is expelled keeps its seat": (f"{EFFECTS}._keys_end", None, lambda ring, *_, **__: ring),
    "all that was ever merged counts": (
        f"{RULES}._contributions",
        "rules.window_rounds",
        lambda _rules: 1000,
        "rules",
    ),
    "nobody has contributed": (f"{RULES}._contributions", "found.get(name, 0)", lambda: 0),
    "anybody joins": (
        f"{RULES}.may_join",
        "member not in charter.members and member not in governance.admitted",
    ),
}


def walk(*, examples: int, steps: int = 40, seed: int | None = None) -> None:
    """Raises what a walk finds. The same ones for the same seed; those of the release without one."""
    given = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    walker: Any = type("Walk", (Life,), {})
    if seed is not None:
        walker._hypothesis_internal_use_seed = seed
    run_state_machine_as_test(walker, settings=given)  # type: ignore[no-untyped-call]


def long(steps: int, *, seed: int, tell: Callable[[str], None]) -> int:
    """At least so many steps, in rounds of 250 walks; how many there were."""
    begun, turn = Life.steps, 0
    while Life.steps - begun < steps:
        walk(examples=250, seed=seed * 10_000 + turn)
        turn += 1
        tell(f"{Life.steps - begun} steps")
    return Life.steps - begun


def found(name: str, *, examples: int = 200) -> str | None:
    """What a walk says with that rule taken out; None where it notices nothing."""
    spec = MUTANTS[name]
    try:
        with Switches().all_off(spec):
            walk(examples=examples)
    except Exception as error:  # whatever it is, it was noticed
        if "was never asked" in str(error):
            return None
        return f"{type(error).__name__}: {str(error)[:90]}"
    return None
