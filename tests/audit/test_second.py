"""A second verifier, which shares no code with the first, gives the same verdict on every ledger here."""

from __future__ import annotations

import ast
import base64
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

from tapestry.audit import file as ledger
from tapestry.audit.heads import cosignature
from tapestry.governance import charter, disputes, phases, pledge, proposal
from tapestry.identity.envelope import Envelope, EnvelopeSignature, sign
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import entries as kept
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import CoreSucceeded, Entry, make_entry
from tapestry.protocol import canonical, encoding, messages, plan
from tapestry.protocol.clock import add_seconds, time_text
from tapestry.protocol.messages import Attestation
from tapestry.rounds import events
from tests.audit import second
from tests.audit.scenes import SCENES, anything
from tests.audit.stage import on_core
from tests.audit.support import Ledger, changes, file_refused, rearranged

T = TypeVar("T")
SECOND = Path(second.__file__)
WHOLE = ("late", "real")
"""Ledgers that are changed in every way; others in so many, drawn once."""
SOME = 24


def both_refuse(given: bytes, folder: Path) -> bool:
    """What both say of a file. Fails where they do not agree."""
    path = folder / "ledger.jsonl"
    path.write_bytes(given)
    first = file_refused(path)
    try:
        with path.open("rb") as file:
            why = "" if second.verify(file) else "nothing"
    except second.Bad as e:
        why = str(e)
    assert first == bool(why), (
        f"the first {'refuses' if first else 'takes'} it, the second: {why or 'takes it'}"
    )
    return first


@pytest.fixture(params=[*SCENES, "real", "attested"])
def one(request: pytest.FixtureRequest, scenes: dict[str, Ledger]) -> tuple[str, Ledger]:
    name = str(request.param)
    return name, scenes[name] if name in scenes else request.getfixturevalue(name)


def drawn(name: str, every: Iterable[T]) -> list[T]:
    found = list(every)
    return found if name in WHOLE else random.Random(name).sample(found, SOME)


BESIDE = {
    "tests.audit.second_pledges",
    "tests.audit.second_votes",
    "tests.audit.second_weights",
    "tests.governance",
}
"""Parts of it that are files of their own."""
PARTS = (SECOND, *SECOND.parent.glob("second_*.py"), SECOND.parents[1] / "governance" / "second.py")


@pytest.mark.parametrize("part", PARTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_shares_no_code_and_is_short(part: Path) -> None:
    source = part.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 500
    found = set()
    for each in ast.walk(ast.parse(source)):
        if isinstance(each, ast.Import):
            found |= {alias.name.split(".")[0] for alias in each.names}
        elif isinstance(each, ast.ImportFrom):
            assert not each.level
            if each.module not in BESIDE:
                found.add(str(each.module).split(".")[0])
    assert ("cryptography" in found) == (part == SECOND)
    assert found - {"cryptography"} <= sys.stdlib_module_names
    assert not found & {"importlib", "subprocess", "runpy"}


def test_both_take_every_kind_of_ledger(one: tuple[str, Ledger], tmp_path: Path) -> None:
    name, given = one
    assert not both_refuse(given.to_bytes(), tmp_path), name
    assert not both_refuse(given.signed_anew().to_bytes(), tmp_path), (
        "the control: signing anew changes nothing"
    )


@pytest.mark.parametrize("seed", range(1, 6))
def test_both_take_whatever_a_core_records(seed: int, tmp_path: Path) -> None:
    given = anything(tmp_path / "core", seed)
    assert len(given.entries) > 40
    assert not both_refuse(given.to_bytes(), tmp_path)
    for *_, changed in random.Random(seed).sample(list(changes(given)), SOME):
        both_refuse(changed.signed_anew().to_bytes(), tmp_path)


def test_both_say_the_same_of_every_changed_value(one: tuple[str, Ledger], tmp_path: Path) -> None:
    name, given = one
    tried = drawn(name, changes(given))
    wrong = sum(both_refuse(changed.signed_anew().to_bytes(), tmp_path) for _, _, changed in tried)
    assert wrong > len(tried) // 2
    assert name not in WHOLE or wrong > 200


def test_both_say_the_same_where_entries_lack_or_move(one: tuple[str, Ledger], tmp_path: Path) -> None:
    name, given = one
    tried = drawn(name, rearranged(given))
    wrong = sum(both_refuse(changed.signed_anew().to_bytes(), tmp_path) for *_, changed in tried)
    assert wrong > len(tried) // 2


def test_both_say_the_same_of_times(one: tuple[str, Ledger], tmp_path: Path) -> None:
    """Some may be another, where nothing depends on them."""
    name, given = one
    wrong, tried = 0, drawn(name, ((place, by) for place in given.places for by in (1, 3_000_000_000)))
    for place, by_ms in tried:
        at = add_seconds(given.lines[place][1].at, by_ms / 1000)
        wrong += both_refuse(given.put(place, at=at).signed_anew().to_bytes(), tmp_path)
    assert wrong > len(tried) // 3


def test_both_refuse_another_frame(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    """Times that cannot be, another scope, another type, a type that the body states against the entry's."""
    given = scenes["rotated"]
    for place in given.places:
        entry: Entry = given.lines[place][1]
        for bad in (
            {"at": "1969-12-31T23:59:59.999Z"},
            {"at": "2026-02-30T00:00:00.000Z"},
            {"scope": "another"},
            {"scope": "consortium" if entry.scope != "consortium" else "run"},
            {"type": "run-started" if entry.type != "run-started" else "merged"},
            {"type": "founded" if entry.type != "founded" else "key-revoked"},
            {"type": "no-such-event", "body": {**entry.body, "type": entry.type}},
            {"body": {**entry.body, "more": 1}},
        ):
            assert both_refuse(given.put(place, **bad).signed_anew().to_bytes(), tmp_path), (entry.type, bad)


def test_a_default_that_is_left_out_is_another_entry(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    """One meaning has one form, or two who verify would hash two plans."""
    given = scenes["late"]
    tried = 0
    for place in given.places:
        entry: Entry = given.lines[place][1]
        for name in entry.body:
            shorter = {key: value for key, value in entry.body.items() if key != name}
            tried += 1
            wrong = given.put(place, body=shorter).signed_anew()
            assert both_refuse(wrong.to_bytes(), tmp_path), (entry.type, name)
    assert tried > 100
    place = given.of("run-planned")
    rules = given.lines[place][1].body["plan"]
    for name in rules:
        shorter = {key: value for key, value in rules.items() if key != name}
        assert both_refuse(given.changed(place, plan=shorter).signed_anew().to_bytes(), tmp_path), name


PLANS: list[tuple[str, dict[str, Any]]] = [
    ("quorum", {"rounds": {"quorum": 3}}),
    ("cap and quorum", {"merge": {"influence_cap": 0.4}}),
    ("schedule", {"inner": {"schedule": [{"after_merges": 2, "steps": 1}, {"after_merges": 2, "steps": 2}]}}),
    ("top-k", {"codec": {"norms": {"kind": "topk", "keep": 65, "side": 8, "bits": 2, "levels": "sigma"}}}),
    ("outer", {"merge": {"outer": "fedavg"}}),
    ("outer", {"merge": {"outer": "sgd"}}),
    ("refresh", {"merge": {"refresh": 2}}),
    ("cap and average", {"merge": {"influence_cap": 0.9, "average": "movers"}}),
    ("mixing", {"streaming": {"mixing": 0.5}}),
    ("staleness", {"rounds": {"staleness": 1}, "streaming": {"fragments": 2}}),
    ("overlap", {"streaming": {"overlap_steps": 10}}),
    ("overlap", {"streaming": {"overlap_steps": 5}, "inner": {"paces": {"bob": 0.45}}}),
    ("witness", {"witness": {"quorum": 3}}),
    ("witness", {"witness": {"quorum": 2, "members": ["ada"]}}),
    ("witness", {"witness": {"quorum": 1, "members": ["ada", "ada"]}}),
    ("witness and sync", {"witness": {"quorum": 1}, "sync": "fetch"}),
    ("feedback", {"codec": {"error_feedback": 0.5}}),
    ("feedback", {"codec": {"error_feedback": 0.5, "norms": {"kind": "bf16"}}}),
]


def _deep(value: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {**value, **over}
    return {k: {**value[k], **v} if isinstance(v, dict) and k in value else v for k, v in both.items()}


@pytest.mark.parametrize(("what", "over"), PLANS)
def test_both_refuse_a_plan_that_cannot_be(
    what: str, over: dict[str, Any], scenes: dict[str, Ledger], tmp_path: Path
) -> None:
    """It is the last entry, so nothing but the plan is wrong."""
    given = scenes["rotated"]
    place = given.of("run-planned")
    alone = Ledger(given.lines[: place + 1], given.key)
    assert not both_refuse(alone.signed_anew().to_bytes(), tmp_path), "the control"
    rules = _deep(given.lines[place][1].body["plan"], over)
    wrong = alone.changed(place, plan=rules).signed_anew().to_bytes()
    assert both_refuse(wrong, tmp_path)
    with pytest.raises(second.Bad, match=f"a plan cannot be: {what}"):
        second.verify(wrong.splitlines(keepends=True))


@pytest.mark.parametrize(
    ("value", "takes"), [(0.6, True), (1, True), (1e-3, True), (0, False), (1.5, False), (None, False)]
)
def test_both_say_the_same_of_a_field_that_may_be_left_out(
    value: float | None, takes: bool, scenes: dict[str, Ledger], tmp_path: Path
) -> None:
    """It has one form where it says nothing: it is not there."""
    given = scenes["rotated"]
    place = given.of("run-planned")
    alone = Ledger(given.lines[: place + 1], given.key)
    body = given.lines[place][1].body["plan"]
    assert "largest_overlap" not in body["merge"]
    rules = _deep(body, {"merge": {"largest_overlap": value}})
    assert both_refuse(alone.changed(place, plan=rules).signed_anew().to_bytes(), tmp_path) is not takes


def _files(given: Ledger) -> Iterator[tuple[str, bytes]]:
    """Other bytes, and what is wrong with them."""
    data, lines = given.to_bytes(), given.to_bytes().splitlines(keepends=True)
    blob = next(n for n, line in enumerate(lines) if line.startswith(b'{"blob"'))
    text = ledger.canonical.decode(lines[blob][:-1])["blob"]
    yield "cut off", data[:-30]
    yield "no line break", data[:-1]
    yield "no checkpoint", b"".join(lines[:-1])
    yield "empty", b""
    yield "more than its checkpoint", data + lines[-1]
    yield "another format", data.replace(b"tapestry.ledger", b"tapestry.register", 1)
    yield "a later version", data.replace(b'"version":1}', b'"version":2}', 1)
    yield "no first line", b"".join(lines[1:])
    yield "a space", data.replace(b'{"entry":', b'{"entry": ', 1)
    yield "a key twice", data.replace(b'{"blob":"', b'{"blob":"x","blob":"', 1)
    yield "two fields", data.replace(b'{"blob":"', b'{"a":1,"blob":"', 1)
    yield "another field", data.replace(b'{"blob":"', b'{"clob":"', 1)
    yield "another number", data.replace(b'"sequence":2,', b'"sequence":2.0,', 1)
    yield "not base64", data.replace(b'{"blob":"', b'{"blob":"!', 1)
    yield "not ASCII", data.replace(b'{"blob":"', '{"blob":"é'.encode(), 1)
    yield "not UTF-8", data.replace(b'{"blob":"', b'{"blob":"\xff', 1)
    yield "half a character", data.replace(b'{"blob":"', b'{"blob":"\\ud800', 1)
    yield "deep", data.replace(b'{"blob":"', b'{"blob":' + b"[" * 100_000 + b'"', 1)
    yield "a blob of nothing", data.replace(text.encode(), b"", 1)
    yield "no blob", b"".join(line for n, line in enumerate(lines) if n != blob)
    other = {**canonical.decode(base64.b64decode(text)), "payloadType": "application/vnd.tapestry.score+json"}
    yield "another payload type", data.replace(text.encode(), base64.b64encode(canonical.encode(other)), 1)
    note = Note.from_bytes(given.lines[-1][1].encode())
    origin = origin_of(given.entries[0].digest)
    stranger = Note(note.text).signed(origin, KeyPair.generate())
    elsewhere = Note(note.text).signed("tapestry", given.key)
    for what, bad in (
        ("a stranger's", stranger.to_bytes().decode()),
        ("another name's", elsewhere.to_bytes().decode()),
        ("no signature", note.text + "\n"),
        ("a signature twice", note.to_bytes().decode() + note.signatures[0].line),
        ("an empty line", note.to_bytes().decode() + "\n"),
        ("a control character", note.to_bytes().decode().replace(" ", "\t", 1)),
        ("a plain hyphen", note.to_bytes().decode().replace("—", "-", 1)),
        ("an extension", Note(note.text + "more\n").signed(origin, given.key).to_bytes().decode()),
        (
            "another size",
            Note(note.text.replace("\n", "\n0", 1)).signed(origin, given.key).to_bytes().decode(),
        ),
    ):
        yield what, b"".join(lines[:-1]) + canonical.encode({"checkpoint": bad}) + b"\n"


def test_both_refuse_envelopes_that_nobody_names(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    given = scenes["witnessed"]
    envelope = next(value for kind, value in given.lines if kind == "blob")
    for place in range(len(given.lines)):
        lines = [*given.lines[:place], ("blob", envelope), *given.lines[place:]]
        named = given.lines[place] == ("blob", envelope) or given.lines[place - 1 : place] == [
            ("blob", envelope)
        ]
        assert both_refuse(Ledger(lines, given.key).to_bytes(), tmp_path) == (not named)


def _attested_by(given: Ledger, change: Callable[[Attestation], Attestation], key: KeyPair) -> Ledger:
    """The last entry but one that attests, and all before it; its envelope changed and signed by a key."""
    place = given.of("base-attested", -1)
    said = change(Envelope.from_bytes(given.lines[place - 1][1]).unverified(Attestation))
    envelope = sign(said, key)
    lines = [*given.lines[: place - 1], ("blob", envelope.to_bytes()), given.lines[place]]
    return Ledger(lines, given.key).changed(place, attestation=envelope.digest).signed_anew()


def test_both_say_the_same_of_attestations(tmp_path: Path) -> None:
    """What is wrong with one that its own key has signed, so that nothing else is wrong."""
    with on_core(tmp_path / "core") as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, witness_quorum=2)
        for node in (ada, bob):
            scene.send(node)
        scene.merge()
        scene.attest(ada)
        given = scene.ledger()

    def cosigned(
        said: Attestation, time_s: int, key: KeyPair = ada.witness, node: str = "ada-1"
    ) -> Attestation:
        head = Checkpoint(origin_of(said.consortium), said.size, bytes.fromhex(said.root))
        return said.model_copy(update={"cosignature": cosignature(head, "ada", node, key, time_s)})

    def other(**fields: Any) -> Callable[[Attestation], Attestation]:
        return lambda said: cosigned(said.model_copy(update=fields), 5)

    def loose(said: Attestation) -> Attestation:
        text = said.cosignature
        last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[text[-3]]
        return said.model_copy(update={"cosignature": text[:-3] + last + "=="})

    for good in (
        lambda said: said,
        lambda said: cosigned(said, 0),
        lambda said: cosigned(said, (1 << 63) - 1),
    ):
        assert not both_refuse(_attested_by(given, good, ada.witness).to_bytes(), tmp_path), "the control"
    for what, change in {
        "cosigned by another": lambda said: cosigned(said, 5, bob.witness),
        "cosigned by the node's key": lambda said: cosigned(said, 5, ada.key),
        "cosigned under another name": lambda said: cosigned(said, 5, node="ada-2"),
        "base64 in another form": loose,
        "another tree": other(root="7" * 64),
        "another size": other(size=3),
        "another run": other(run="other"),
        "another consortium": other(consortium="7" * 64),
        "another state": other(state="7" * 64),
        "another round": other(round=2),
        "other merges": other(merges=2),
        "another member": other(member="bob"),
        "another node": other(node="bob-1"),
    }.items():
        assert both_refuse(_attested_by(given, change, ada.witness).to_bytes(), tmp_path), what
    assert both_refuse(_attested_by(given, lambda said: said, ada.key).to_bytes(), tmp_path), "a node key"
    assert both_refuse(_attested_by(given, lambda said: said, bob.witness).to_bytes(), tmp_path), "another's"


def test_both_say_the_same_of_successions(tmp_path: Path) -> None:
    with on_core(tmp_path / "core") as scene:
        ada, bob, cyd = (scene.node(name) for name in ("ada", "bob", "cyd"))
        second_node = scene.node("ada", "zoe-2", like=ada)
        new = KeyPair.generate()

        def succeeded(*envelopes: Envelope, key: str = new.public_key) -> Ledger:
            texts = tuple(each.to_bytes().decode() for each in envelopes)
            event = CoreSucceeded(core_key=key, envelopes=texts)
            now = scene.ledger()
            entry = make_entry(len(now.entries) + 1, time_text(scene.now), "consortium", event)
            return Ledger([*now.lines[:-1], ("entry", entry), now.lines[-1]], new).signed_anew()

        def both(*envelopes: Envelope, key: str = new.public_key) -> bool:
            return both_refuse(succeeded(*envelopes, key=key).to_bytes(), tmp_path)

        word = scene.succession
        from_ada, from_bob = word(ada, new.public_key), word(bob, new.public_key)
        assert not both(from_ada, from_bob), "the control"
        assert not both(from_bob, from_ada, from_ada, word(second_node, new.public_key)), "more than needed"
        assert both(from_ada), "one of three"
        assert both(from_ada, from_ada)
        assert both(from_ada, word(second_node, new.public_key)), "two nodes are one member"
        assert both(from_ada, word(bob, new.public_key, key=bob.key)), "a node key"
        assert both(from_ada, word(bob, new.public_key, key=cyd.witness)), "another's"
        assert both(from_ada, from_bob, word(cyd, KeyPair.generate().public_key)), "for another key too"
        for fields in ({"size": 3}, {"root": "7" * 64}, {"consortium": "7" * 64}, {"member": "cyd"}):
            assert both(from_ada, word(bob, new.public_key, **fields)), fields
        for used in (ada.key, ada.witness, ada.root):
            envelopes = [word(node, used.public_key) for node in (ada, bob)]
            assert both(*envelopes, key=used.public_key), "a used key"
        scene.revoke(bob, bob.witness)
        assert both(word(ada, new.public_key), word(bob, new.public_key)), "a revoked key"
        assert not both(word(ada, new.public_key), word(cyd, new.public_key)), "the control"


def test_both_refuse_other_bytes(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    tried = 0
    for what, data in _files(scenes["rotated"]):
        assert both_refuse(data, tmp_path), what
        tried += 1
    assert tried > 25


def test_both_carry_signatures_of_others_along(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    given = scenes["rotated"]
    note = Note.from_bytes(given.lines[-1][1].encode()).signed("somebody/else", KeyPair.generate())
    more = Ledger([*given.lines[:-1], ("checkpoint", note.to_bytes().decode())], given.key)
    assert not both_refuse(more.to_bytes(), tmp_path)


def test_base64_has_one_form(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    """The unused bits of the last character are zero."""
    given = scenes["rotated"]
    place = next(n for n, (kind, value) in enumerate(given.lines) if kind == "blob" and len(value) % 3)
    text = base64.b64encode(given.lines[place][1]).decode()
    last = text.rstrip("=")[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    loose = text.rstrip("=")[:-1] + alphabet[alphabet.index(last) + 1] + "=" * text.count("=")
    assert base64.b64decode(loose) == base64.b64decode(text)
    assert both_refuse(given.to_bytes().replace(text.encode(), loose.encode()), tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        *(
            0.0,
            -0.0,
            1.0,
            5e-324,
            1e-7,
            1e-6,
            1.5e-6,
            0.1,
            123.456,
            1e16,
            1.2345678901234567e20,
            1e21,
            -2.5e-9,
        ),
        *(1.7976931348623157e308, 9007199254740992.0, 333333333.3333333),
    ],
)
def test_numbers_are_written_alike(value: float) -> None:
    assert second.canonical(value).encode() == canonical.encode(value)


def test_the_command_says_it(scenes: dict[str, Ledger], tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    given = scenes["rotated"]
    for data, code, said in (
        (given.to_bytes(), 0, f"OK: {len(given.entries)} entries, 2 members, 1 runs"),
        (given.changed(given.of("round-closed"), round=2).to_bytes(), 1, "by the rules comes round-closed"),
    ):
        path.write_bytes(data)
        done = subprocess.run([sys.executable, SECOND, path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (code, "")
        assert said in done.stdout


SUBJECTS: list[type[BaseModel]] = [
    proposal.Admit, proposal.Suspend, proposal.Expel, proposal.RatifyPlan, proposal.RevisePlan,
    proposal.OpenPhase, proposal.ChangeCharter, proposal.AcceptRelease, proposal.RevokeRelease,
    proposal.AppointOperator, proposal.ReplaceRootKey, proposal.HearAppeal,
]  # fmt: skip
MODELS: dict[str, type[BaseModel]] = {
    "tapestry.entry": kept.Entry,
    "tapestry.join": messages.Join,
    "tapestry.key": messages.KeyCertificate,
    "tapestry.key-revocation": messages.KeyRevocation,
    "tapestry.contribution": messages.Contribution,
    "tapestry.enrolment": messages.Enrolment,
    "tapestry.attestation": messages.Attestation,
    "tapestry.score": messages.Score,
    "tapestry.succession": messages.Succession,
    "tapestry.plan": plan.Plan,
    "rounds": plan.Rounds,
    "inner": plan.Inner,
    "stage": plan.Stage,
    "codec": encoding.Codec,
    "dense": encoding.Bf16,
    "topk": encoding.TopK,
    "merge": plan.Merge,
    "streaming": plan.Streaming,
    "witness": plan.Witness,
    "evaluation": plan.Evaluation,
    "retention": plan.Retention,
    "origin": plan.Origin,
    "merged": messages.Merged,
    "tapestry.charter-signature": proposal.CharterSignature,
    "tapestry.proposal": proposal.Proposal,
    "tapestry.ballot": proposal.Ballot,
    "tapestry.pledge": pledge.Pledge,
    "tapestry.pledge-confirmation": pledge.Confirmation,
    "phase": phases.Phase,
    "tapestry.dispute": disputes.Dispute,
    "vote-key": kept.VoteKey,
    **{str(each.model_fields["kind"].default): each for each in SUBJECTS},
    "tapestry.charter": charter.Charter,
    "charter-member": charter.Member,
    "voting": charter.Voting,
    "rule": charter.Rule,
    "accounting": charter.Contribution,
    "entitlements": charter.Entitlements,
    "data": charter.Data,
    "public": charter.Public,
    "release": charter.Release,
    "gates": charter.Gates,
    "deadlines": charter.Deadlines,
    "envelope": Envelope,
    "signature": EnvelopeSignature,
}
EVENTS: list[type[BaseModel]] = [
    kept.Founded, kept.MemberAdmitted, kept.KeyCertified, kept.KeyRevoked, kept.CoreSucceeded,
    kept.CharterAdopted, kept.ProposalOpened, kept.BallotCast, kept.ProposalDecided,
    kept.PledgeMade, kept.PledgeConfirmed,
    kept.AccountDisputed,
    events.RunPlanned, events.PlanRevised, events.RunStarted, events.RunFinished, events.NodeEnrolled,
    events.NodeWithdrawn, events.RoundOpened, events.ContributionReceived, events.ContributionCommitted,
    events.RoundSealed, events.ContributionRevealed, events.ContributionAccepted,
    events.ContributionRefused, events.ContributionLate, events.RoundWidened, events.RoundClosed,
    events.RoundCommitted, events.RoundAbandoned, events.BaseAttested, events.ScorePublished,
]  # fmt: skip


def _fields(model: type[BaseModel]) -> set[str]:
    """Names, with a `?` behind that of a field that is left out where it says nothing."""
    return {name + "?" * (field.exclude_if is not None) for name, field in model.model_fields.items()}


def test_the_page_names_every_field() -> None:
    found = {name: _fields(model) for name, model in MODELS.items()}
    for model in EVENTS:
        found[str(model.model_fields["type"].default)] = _fields(model) - {"type"}
    page = {name: set(fields) for name, fields in second.SCHEMAS.items() if isinstance(fields, dict)}
    assert {name for name in page if name not in found} == {
        "tapestry.ledger", "line-blob", "line-entry", "line-checkpoint"
    }  # fmt: skip
    for name, fields in found.items():
        assert page[name] == fields, name
    for name, model in MODELS.items():
        left_out = {key for key, field in model.model_fields.items() if field.exclude_if is not None}
        assert left_out == {key[:-1] for key in second.SCHEMAS[name] if key[-1] == "?"}, name
