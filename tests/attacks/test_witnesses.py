"""A core that says of its members that they have repeated a merge, and shows each another history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit.fork import ForkProof, prove
from tapestry.audit.heads import cosignature
from tapestry.audit.verify import Verifier
from tapestry.core.consortium import succeed
from tapestry.errors import Fork, IntegrityError, KeyRefused, TapestryError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing
from tapestry.identity.keys import KeyPair
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import CoreSucceeded, make_entry
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Score
from tapestry.rounds import machine
from tapestry.rounds.state import RunState
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.switches import Switches
from tests.audit.stage import Node, Scene, on_core
from tests.audit.support import Ledger, verify
from tests.node.test_replica import Scene as Followed
from tests.node.test_replica import withdraw

WHO = "a core, in its ledger"
Given = tuple[Any, ...]
VERIFIER = "tapestry.audit.verify.Verifier"
ATTESTED = (f"{VERIFIER}._attestation", "(said.size, said.root) != (committed, self.root(committed).hex())")
NAMED = (f"{VERIFIER}._entry", "self._blobs")


class Story:
    """A run of ada, bob and cyd, of whom two attest each merge. After the first it waits for them."""

    def __init__(self, scene: Scene, *, quorum: int = 2) -> None:
        self.scene = scene
        self.ada, self.bob, self.cyd = (scene.node(name) for name in ("ada", "bob", "cyd"))
        self.nodes = (self.ada, self.bob, self.cyd)
        scene.running(*self.nodes, rounds_min_nodes=3, rounds_total=3, witness_quorum=quorum)
        self.merge()

    def merge(self) -> None:
        for node in self.nodes:
            self.scene.send(node)
        self.scene.merge()


def enough(_state: RunState) -> bool:
    return True


def _taken(given: Ledger, place: int, envelope: Envelope, field: str, **body: Any) -> Ledger:
    """The envelope before an entry is another, and the entry as it then must be."""
    lines = list(given.lines)
    assert lines[place - 1][0] == "blob"
    lines[place - 1] = ("blob", envelope.to_bytes())
    return replace(given, lines=lines).changed(place, **body, **{field: envelope.digest}).signed_anew()


# -- who has repeated a merge -------------------------------------------------------------------


@attack(
    "round-opened-without-witnesses",
    tries="opens the next round before any member has repeated the merge it starts from",
    stopped_by="the plan's quorum of attestations stands before it in the ledger",
)
def test_no_quorum(tmp_path: Path, switches: Switches) -> None:
    with on_core(tmp_path) as scene, pytest.MonkeyPatch.context() as lies:
        lies.setattr(RunState, "witnessed", property(enough))
        story = Story(scene)
        scene.attest(story.ada)
        assert scene.state().current is not None
        lie = scene.ledger()
    with pytest.raises(IntegrityError, match=r"by the rules nothing follows here|the ledger has another"):
        verify(lie)
    with switches.check_off("tapestry.rounds.machine._settle", "not state.witnessed"):
        assert verify(lie).merges == 1


def _forged(story: Story, key: KeyPair) -> Ledger:
    """Ada attests; in bob's name the core does, with a key."""
    scene = story.scene
    scene.attest(story.ada)
    scene.attest(story.bob)
    given = scene.ledger()
    return _taken(given, given.of("base-attested", 1), scene.attestation(story.bob, key=key), "attestation")


@attacks(
    case(
        "attestation-forged-with-the-node-key",
        "attests in the name of a member whose node key it has come by",
        "a witness key signs attestations, a node key never",
        False,
    ),
    case(
        "attestation-forged-with-the-cores-key",
        "attests in a member's name with its own key",
        "only keys that the member's root key has certified",
        True,
    ),
)
def test_forged(tmp_path: Path, switches: Switches, given: Given) -> None:
    (own,) = given
    with on_core(tmp_path) as scene:
        story, core = Story(scene), scene.core.consortium.core_key
        lie = _forged(story, core if own else story.bob.key)
    with pytest.raises(IntegrityError, match="certified" if own else "signed by a node key"):
        verify(lie)
    if not own:
        with switches.check_off(
            f"{VERIFIER}._attestation", "WITNESS_ONLY", lambda: frozenset(("node", "witness"))
        ):
            assert verify(lie).attestations == 2
        return
    true = KeyRing.verify

    def anybody(ring: KeyRing, envelope: Envelope, kind: Any, **options: Any) -> Any:
        if envelope.signatures[0].keyid != core.key_id:
            return true(ring, envelope, kind, **options)
        return envelope.unverified(kind), None

    def public(verifier: Verifier, key: str) -> str:
        return core.public_key if key == core.key_id else verifier.ring.keys[key].certificate.public_key

    with switches.all_off(
        ("tapestry.identity.keyring.KeyRing.verify", None, anybody),
        (
            f"{VERIFIER}._attestation",
            "self._assembly.ring.keys[self._signer].certificate.public_key",
            public,
            "self, self._signer",
        ),
    ):
        assert verify(lie).attestations == 2


@attack(
    "attestation-replayed",
    tries="opens a round on the word that members gave for an earlier merge",
    stopped_by="an attestation names the merge, its state and the tree that ends with it",
)
def test_replayed(tmp_path: Path, switches: Switches) -> None:
    with on_core(tmp_path) as scene:
        story = Story(scene)
        old = scene.attestation(story.bob)
        for node in (story.ada, story.bob):
            scene.attest(node)
        story.merge()
        with pytest.raises(TapestryError):
            scene.core.runs.attest("run", old, story.bob.signer)
        scene.attest(story.ada)
        scene.attest(story.bob)
        given = scene.ledger()
    said = old.unverified(Attestation)
    lie = _taken(given, given.of("base-attested", 3), old, "attestation")
    with pytest.raises(IntegrityError, match="attested another ledger"):
        verify(lie)
    with switches.all_off(
        ATTESTED,
        (
            "tapestry.rounds.machine._attest",
            "not state.merged or (given.merges, given.state, given.round) != (\n"
            "        state.merges,\n        state.head,\n        state.head_round,\n    )",
        ),
    ):
        again = _taken(
            given,
            given.of("base-attested", 3),
            old,
            "attestation",
            round=said.round,
            merges=said.merges,
            state=said.state,
        )
        assert verify(again).attestations == 4


@attack(
    "cosignature-of-another-tree",
    tries="puts a member's word for a merge over a tree that the member has not seen",
    stopped_by="the witness cosigns the head it has computed itself, and all entries before must make it",
)
def test_another_tree(tmp_path: Path, switches: Switches) -> None:
    with on_core(tmp_path) as scene:
        story = Story(scene)
        scene.attest(story.ada)
        given = scene.ledger()
        said = scene.attestation(story.ada).unverified(Attestation)
    other = Checkpoint(origin_of(said.consortium), said.size, b"\x07" * 32)
    signed = cosignature(other, said.member, said.node, story.ada.witness, 5)
    for fields in ({"cosignature": signed}, {"cosignature": signed, "root": other.root.hex()}):
        lie = _taken(
            given,
            given.of("base-attested"),
            sign(said.model_copy(update=fields), story.ada.witness),
            "attestation",
        )
        with pytest.raises(IntegrityError, match=r"not cosigned|does not verify|another ledger|signature"):
            verify(lie)
    with switches.check_off(*ATTESTED):
        assert verify(lie).attestations == 1


# -- what a member never said ---------------------------------------------------------------------


def _holder(given: Ledger, kind: Any, place: int) -> Any:
    return Envelope.from_bytes(given.lines[place - 1][1]).unverified(kind)


@attacks(
    case(
        "enrolment-made-up",
        "enrols a node that never asked, to have it counted",
        "the enrolment is in the ledger, signed by the node's key",
        "node-enrolled",
        "enrolment",
        Enrolment,
        {},
    ),
    case(
        "score-made-up",
        "publishes a figure in a member's name that it never gave",
        "the score is in the ledger, signed by the node's key",
        "score-published",
        "score",
        Score,
        {"bits_per_byte": 0.01},
    ),
)
def test_made_up(lies: Ledger, switches: Switches, given: Given) -> None:
    type_, field, kind, fields = given
    place, core = lies.of(type_), lies.key
    said = _holder(lies, kind, place)
    forged = sign(said.model_copy(update=fields), core)
    lie = _taken(lies, place, forged, field, **fields)
    with pytest.raises(IntegrityError, match="no member has certified"):
        verify(lie)
    without = replace(lies, lines=[line for n, line in enumerate(lies.lines) if n != place - 1])
    with pytest.raises(IntegrityError, match="not in the ledger's file"):
        verify(without.signed_anew())
    if fields:
        with pytest.raises(IntegrityError, match="by the rules"):
            verify(lies.changed(place, **fields).signed_anew())
    true = KeyRing.verify

    def anybody(ring: KeyRing, envelope: Envelope, of: Any, **options: Any) -> Any:
        if envelope.signatures[0].keyid != core.key_id:
            return true(ring, envelope, of, **options)
        return envelope.unverified(of), None

    with switches.off("tapestry.identity.keyring.KeyRing.verify", anybody):
        assert verify(lie).entries == len(lies.entries)


@attack(
    "envelopes-that-nobody-names",
    tries="hides bytes in a ledger that all members keep, as envelopes that no entry speaks of",
    stopped_by="an envelope stands before the entry that names it",
)
def test_unnamed(lies: Ledger, switches: Switches) -> None:
    place = lies.of("run-started")
    lie = replace(lies, lines=[*lies.lines[:place], ("blob", b"anything"), *lies.lines[place:]])
    with pytest.raises(IntegrityError, match="does not name"):
        verify(lie)
    with switches.check_off(*NAMED), switches.check_off(f"{VERIFIER}._checkpoint", "self._blobs"):
        assert verify(lie).entries == len(lies.entries)


@attack(
    "core-succeeded-by-a-minority",
    tries="has another key speak for the ledger with the word of one member of three",
    stopped_by="more than half of all members sign, each with a witness key",
)
def test_minority(tmp_path: Path, switches: Switches) -> None:
    new = KeyPair.generate()
    with on_core(tmp_path) as scene:
        story = Story(scene)
        second = scene.node("ada", "zoe-2", like=story.ada)
        words = [scene.succession(node, new.public_key) for node in (story.ada, second)]
        size, root = scene.core.journal.tree_head()
        with pytest.raises(KeyRefused, match="1 of 3"):
            succeed(scene.core.journal, scene.consortium, new.public_key, words, size, root.hex())
        given, at = scene.ledger(), time_text(scene.now)
    event = CoreSucceeded(
        core_key=new.public_key, envelopes=tuple(each.to_bytes().decode() for each in words)
    )
    entry = make_entry(size + 1, at, "consortium", event)
    lie = Ledger([*given.lines[:-1], ("entry", entry), given.lines[-1]], new).signed_anew()
    with pytest.raises(IntegrityError, match="1 of 3 members"):
        verify(lie)
    with switches.check_off(
        "tapestry.identity.keyring.KeyRing.succeed", "2 * len(signed) <= len(self.active)"
    ):
        assert verify(lie).entries == size + 1


# -- two histories --------------------------------------------------------------------------------


@attack(
    "split-view",
    tries="shows a node one history, and later another one that it has signed as well",
    stopped_by="a node keeps what it has seen, and proves the fork with both signed heads",
)
def test_split_view(tmp_path: Path, switches: Switches) -> None:
    scene = Followed(tmp_path)
    other = scene.copy("other")
    try:
        withdraw(scene.core, "ada-1")
        other.runs.apply("run", machine.Withdraw(node="ada-1", reason="left"))
        replica = scene.replica()
        replica.follow(scene.size())
        replica.keep()
        scene.client.core = other
        with pytest.raises(Fork):
            replica.follow(scene.size(other), again=True)
        (path,) = scene.home.ledger.glob("fork-*.json")
        assert ForkProof.from_bytes(path.read_bytes()).check() == scene.joined.consortium
        assert "ada-1" not in replica.view("run").enrolled, "it stands by what it saw first"
        path.unlink()
        withdraw(other, "bob-1")
        with switches.check_off(
            f"{VERIFIER}._checkpoint", "(said.size, said.root) != (self.found.entries, root)"
        ):
            replica.follow(scene.size(other), again=True)
        assert replica.view("run").enrolled == (), "both histories, one behind the other"
    finally:
        for core in scene.opened:
            core.close()


@attack(
    "contribution-carried-into-another-view",
    tries="shows two members different histories, and uses the contribution of one in the other's",
    stopped_by="a contribution names, under its own signature, the head that its node was shown",
)
def test_carried(tmp_path: Path, switches: Switches) -> None:
    with on_core(tmp_path) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob)
        ours = scene.ledger()
        first = ours.entries[-1]
        view = ours.put(ours.places[-1], at="2030-01-01T00:00:00.000Z").signed_anew()
        seen = str(view.lines[-1][1])
        scene.send(bob)
        scene.send(ada)
        given = scene.ledger()
        shown = scene.envelope(ada, checkpoint=seen)
    assert first.sequence == len(view.entries) > 1
    place = given.of("contribution-received", 1)
    lie = _taken(given, place, shown, "contribution", delta=_delta(shown))
    lie = replace(lie, lines=_until(lie, place)).signed_anew()
    with pytest.raises(Fork, match="another tree") as caught:
        verify(lie)
    assert prove(lie.entries, str(lie.lines[-1][1]), caught.value.seen).check() == scene.consortium
    honest = _taken(given, place, _with(shown, ada, None), "contribution", delta=_delta(shown))
    assert verify(replace(honest, lines=_until(honest, place)).signed_anew()).contributions == 2
    with switches.check_off(
        f"{VERIFIER}._contribution", "seen.size > self.found.entries or seen.root != self.root(seen.size)"
    ):
        assert verify(lie).contributions == 2


def _with(envelope: Envelope, node: Node, checkpoint: str | None) -> Envelope:
    said = envelope.unverified(Contribution).model_copy(update={"checkpoint": checkpoint})
    return sign(said, node.key)


def _delta(envelope: Envelope) -> str:
    return envelope.unverified(Contribution).delta


def _until(given: Ledger, place: int) -> list[Any]:
    return [*given.lines[: place + 1], given.lines[-1]]
