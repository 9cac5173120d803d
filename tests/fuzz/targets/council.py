"""What members sign when they decide, put to the rules; and the entries that a core writes of it, repeated as
a verifier does. Half of what is changed is signed again by the member it is from: then that member lies."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any

from tapestry.audit.governance import repeated
from tapestry.errors import FormatError
from tapestry.governance import machine
from tapestry.governance import proposal as subjects
from tapestry.governance.proposal import Ballot, CharterSignature, Proposal
from tapestry.governance.tally import Tally
from tapestry.identity.envelope import Envelope, payload_type, pre_authentication
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import Entry, Governed, consortium_event, make_entry
from tapestry.protocol.clock import add_seconds
from tests.fuzz.made import PLAN, key
from tests.fuzz.mutate import encoded, json_bytes, octets
from tests.fuzz.target import Parser, Target
from tests.governance.forged.proposals import next_charter
from tests.governance.forged.world import PARTS, Tip, World


@lru_cache(maxsize=1)
def world() -> World:
    return World(1)


@lru_cache(maxsize=1)
def keys() -> dict[str, KeyPair]:
    return {pair.key_id: pair for each in world().who.values() for pair in (each.root, *each.keys.values())}


@lru_cache(maxsize=1)
def ended() -> Tip:
    """When the first vote has ended."""
    return replace(world().tip, at=add_seconds(world().item("old").closes, 1))


def _subjects() -> list[Any]:
    here, sha = world(), "5" * 64
    few, sus = here.name("few"), here.name("sus")
    return [
        subjects.Admit(member="new-one"),
        subjects.Suspend(member=few),
        subjects.Expel(member=few),
        subjects.RatifyPlan(run="run", plan=sha),
        subjects.RevisePlan(plan=PLAN),
        subjects.OpenPhase(phase="two"),
        subjects.ChangeCharter(charter=next_charter(here)),
        subjects.AcceptRelease(release="one", state=sha),
        subjects.RevokeRelease(release="one"),
        subjects.AppointOperator(member=few),
        subjects.ReplaceRootKey(member=few, root_key=key("next root").public_key),
        subjects.HearAppeal(member=sus, decision=here.ids["suspend-sus"]),
    ]


def _signed() -> list[Envelope]:
    here = world()
    proposals = [here.proposal("ask", subject) for subject in _subjects()]
    ballots = [here.ballot(part, "main", choice) for part, choice in (("one", "yes"), ("ask", "no"))]
    return [*proposals, *ballots, here.signature("ask", here.charter)]


# -- messages -----------------------------------------------------------------------------------


def _messages() -> Parser:
    kinds = {kind.format_name(): kind for kind in (Proposal, Ballot, CharterSignature, Tally)}
    decided = machine.settle(ended().assembly, ended().moment)
    assert decided is not None and decided.event is not None
    tally = str(getattr(decided.event, "tally")).encode()  # noqa: B009 - of four kinds of events

    def call(data: bytes) -> bytes:
        try:
            name = json.loads(data)["format"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = ""
        return kinds.get(name if isinstance(name, str) else "", Ballot).from_bytes(data).to_bytes()

    return Parser(seeds=[*(base64.b64decode(each.payload) for each in _signed()), tally], call=call)


# -- envelopes ----------------------------------------------------------------------------------


def resigned(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """The payload changed, and signed by the same key."""
    value = json.loads(seed)
    kind, payload = value["payloadType"], base64.b64decode(value["payload"])
    payload = json_bytes(random, payload, [payload])
    if random.random() < 0.1:
        kind = payload_type(random.choice((Proposal, Ballot, CharterSignature)))
    pair = keys()[value["signatures"][0]["keyid"]]
    if random.random() < 0.1:
        pair = random.choice(sorted(keys().values(), key=lambda each: each.key_id))
    sig = pair.sign(pre_authentication(kind, payload))
    value |= {"payload": base64.b64encode(payload).decode(), "payloadType": kind}
    value["signatures"] = [{"keyid": pair.key_id, "sig": base64.b64encode(sig).decode()}]
    return encoded(value)


def _envelope(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    return (resigned if random.random() < 0.6 else json_bytes)(random, seed, seeds)


def _put(envelope: Envelope) -> None:
    here = world()
    if "ballot" in envelope.payloadType:
        machine.vote(here.assembly, envelope, here.moment)
    elif "signature" in envelope.payloadType:
        rest = here.signatures(here.charter, *(part for part in PARTS if part != "ask"))
        machine.adopt(here.founding.assembly, here.charter, [*rest, envelope], here.founding.moment)
    else:
        step = machine.propose(here.assembly, envelope, here.moment)
        if step.event is not None and machine.propose(step.assembly, envelope, here.moment).event is not None:
            raise AssertionError("a proposal stands twice")


def _envelopes() -> Parser:
    def call(data: bytes) -> bytes:
        envelope = Envelope.from_bytes(data)
        _put(envelope)
        return envelope.to_bytes()

    return Parser(seeds=[each.to_bytes() for each in _signed()], call=call)


# -- entries ------------------------------------------------------------------------------------


def _tip(kind: str) -> Tip:
    return {"charter-adopted": world().founding, "proposal-decided": ended()}.get(kind, world().tip)


def _entries() -> Parser:
    here = world()
    steps = [
        machine.adopt(
            here.founding.assembly, here.charter, here.signatures(here.charter), here.founding.moment
        ),
        *(machine.propose(here.assembly, here.proposal("ask", s), here.moment) for s in _subjects()[4:7]),
        machine.vote(here.assembly, here.ballot("ask", "main", "yes"), here.moment),
        machine.settle(ended().assembly, ended().moment),
    ]
    seeds = []
    for step in steps:
        assert step is not None and step.event is not None
        tip = _tip(step.event.type)
        seeds.append(make_entry(tip.sequence, tip.at, "consortium", step.event).to_bytes())

    def call(data: bytes) -> bytes:
        entry = Entry.from_bytes(data)
        event = consortium_event(entry)
        if not isinstance(event, Governed):
            raise FormatError("no entry of the members' decisions")
        after = repeated(_tip(event.type).assembly, entry, event, here.consortium)
        if event.model_dump(mode="json") != {"type": entry.type, **entry.body} or after == here.assembly:
            raise AssertionError("an entry is taken for another one, or changes nothing")
        return entry.to_bytes()

    return Parser(seeds=seeds, call=call)


def _entry(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """What is signed in it changed and signed again, the text of its charter or tally, or the entry."""
    kind, value = random.random(), json.loads(seed)
    body = value["body"]
    if kind < 0.35 and "envelope" in body:
        body["envelope"] = resigned(random, body["envelope"].encode(), seeds).decode("utf-8", "replace")
    elif kind < 0.6 and ("tally" in body or "charter" in body):
        name = "tally" if "tally" in body else "charter"
        body[name] = json_bytes(random, body[name].encode(), seeds).decode("utf-8", "replace")
    elif kind < 0.7 and "envelopes" in body:
        at = random.randrange(len(body["envelopes"]))
        body["envelopes"][at] = resigned(random, body["envelopes"][at].encode(), seeds).decode(
            "utf-8", "replace"
        )
    else:
        return (json_bytes if kind < 0.95 else octets)(random, seed, seeds)
    return encoded(value)


TARGETS: Sequence[Target] = (
    Target(name="decision-message", open=_messages, mutate=json_bytes),
    Target(name="council", open=_envelopes, mutate=_envelope),
    Target(name="council-entry", open=_entries, mutate=_entry),
)
