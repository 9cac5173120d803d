"""Release gates of a charter: what members' own scores must show before anybody drafts or signs a release.

All of it is in the ledger up to the decision, so each holder's program finds the same and refuses by itself.
A score is its node's word, for text that nobody else has seen: a gate stops a base that is worse for those
who say so, and cannot make anybody say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tapestry.errors import GateNotMet
from tapestry.governance.words import share
from tapestry.release.view import Facts, View


def require(view: View, facts: Facts) -> None:
    """Raises `GateNotMet` with the first gate of the charter in force at the decision that is not met."""
    found = list(unmet(facts, _before(view, facts)))
    if not found:
        return
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise GateNotMet(
        f"the charter's gates keep release {facts.release} back: {found[0]}{more}",
        hint="have the members' nodes publish their scores for this base before the vote, train further, "
        "or put a change of [release.gates] to the vote",
    )


def _before(view: View, facts: Facts) -> Facts | None:
    """The release that was accepted last before this one, revoked or not."""
    earlier = [each for each in view.facts.values() if each.sequence < facts.sequence]
    return max(earlier, key=lambda each: each.sequence, default=None)


def unmet(facts: Facts, before: Facts | None) -> Iterator[str]:
    """In words, each gate that is not met."""
    gates = facts.charter.release.gates
    if gates is None:
        return
    members = {each.member for each in facts.scores}
    if len(members) < gates.scored_by:
        yield (
            f"{len(members)} members have published a score of state {facts.state[:12]}, "
            f"{gates.scored_by} must have"
        )
    if gates.worse_by_at_most is None or before is None:
        return
    limit = share(gates.worse_by_at_most)
    then = {(each.member, each.node, each.bytes): each.bits_per_byte for each in before.scores}
    for each in facts.scores:
        old = then.get((each.member, each.node, each.bytes))
        if old is not None and Fraction(each.bits_per_byte) > Fraction(old) * (1 + limit):
            yield (
                f"on {each.node}'s text it takes {each.bits_per_byte:.4g} bits per byte, with "
                f"{before.release} {old:.4g}: that is worse by more than {gates.worse_by_at_most}"
            )
