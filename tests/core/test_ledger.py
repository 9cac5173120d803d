"""The ledger's tree over HTTP, checked by somebody who trusts the core with nothing but its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import FormatError, IntegrityError, NotFound, SignatureError
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.transport.client import CoreClient
from tests.core.support import CoreUnderTest, Member, code, make_plan


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[CoreUnderTest]:
    core = CoreUnderTest(tmp_path / "core")
    yield core.start()
    core.close()


@pytest.fixture
def client(serving: CoreUnderTest) -> Iterator[CoreClient]:
    ada = serving.member("ada")
    with CoreClient(serving.url, serving.consortium, ada.key) as client:
        client.hello()
        yield client


def leaves(client: CoreClient, size: int) -> list[bytes]:
    """Of all entries, as they are fetched."""
    return [tree.leaf_hash(entry.to_bytes()) for entry in client.events(after=0)][:size]


def head(client: CoreClient, serving: CoreUnderTest) -> Checkpoint:
    note = client.checkpoint()
    origin = origin_of(serving.consortium)
    note.check(origin, client.hello().core_key)
    found = Checkpoint.parse(note.text)
    assert found.origin == origin
    return found


def test_heads_are_signed_and_grow_from_each_other(
    serving: CoreUnderTest, client: CoreClient, tmp_path: Path
) -> None:
    before = head(client, serving)
    assert before.size == len(leaves(client, 1000))
    bob: Member = serving.running(make_plan(tmp_path / "made"), tmp_path / "made", "bob", "eve")[0]
    bob.hand_in(make_plan(tmp_path / "made"), 0.5)
    after = head(client, serving)
    assert after.size > before.size
    proof = client.consistency(before.size, after.size)
    tree.check_consistency(before.size, before.root, after.size, after.root, proof)
    with pytest.raises(IntegrityError, match="seen before"):
        tree.check_consistency(before.size, after.root, after.size, after.root, proof)
    every = leaves(client, after.size)
    for sequence in range(1, after.size + 1):
        inclusion = client.inclusion(sequence, after.size)
        tree.check_inclusion(every[sequence - 1], sequence - 1, after.size, inclusion, after.root)
    with pytest.raises(IntegrityError):
        tree.check_inclusion(every[0], 1, after.size, client.inclusion(2, after.size), after.root)


def test_another_key_has_not_signed_it(serving: CoreUnderTest, client: CoreClient) -> None:
    note = client.checkpoint()
    with pytest.raises(SignatureError):
        note.check(origin_of(serving.consortium), KeyPair.generate().public_key)
    larger = note.text.replace(f"\n{Checkpoint.parse(note.text).size}\n", "\n999\n")
    with pytest.raises(SignatureError):
        Note(larger, note.signatures).check(origin_of(serving.consortium), client.hello().core_key)


def test_what_cannot_be_proved(serving: CoreUnderTest, client: CoreClient) -> None:
    size = head(client, serving).size
    for ask in (
        lambda: client.inclusion(size + 1, size),
        lambda: client.inclusion(0, size),
        lambda: client.consistency(size, size + 100),
        lambda: client.consistency(2, 1),
    ):
        with pytest.raises(NotFound):
            ask()
    ada = serving.members["ada"] if isinstance(serving.members, dict) else serving.member("cay")
    assert code(ada.ask("GET", "/v1/ledger/inclusion?sequence=-1&size=1")) == "format"
    assert code(ada.ask("GET", "/v1/ledger/consistency?old=1&new=2&more=3")) == "format"
    assert ada.http.get(f"{serving.url}/v1/ledger/checkpoint").status_code == 401


def test_a_proof_that_is_none_is_a_typed_error(client: CoreClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (None, [], {}, {"proof": ["00"]}, {"proof": ["0" * 64] * 65}, {"proof": "0" * 64}):
        monkeypatch.setattr(client, "_json", lambda _request, answer=answer: answer)
        with pytest.raises(FormatError, match="proof"):
            client.inclusion(1, 2)
