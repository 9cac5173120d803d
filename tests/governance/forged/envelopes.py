"""Envelopes and proposals in a form that none may have, signed by a key that may sign."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

from tapestry.governance import proposal as subjects
from tapestry.identity.envelope import Envelope
from tapestry.protocol import canonical
from tests.governance.forged.ballots import CHOICES, RING, VOTERS
from tests.governance.forged.forms import (
    CONTROLS,
    PROPOSAL,
    STATED,
    TEXTS,
    TWICE,
    noise,
    proposal_value,
    proposed,
    put_envelope,
    put_proposal,
    respelt,
)
from tests.governance.forged.table import Forged, forged
from tests.governance.forged.world import World

WHO = "An envelope or proposal in a form that none may have"


# -- envelopes ----------------------------------------------------------------------------------


def _envelope(world: World, draw: Random) -> tuple[str, dict[str, Any]]:
    part = draw.choice(VOTERS)
    return part, json.loads(world.ballot(part, "main", draw.choice(CHOICES)).to_bytes())


@forged(
    "envelope-not-canonical",
    "spells an envelope's JSON otherwise, so that one ballot has two hashes",
    "an envelope has one form",
    TEXTS,
)
def _loose(world: World, draw: Random) -> Forged:
    part, value = _envelope(world, draw)
    data = respelt(draw, value)
    if data == canonical.encode(value):
        data += b" "
    return put_envelope(world, part, data)


@forged(
    "envelope-loose-base64",
    "sets bits of a signature's base64 that mean nothing",
    "base64 has one form",
    ("tapestry.identity.envelope._base64", 'base64.b64encode(data).decode("ascii") != text'),
)
def _base64(world: World, draw: Random) -> Forged:
    part, value = _envelope(world, draw)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sig = value["signatures"][0]["sig"]
    last = letters.index(sig[85])
    other = letters[last ^ draw.randint(1, 15)]
    value["signatures"][0]["sig"] = sig[:85] + other + "=="
    assert base64.b64decode(value["signatures"][0]["sig"]) == base64.b64decode(sig)
    return put_envelope(world, part, canonical.encode(value))


@forged(
    "envelope-one-signature-twice",
    "brings the same signature twice, as if two had signed",
    "keys are in order, each once; and one signs",
    ("tapestry.identity.envelope._ordered", "any(first >= second for first, second in pairwise(ids))"),
    (f"{RING}.verify", "len(envelope.signatures) != 1"),
)
def _same_twice(world: World, draw: Random) -> Forged:
    part, value = _envelope(world, draw)
    value["signatures"] *= draw.randint(2, 5)
    return put_envelope(world, part, canonical.encode(value))


def an_envelope(data: bytes) -> Envelope:
    value = json.loads(data)
    (one,) = value["signatures"]
    kept = {name: value[name] for name in ("payload", "payloadType")}
    return Envelope.from_json({**kept, "signatures": [{name: one[name] for name in ("keyid", "sig")}]})


@forged(
    "envelope-with-another-field",
    "adds unsigned fields to an envelope",
    "an envelope has no field that is not signed or a signature",
    ("tapestry.identity.envelope.Envelope.from_bytes", None, an_envelope),
)
def _field(world: World, draw: Random) -> Forged:
    part, value = _envelope(world, draw)
    where = value if draw.random() < 0.5 else value["signatures"][0]
    where[draw.choice(("comment", "alg", "weight", "cert"))] = draw.choice(("x", 1, None, {}))
    return put_envelope(world, part, canonical.encode(value))


# -- proposals ----------------------------------------------------------------------------------


@forged(
    "proposal-not-canonical",
    "spells a proposal's JSON otherwise, so that it has two names",
    "a proposal's name is the hash of its one form",
    TEXTS,
    STATED,
)
def _proposal(world: World, draw: Random) -> Forged:
    part, value = proposal_value(world, draw)
    return put_proposal(world, part, respelt(draw, value))


@forged(
    "proposal-field-twice",
    "names two subjects, of which each reader sees another",
    "no field stands twice",
    TWICE,
    TEXTS,
    STATED,
)
def _two_subjects(world: World, draw: Random) -> Forged:
    part, value = proposal_value(world, draw)
    other = {"kind": "expel", "member": world.name("few")}
    field = json.dumps({"subject": other}, separators=(",", ":")).encode()[1:-1]
    plain = canonical.encode(value)
    return put_proposal(world, part, plain.replace(b'"subject":', field + b',"subject":'))


forged(
    "proposal-of-unknown-kind",
    "asks for a kind of decision that there is not",
    "twelve closed kinds",
    PROPOSAL,
)(
    proposed(
        lambda draw, value: value.update(
            subject={
                "kind": draw.choice(("seize", "OPEN-PHASE", "", "dissolve", "open-phase ")),
                "phase": "x",
            }
        )
    )
)
forged(
    "proposal-with-another-field",
    "hides more in the subject than its kind has",
    "subjects are closed records",
    PROPOSAL,
)(proposed(lambda draw, value: value["subject"].update({draw.choice(("member", "charter", "also")): "x"})))


@forged(
    "proposal-about-two-members",
    "expels several at once, so that nobody of them votes",
    "a decision is about one party",
    PROPOSAL,
)
def _about_two(world: World, draw: Random) -> Forged:
    part, value = proposal_value(world, draw)
    names = [world.name(each) for each in draw.sample(("flood", "swap", "was"), draw.randint(2, 3))]
    value["subject"] = {"kind": draw.choice(("expel", "suspend")), "member": names}
    return put_proposal(world, part, canonical.encode(value), days=1 / 24)


forged(
    "proposal-oversized-text",
    "writes more than others will read, for all to keep",
    "20,000 characters of text, 200 of title",
    PROPOSAL,
)(
    proposed(
        lambda draw, value: value.update(
            draw.choice(({"text": noise(draw, 20_001, 60_000)}, {"title": noise(draw, 201, 2000)}))
        )
    )
)
forged(
    "proposal-control-characters",
    "writes a title that shows as another one",
    "no control characters, and no line breaks in titles",
    PROPOSAL,
)(
    proposed(
        lambda draw, value: value.update(
            draw.choice(
                (
                    {"title": f"a{draw.choice(CONTROLS)}b"},
                    {"title": "a\nb"},
                    {"text": f"\x1b[2J{noise(draw, 0, 9)}"},
                )
            )
        )
    )
)
forged(
    "proposal-of-another-version",
    "states a version or a format that there is not",
    "format and version are asked for",
    PROPOSAL,
)(
    proposed(
        lambda draw, value: value.update(
            draw.choice(
                ({"version": draw.choice((0, 2, 99, "1"))}, {"format": "tapestry.motion"}, {"format": None})
            )
        )
    )
)


@forged(
    "charter-in-another-form",
    "proposes a charter that says 50 % where 1/2 is the form",
    "a charter has one form, by which it is named",
    STATED,
    first_only=True,
)
def _charter(world: World, draw: Random) -> Forged:
    held = world.second_charter
    part, value = proposal_value(
        world, draw, subjects.ChangeCharter(charter=held.model_copy(update={"revision": 3}))
    )
    charter = value["subject"]["charter"]
    kind = draw.choice(sorted(charter["decisions"]))
    rule = charter["decisions"][kind]
    draw.choice(
        (
            lambda: rule.update(
                approval="more than 50 %"
                if rule["approval"] == "more than 1/2"
                else "at least 4/6"
                if rule["approval"] == "at least 2/3"
                else "at least 60 %"
            ),
            lambda: rule.update(proposers=list(reversed(rule["proposers"]))),
            lambda: charter["release"].update(holders=list(reversed(charter["release"]["holders"]))),
            lambda: rule.pop("interested"),
            lambda: charter["deadlines"].update(suspension="2880 hours"),
        )
    )()
    return put_proposal(world, part, canonical.encode(value))
