"""What must hold of the record of a merged round, given what its contributions say: bindings and weights.

Signatures are another matter: whoever has keys verifies those first.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.errors import MergeMismatch, SignatureError
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.rounds.weights import Share, merge_weights


def check_merged(record: RoundRecord, plan: Plan, said: Sequence[Contribution]) -> None:
    """Hold a record against its plan and its contributions.

    Args:
        record: of a round.
        plan: that it names.
        said: what each envelope of it says, in its order.

    Raises:
        SignatureError: a contribution was signed for something else than it was used for.
        MergeMismatch: other weights than the plan gives.
    """
    what = f"round {record.round} of run {record.run}"
    shares = []
    for merged, one in zip(record.merged, said, strict=True):
        lag = record.round - one.round
        bound = (one.run, one.fragment, one.plan) == (record.run, record.fragment, record.plan)
        # Which state a late one was trained from is in the record of its own round.
        in_time = lag == 0 and one.state == record.before
        if not bound or not (in_time or 0 < lag <= plan.rounds.staleness):
            raise SignatureError(f"{what}: the contribution of {merged.node} was signed for something else")
        if (one.node, one.member, one.delta) != (merged.node, merged.member, merged.delta):
            raise SignatureError(f"{what}: the record states {merged.node} otherwise than {one.node} signed")
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
