"""What must hold of the record of a merged round, given what its contributions say: bindings and weights.

Signatures are another matter: whoever has keys verifies those first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapestry.errors import MergeMismatch, SignatureError
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.rounds.weights import Share, merge_weights


@dataclass(frozen=True)
class Ended:
    """An earlier round that was merged: the state it began with, and what its contributions say."""

    before: str
    said: tuple[Contribution, ...]


Earlier = Callable[[int], Ended | None]
"""An ended round by its number; None for one that was abandoned."""


def no_earlier(number: int) -> Ended | None:
    """As if every earlier round was abandoned: then nothing late holds."""
    return None


def check_merged(
    record: RoundRecord, plan: Plan, said: Sequence[Contribution], earlier: Earlier = no_earlier
) -> None:
    """Hold a record against its plan and its contributions.

    A late contribution holds where the plan allows it to be so late, it was trained from the state that its
    own round began with, and no merge since holds one of that node to that round.

    Args:
        record: of a round.
        plan: that it names.
        said: what each envelope of it says, in its order, as many as were merged.
        earlier: asked only where something is late.

    Raises:
        SignatureError: a contribution was signed for something else than it was used for.
        MergeMismatch: other weights than the plan gives.
    """
    what = f"round {record.round} of run {record.run}"
    shares = []
    for merged, one in zip(record.merged, said, strict=True):
        lag = record.round - one.round
        bound = (one.run, one.fragment, one.plan) == (record.run, record.fragment, record.plan)
        if not bound or not 0 <= lag <= plan.rounds.staleness:
            raise SignatureError(f"{what}: the contribution of {merged.node} was signed for something else")
        if one.state != _base(record, one.round, earlier):
            raise SignatureError(
                f"{what}: the contribution of {merged.node} was signed for something else: another state"
            )
        if (one.node, one.member, one.delta) != (merged.node, merged.member, merged.delta):
            raise SignatureError(f"{what}: the record states {merged.node} otherwise than {one.node} signed")
        if lag and _merged_before(one, record.round, earlier):
            raise SignatureError(
                f"{what}: a contribution of {merged.node} to round {one.round} was merged before"
            )
        shares.append(Share(member=one.member, node=one.node, tokens=one.tokens, steps=one.steps, lag=lag))
    rules = plan.merge
    weights = merge_weights(
        shares,
        weighting=rules.weighting,
        influence_cap=rules.influence_cap,
        staleness_factor=rules.staleness_factor,
    )
    if weights != tuple(merged.weight for merged in record.merged):
        raise MergeMismatch(
            f"{what} was merged with other weights than its plan gives",
            hint="report this to the other members; the event log of the core shows what it recorded",
        )


def _base(record: RoundRecord, number: int, earlier: Earlier) -> str:
    """The state that a round began with: that of the next merge, since an abandoned round changes none."""
    for each in range(number, record.round):
        found = earlier(each)
        if found is not None:
            return found.before
    return record.before


def _merged_before(one: Contribution, upto: int, earlier: Earlier) -> bool:
    ended = (earlier(number) for number in range(one.round, upto))
    said = (each for found in ended if found is not None for each in found.said)
    return any((each.node, each.round) == (one.node, one.round) for each in said)
