"""Attestations over HTTP, the note that they make, heads in contributions, and the ledger in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import file
from tapestry.audit.heads import cosignature, cosigner
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol.messages import Attestation
from tapestry.protocol.plan import Plan
from tests.core.support import CoreUnderTest, Member, code, make_plan


class Scene:
    """A run of ada and bob whose first merge waits for two witnesses."""

    def __init__(self, core: CoreUnderTest, folder: Path) -> None:
        self.core = core
        self.plan: Plan = make_plan(folder, witnesses=2)
        self.ada, self.bob = core.running(self.plan, folder, "ada", "bob")
        self.before = self.head()
        for member in (self.ada, self.bob):
            member.hand_in(self.plan, 0.5)
        self.ada.wait(lambda view: view.head.merges == 1)

    def head(self) -> str:
        return self.ada.ask("GET", "/v1/ledger/checkpoint").text

    def note(self, round: int = 1) -> Note:
        answer = self.ada.ask("GET", f"/v1/runs/run/rounds/{round}/checkpoint")
        assert answer.status_code == 200, answer.text
        return Note.from_bytes(answer.content)

    @property
    def attested(self) -> dict[str, str]:
        state = self.ada.ledger().state("run")
        assert state is not None
        return state.attested


@pytest.fixture
def scene(serving: CoreUnderTest, tmp_path: Path) -> Iterator[Scene]:
    yield Scene(serving, tmp_path / "made")


def test_the_next_round_opens_once_two_members_have_attested(scene: Scene) -> None:
    view = scene.ada.view()
    assert view.current is None and not view.head.witnessed
    assert view.waiting_for == "witnesses of merge 1: 0 of 2 members; missing: ada, bob"
    first = scene.ada.attestation()
    for _ in range(2):  # again has no effect
        assert scene.ada.attest(first).status_code == 200
    view = scene.ada.view()
    assert (view.current, view.head.witnesses) == (None, ("ada",))
    assert scene.bob.attest().status_code == 200
    view = scene.ada.view()
    assert view.current is not None and view.current.round == 2 and view.head.witnessed
    assert scene.ada.attest(scene.ada.attestation()).status_code == 200
    assert scene.attested == {"ada-1": "ada", "bob-1": "bob"}


def _other_tree(member: Member) -> Envelope:
    return member.attestation(root="7" * 64)


def _other_size(member: Member) -> Envelope:
    return member.attestation(size=3)


def _older_tree(member: Member) -> Envelope:
    """A true head, but not the one that ends with the merge."""
    return member.attestation(size=3, root=member.ledger().root(3).hex())


def _cosigned_by_another(member: Member) -> Envelope:
    said = member.attestation().unverified(Attestation)
    head = Checkpoint(origin_of(said.consortium), said.size, bytes.fromhex(said.root))
    return member.attestation(cosignature=cosignature(head, said.member, said.node, KeyPair.generate(), 5))


def _cosigned_other_tree(member: Member) -> Envelope:
    said = member.attestation().unverified(Attestation)
    head = Checkpoint(origin_of(said.consortium), said.size, b"\x07" * 32)
    return member.attestation(cosignature=cosignature(head, said.member, said.node, member.witness, 5))


def _cosigned_under_another_name(member: Member) -> Envelope:
    said = member.attestation().unverified(Attestation)
    head = Checkpoint(origin_of(said.consortium), said.size, bytes.fromhex(said.root))
    return member.attestation(cosignature=cosignature(head, "bob", "bob-1", member.witness, 5))


def _node_key(member: Member) -> Envelope:
    return member.attestation(key=member.key)


def _anothers_node(member: Member) -> Envelope:
    return member.attestation(node="bob-1", member="bob")


WRONG: list[tuple[Callable[[Member], Envelope], str]] = [
    (_other_tree, "conflict"),
    (_other_size, "conflict"),
    (_older_tree, "conflict"),
    (_cosigned_by_another, "signature"),
    (_cosigned_other_tree, "signature"),
    (_cosigned_under_another_name, "signature"),
    (_node_key, "key"),
    (_anothers_node, "key"),
    (lambda member: member.attestation(state="7" * 64), "conflict"),
    (lambda member: member.attestation(round=2), "conflict"),
    (lambda member: member.attestation(merges=2), "conflict"),
    (lambda member: member.attestation(consortium="7" * 64), "refused"),
]


def test_one_that_is_not_right_is_refused(scene: Scene) -> None:
    for number, (make, expected) in enumerate(WRONG):
        answer = scene.ada.attest(make(scene.ada))
        assert code(answer) == expected, (number, answer.text)
    assert scene.attested == {}
    assert scene.ada.attest().status_code == 200, "the control"


def test_one_that_another_has_signed(scene: Scene) -> None:
    assert code(scene.ada.attest(scene.bob.attestation())) == "key"
    eve = scene.core.member("eve")
    assert code(eve.attest()) == "refused"  # not enrolled
    assert scene.attested == {}


def test_the_cosigned_note_is_anybodys_to_check(scene: Scene) -> None:
    assert scene.ada.attest().status_code == 200
    assert scene.bob.attest().status_code == 200
    note, ledger = scene.note(), scene.bob.ledger()
    note.check(origin_of(scene.core.consortium), scene.ada.core_key())
    said = Checkpoint.parse(note.text)
    assert said.size == ledger.committed("run") and said.root == ledger.root(said.size)
    for member in (scene.ada, scene.bob):
        name = cosigner(member.name, member.node)
        assert note.cosigned_at(name, member.witness.public_key) is not None
        assert note.cosigned_at(name, member.key.public_key) is None
    assert len(note.signatures) == 3
    assert code(scene.ada.ask("GET", "/v1/runs/run/rounds/2/checkpoint")) == "not-found"
    assert code(scene.ada.ask("GET", "/v1/runs/run/rounds/x/checkpoint")) == "not-found"


def test_a_merge_without_witnesses_has_a_note_too(scene: Scene) -> None:
    assert len(scene.note().signatures) == 1


def second_round(scene: Scene) -> dict[str, Any]:
    for member in (scene.ada, scene.bob):
        assert member.attest().status_code == 200
    view = scene.ada.view()
    assert view.current is not None
    return {"round": 2, "state": view.current.state}


def test_a_contribution_that_names_a_head_of_this_ledger(scene: Scene) -> None:
    fields = second_round(scene)
    scene.ada.hand_in(scene.plan, 0.25, **fields, checkpoint=scene.before)
    receipt = scene.bob.hand_in(scene.plan, 0.25, **fields, checkpoint=scene.head())
    assert receipt.decided_by > receipt.received_at
    scene.ada.wait(lambda view: view.head.merges == 2)


def test_a_contribution_that_names_a_head_of_another_ledger_is_refused(scene: Scene) -> None:
    """Signed by this very core: it was put back since, or it lies to somebody."""
    fields = second_round(scene)
    with Core.open(scene.core.root) as core:
        key, size = core.consortium.core_key, core.journal.tree_head()[0]
        root = core.journal.tree_root(3)
    origin = origin_of(scene.core.consortium)
    delta = scene.ada.send_delta(0.25)

    def tried(of: str, by: KeyPair, count: int, tree: bytes) -> str:
        note = Note(Checkpoint(of, count, tree).text).signed(of, by).to_bytes().decode()
        given = scene.ada.contribution(scene.plan, delta, **fields, checkpoint=note)
        answer = scene.ada.contribute(given)
        return "" if answer.status_code == 200 else code(answer)

    assert tried(origin, key, 3, b"\x07" * 32) == "conflict"
    assert tried(origin, key, size + 1, root) == "conflict"
    assert tried(origin, KeyPair.generate(), 3, root) == "signature"
    assert tried(origin_of("7" * 64), key, 3, root) in ("signature", "format")
    assert scene.ada.view().current is not None
    assert tried(origin, key, 3, root) == "", "the control"


def test_the_ledger_comes_in_pages(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any position on, each page whole lines; only the last has a checkpoint."""
    scene.core.stop()
    with Core.open(scene.core.root) as core:
        proofs = Proofs(core.journal, core.consortium)
        whole = list(proofs.lines(core.store))
        found: list[file.Line] = []
        pages = after = 0
        while not found or found[-1][0] != "checkpoint":
            page = list(proofs.lines(core.store, after, 4000))
            assert page and page[-1][0] in ("entry", "checkpoint")
            found += page
            after = max(value.sequence for kind, value in found if kind == "entry")
            pages += 1
        assert found == whole and pages > 3
        end = core.journal.tree_head()[0]
        assert [kind for kind, _ in proofs.lines(core.store, end, 4000)] == ["checkpoint"]


def test_the_ledger_over_http(scene: Scene) -> None:
    whole = scene.ada.ask("GET", "/v1/ledger?after=0")
    assert whole.headers["Content-Type"].startswith("application/")
    lines = list(file.parse(whole.content))
    size = sum(kind == "entry" for kind, _ in lines)
    rest = list(file.parse(scene.ada.ask("GET", f"/v1/ledger?after={size - 2}").content))
    assert [kind for kind, _ in rest if kind != "blob"] == ["entry", "entry", "checkpoint"]
    assert rest == lines[-len(rest) :]
    beyond = scene.ada.ask("GET", f"/v1/ledger?after={size + 50}").content
    assert [kind for kind, _ in file.parse(beyond)] == ["checkpoint"]
    assert code(scene.ada.ask("GET", "/v1/ledger?after=-1")) == "format"
    assert scene.ada.http.get(f"{scene.core.url}/v1/ledger?after=0").status_code == 401
