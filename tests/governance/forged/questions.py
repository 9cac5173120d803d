"""Questions that must not be put to the vote, whoever asks."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from tapestry.governance import proposal as subjects
from tapestry.governance.proposal import Subject
from tapestry.protocol import canonical
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import other_key
from tests.governance.forged.forms import proposal_value, put_proposal
from tests.governance.forged.proposals import ABLE, CAPTURED, DOES, asking, next_charter, put
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import DAY, World

WHO = "A question that must not be put to the vote"


# -- what is asked ------------------------------------------------------------------------------


def _revision(world: World, draw: Random) -> Subject:
    number = draw.choice((1, 2, 4, 5, draw.randint(6, 1 << 20)))
    return subjects.ChangeCharter(charter=next_charter(world, revision=number))


forged(
    "charter-of-a-wrong-revision",
    "proposes a charter that skips a revision, or goes back behind the one in force",
    "a revision is one more than that in force",
    DOES,
)(asking(_revision))


def _captured(world: World, draw: Random) -> Subject:
    charter = world.second_charter
    kind = draw.choice(sorted(charter.decisions))
    wrong = draw.choice(({"yes_members": 1}, {"approval": "at least 1", "of": "all"}))
    if wrong.get("yes_members") == 1:
        decisions = {
            name: rule.model_copy(update={"yes_members": 1}) for name, rule in charter.decisions.items()
        }
    else:
        decisions = {
            name: rule.model_copy(update=wrong) if name in (kind, "change-charter") else rule
            for name, rule in charter.decisions.items()
        }
    return subjects.ChangeCharter(charter=next_charter(world, decisions=decisions))


forged(
    "charter-that-one-controls",
    "proposes a charter by which one member passes or stops things alone",
    "the capture check",
    CAPTURED,
    first_only=True,
)(asking(_captured))


def _contradictory(world: World, draw: Random) -> Forged:
    charter = world.second_charter.model_dump(mode="json") | {"revision": 3}
    kind = draw.choice(sorted(charter["decisions"]))
    rule = charter["decisions"][kind]
    draw.choice(
        (
            lambda: rule.update(approval=draw.choice(("at least 1/3", "at least 1/2"))),
            lambda: rule.update(yes_members=200),
            lambda: charter["release"].update(signatures=99),
            lambda: charter["data"].update(base=["private"]),
            lambda: charter["members"][world.name("aud")].update(roles=["auditor", "core-operator"]),
            lambda: (
                charter["entitlements"].update(weight="1")
                or charter["contribution"].update(influence_cap="1/2")
            ),
        )
    )()
    part, value = proposal_value(world, draw)
    value["subject"] = {"kind": "change-charter", "charter": charter}
    return put_proposal(world, part, canonical.encode(value))


forged(
    "charter-that-contradicts-itself",
    "proposes a charter whose rules cannot hold together: half as a majority, more signatures than holders",
    "what contradicts itself is no charter, wherever it comes from",
    ("tapestry.governance.charter.find", None, lambda _charter: ()),
    CAPTURED,
    first_only=True,
)(_contradictory)


def _used_key(world: World, draw: Random) -> Subject:
    part = draw.choice(("few", "two"))
    used = (
        world.who[draw.choice(("ask", "one", "out", "gone"))].root,
        world.who["swap"].spare[0],
        world.who["swap"].root,
        world.key_of(draw.choice(("one", "ask", "gone", "out"))),
        world.key_of("few", "stolen"),
        world.key_of("one", "node"),
    )
    return subjects.ReplaceRootKey(member=world.name(part), root_key=draw.choice(used).public_key)


forged(
    "root-key-already-used",
    "replaces a root key by one that somebody has or had",
    "a key has one holder and one purpose, for ever",
    DOES,
)(asking(_used_key))
forged(
    "admission-of-a-member",
    "admits who is a member, was expelled, or is admitted already",
    "such a vote would have nothing to do; who was expelled comes back by an appeal",
    DOES,
)(asking(lambda world, draw: subjects.Admit(member=world.name(draw.choice(("ask", "out", "new", "sus"))))))


def _nobody(world: World, draw: Random) -> Subject:
    member = draw.choice((world.name("out"), world.name("friend"), f"m{draw.randrange(1 << 20)}"))
    kind = draw.choice((subjects.Suspend, subjects.Expel, subjects.AppointOperator))
    if draw.random() < 0.25:
        return subjects.ReplaceRootKey(member=member, root_key=other_key(draw).public_key)
    return kind(member=member)


forged(
    "proposal-about-nobody",
    "suspends, expels or appoints who is no member",
    "such a vote would have nothing to do",
    DOES,
)(asking(_nobody))
forged(
    "suspension-of-a-suspended-member",
    "suspends a member again before its suspension ends",
    "such a vote would have nothing to do",
    DOES,
)(asking(lambda world, _: subjects.Suspend(member=world.name("sus"))))
forged(
    "plan-ratified-twice",
    "puts a plan to the vote that is ratified, for another run",
    "a plan is ratified once, for one run",
    DOES,
)(
    asking(
        lambda world, draw: subjects.RatifyPlan(
            run=draw.choice(("elsewhere", "more")), plan=world.plans["elsewhere"].digest
        )
    )
)
forged(
    "release-revoked-that-is-none",
    "revokes a release that there is not",
    "such a vote would have nothing to do",
    DOES,
)(asking(lambda _world, draw: subjects.RevokeRelease(release=f"r{draw.randrange(1 << 20)}")))


def _no_appeal(world: World, draw: Random) -> Subject:
    part, decision = draw.choice(
        (
            ("sus", world.ids["expel"]),
            ("out", world.ids["suspend-sus"]),
            ("was", world.ids["suspend-was"]),
            ("two", world.ids["change"]),
            ("sus", draw.randbytes(32).hex()),
        )
    )
    return subjects.HearAppeal(member=world.name(part), decision=decision)


forged(
    "appeal-against-another-decision",
    "appeals against what did not suspend or expel that member, or does so no more",
    "an appeal names the decision that it undoes",
    DOES,
)(asking(_no_appeal))


@forged(
    "appeal-too-late",
    "appeals when the time for it is over",
    "the charter says how long an appeal is possible",
    DOES,
)
def _late_appeal(world: World, draw: Random) -> Forged:
    part, name = draw.choice((("sus", "suspend-sus"), ("out", "expel")))
    outcome = world.item(name).outcome
    assert outcome is not None
    tip = replace(world.tip, at=add_seconds(outcome.at, 2 * DAY + draw.choice((0.001, 1, 3600, 9 * DAY))))
    subject = subjects.HearAppeal(member=world.name(part), decision=world.ids[name])
    return put(world, world.proposal("sus" if part == "sus" else draw.choice(ABLE), subject), tip=tip)
