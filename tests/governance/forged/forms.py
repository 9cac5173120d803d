"""Ballots in a form that none may have, signed by a key that may sign. The control is a reader that takes
what it understands of it, as careless programs do."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from pydantic.fields import FieldInfo

from tapestry.governance import machine
from tapestry.governance import proposal as subjects
from tapestry.governance.proposal import Ballot, Proposal, Subject
from tapestry.governance.state import Cast
from tapestry.identity.envelope import Envelope, payload_type, sign_bytes
from tapestry.ledger.entries import BallotCast, ProposalOpened
from tapestry.protocol import canonical
from tapestry.protocol.clock import add_seconds
from tests.governance.forged.ballots import CHOICES, NUMBER, RING, RULES, VOTERS
from tests.governance.forged.table import Forged, Off, forged
from tests.governance.forged.world import DAY, World, entry_at

WHO = "A ballot in a form that none may have"
PLACE = "tapestry.governance.proposal"
TEXTS = ("tapestry.protocol.canonical.decode", "encode(value) != data")
STATED = ("tapestry.protocol.message.Message.from_bytes", "message.to_bytes() != data")
TWICE = ("tapestry.protocol.canonical._no_duplicates", "len(seen) != len(pairs)")
CAST = (f"{RULES}.Cast", None, Cast.model_construct)
ENTRY = (f"{RULES}.BallotCast", None, BallotCast.model_construct)
CONTROLS = "\x00\x01\x08\x0b\x1b\x7f\x80\x9f\u2028\u2029\t\r"
KINDS = {each.model_fields["kind"].default: each for each in subjects.Subject.__origin__.__args__}  # type: ignore[attr-defined]


def _default(field: FieldInfo) -> Any:
    return "" if field.is_required() else field.default


def a_ballot(data: bytes) -> Ballot:
    """What a reader makes of it that takes what it understands."""
    value = json.loads(data)
    known = {name: value.get(name, _default(field)) for name, field in Ballot.model_fields.items()}
    return Ballot.model_construct(
        **known | {"choice": value.get("choice", "yes"), "number": int(value["number"])}
    )


def a_proposal(data: bytes) -> Proposal:
    value = json.loads(data)
    known = {name: value.get(name, _default(field)) for name, field in Proposal.model_fields.items()}
    return Proposal.model_construct(**known | {"subject": _a_subject(value["subject"])})


def _a_subject(value: dict[str, Any]) -> Subject:
    kind = KINDS.get(value.get("kind"), subjects.OpenPhase)
    given = {name: value[name] for name in kind.model_fields if name in value and name != "kind"}
    if isinstance(given.get("member"), list):
        given["member"] = given["member"][0]
    return kind.model_construct(**given or {"phase": "guessed"})  # type: ignore[no-any-return]


BALLOT: Off = (f"{PLACE}.Ballot.from_bytes", None, a_ballot)
PROPOSAL: Off = (f"{PLACE}.Proposal.from_bytes", None, a_proposal)


def put_ballot(world: World, part: str, data: bytes) -> Forged:
    return put_envelope(world, part, sign_bytes(payload_type(Ballot), data, world.key_of(part)).to_bytes())


def put_envelope(world: World, part: str, data: bytes, *, name: str = "main") -> Forged:
    """Bytes of an envelope of a ballot."""
    tip = world.tip
    event = BallotCast(member=world.name(part), proposal=world.ids[name], envelope=data.decode())
    return Forged(
        act=lambda: machine.vote(tip.assembly, Envelope.from_bytes(data), tip.moment),
        entries=(entry_at(tip, event),),
        tip=tip,
    )


def put_proposal(world: World, part: str, data: bytes, *, days: float = 30) -> Forged:
    tip, envelope = world.tip, sign_bytes(payload_type(Proposal), data, world.key_of(part))
    closes = add_seconds(tip.at, days * DAY)
    event = ProposalOpened(
        member=world.name(part),
        proposal=canonical.sha256(data),
        closes=closes,
        envelope=envelope.to_bytes().decode(),
    )
    return Forged(
        act=lambda: machine.propose(tip.assembly, envelope, tip.moment),
        entries=(entry_at(tip, event),),
        tip=tip,
    )


def ballot_value(world: World, draw: Random) -> tuple[str, dict[str, Any]]:
    part = draw.choice(VOTERS)
    said = Ballot(**world.vote(part, "main", draw.choice(CHOICES)))
    return part, said.model_dump(mode="json")


def proposal_value(world: World, draw: Random, subject: Subject | None = None) -> tuple[str, dict[str, Any]]:
    part = draw.choice(("ask", "one", "two", "few"))
    subject = subject or subjects.OpenPhase(phase=f"p{draw.randrange(1 << 30)}")
    return part, Proposal(**world.said(part, subject)).model_dump(mode="json")


def changed(change: Callable[[Random, dict[str, Any]], Any]) -> Callable[[World, Random], Forged]:
    """A ballot with something else in it, in canonical JSON."""

    def make(world: World, draw: Random) -> Forged:
        part, value = ballot_value(world, draw)
        change(draw, value)
        return put_ballot(world, part, canonical.encode(value))

    return make


def proposed(change: Callable[[Random, dict[str, Any]], Any]) -> Callable[[World, Random], Forged]:
    """A proposal with something else in it."""

    def make(world: World, draw: Random) -> Forged:
        part, value = proposal_value(world, draw)
        change(draw, value)
        return put_proposal(world, part, canonical.encode(value))

    return make


def noise(draw: Random, least: int, most: int) -> str:
    return "".join(draw.choice("abcdefgh ") for _ in range(draw.randint(least, most)))


# -- ballots ------------------------------------------------------------------------------------


def respelt(draw: Random, value: dict[str, Any]) -> bytes:
    """The same JSON value, spelt otherwise."""
    plain = canonical.encode(value)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: json.dumps(value).encode(),
        lambda: json.dumps(value, indent=draw.randint(0, 4)).encode(),
        lambda: json.dumps(dict(reversed(value.items())), separators=(",", ":")).encode(),
        lambda: plain + draw.choice((b" ", b"\n", b"\r\n")),
        lambda: draw.choice((b" ", b"\n", b"\t")) + plain,
        lambda: plain.replace(b'"version":1', b'"version": 1'),
        lambda: plain.replace(b'"version"', b'"\\u0076ersion"'),
    )
    return draw.choice(ways)()


@forged(
    "ballot-not-canonical",
    "spells a ballot's JSON otherwise: spaces, order of fields, escapes",
    "a message has one form, and its name is the hash of that",
    TEXTS,
    STATED,
)
def _respelt(world: World, draw: Random) -> Forged:
    part, value = ballot_value(world, draw)
    return put_ballot(world, part, respelt(draw, value))


@forged(
    "ballot-field-twice",
    "names a field twice, so that two readers see two choices",
    "no field stands twice",
    TWICE,
    TEXTS,
    STATED,
)
def _twice(world: World, draw: Random) -> Forged:
    part, value = ballot_value(world, draw)
    field = draw.choice(sorted(value.keys() - {"format", "version"}))
    plain = canonical.encode(value)
    again = json.dumps({field: value[field]}, separators=(",", ":")).encode()[1:-1]
    first = json.dumps({field: "no" if field == "choice" else value[field]}, separators=(",", ":")).encode()[
        1:-1
    ]
    data = (
        plain.replace(again, b"%b,%b" % (first, again), 1)
        if draw.random() < 0.5
        else plain[:-1] + b"," + again + b"}"
    )
    return put_ballot(world, part, data)


forged(
    "ballot-with-another-field",
    "adds a field that ballots do not have",
    "messages are closed: no field but those of the format",
    BALLOT,
)(
    changed(
        lambda draw, value: value.update(
            {draw.choice(("weight", "on_behalf_of", "seats", "x")): draw.randint(1, 9)}
        )
    )
)
forged(
    "ballot-without-a-field",
    "leaves a field out, so that a reader may think what it likes",
    "every field is stated",
    BALLOT,
)(changed(lambda draw, value: value.pop(draw.choice(("choice", "reason", "format", "version")))))
forged(
    "ballot-of-another-choice",
    "votes something that is no choice",
    "yes, no or abstain",
    BALLOT,
    CAST,
)(changed(lambda draw, value: value.update(choice=draw.choice(("maybe", "YES", "yes ", "", "veto", "no\n")))))
forged(
    "ballot-of-another-type-of-value",
    "writes a number as text, or a text as something else",
    "values are not converted",
    BALLOT,
)(
    changed(
        lambda draw, value: value.update(
            draw.choice(
                ({"number": str(value["number"])}, {"reason": None}, {"reason": 5}, {"reason": ["x"]})
            )
        )
    )
)
forged(
    "ballot-number-out-of-range",
    "numbers a ballot with 0, with less, or beyond what a member may cast",
    "1 to 100",
    BALLOT,
    NUMBER,
)(
    changed(
        lambda draw, value: value.update(number=draw.choice((0, -1, -(1 << 40), 101, 1 << 31, (1 << 53) - 1)))
    )
)
forged(
    "ballot-oversized-reason",
    "writes a novel as its reason, which all keep for ever",
    "2,000 characters",
    BALLOT,
)(changed(lambda draw, value: value.update(reason=noise(draw, 2001, draw.choice((2001, 5000, 50_000))))))
forged(
    "ballot-control-characters",
    "hides characters in its reason that change what a terminal shows",
    "no control characters but line feeds",
    BALLOT,
)(changed(lambda draw, value: value.update(reason=f"a{draw.choice(CONTROLS)}{noise(draw, 0, 9)}")))
forged(
    "ballot-of-another-version",
    "states a version or a format that there is not",
    "format and version are asked for",
    BALLOT,
)(
    changed(
        lambda draw, value: value.update(
            draw.choice(
                ({"version": draw.choice((0, 2, 99, "1", True))}, {"format": "tapestry.vote"}, {"format": ""})
            )
        )
    )
)
forged(
    "ballot-names-out-of-form",
    "writes the hash of the proposal in capitals, or a member that is no name",
    "hashes and names have one form",
    BALLOT,
    (
        f"{RULES}.vote",
        "assembly.governance.proposals.get(said.proposal)",
        lambda a: a.governance.open[-1],
        "assembly",
    ),
    (f"{RING}.verify", "own is not None and named != own"),
    (f"{RULES}._refuse_barred", "why is not None"),
    NUMBER,
    CAST,
    ENTRY,
)(
    changed(
        lambda draw, value: value.update(
            draw.choice(
                (
                    {"proposal": value["proposal"].upper().replace("0", "A")},
                    {"proposal": value["proposal"][:-1]},
                    {"proposal": "../" + value["proposal"][3:]},
                    {"member": value["member"].upper()},
                    {"member": value["member"] + "\u0000"},
                )
            )
        )
    )
)
