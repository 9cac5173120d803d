"""Tree, proofs, checkpoints and cosignatures against `tlog-scales`, a reader and writer of C2SP's logs.

It grows the same log as tiles on disk, reckons roots and proofs from these, and reads our notes.
"""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.exceptions import InvalidSignature
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import PlainEd25519Signer, Vkey, VkeySet
from tlog_scales.tlog import (
    Checkpoint as TheirCheckpoint,
)
from tlog_scales.tlog import (
    ConsistencyProof,
    ConsistencyProofInvalid,
    InclusionProof,
    InclusionProofInvalid,
)
from tlog_scales.writer import TilesWriter

from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import COSIGNATURE, PLAIN, Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of

ORIGIN = origin_of("a" * 64)
ENTRIES = [hashlib.sha512(number.to_bytes(4)).digest()[: number % 61] for number in range(700)]
"""More than two full tiles of 256."""
OURS = tree.Tree(map(tree.leaf_hash, ENTRIES))
ROOTS = [OURS.root(size) for size in range(len(ENTRIES) + 1)]
SIZES = (1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 513, 699, 700)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> TilesReader:
    """The same log in tiles, written in three goes."""
    root = tmp_path_factory.mktemp("tiles") / "log"
    writer = TilesWriter.create(root, ORIGIN)
    signer = PlainEd25519Signer(ORIGIN, bytes(32))
    for start, stop in ((0, 100), (100, 513), (513, 700)):
        for entry in ENTRIES[start:stop]:
            writer.add_leaf(entry)
        writer.commit([signer])
    reader = TilesReader(LocalBackend(root))
    assert reader.get_checkpoint().size == len(ENTRIES)
    return reader


def test_roots(theirs: TilesReader) -> None:
    for size, root in enumerate(ROOTS):
        assert theirs.mth(0, size) == root, size
    assert theirs.get_checkpoint().root_hash == ROOTS[-1]


def test_inclusion_proofs(theirs: TilesReader) -> None:
    draw = random.Random(1)
    for size in SIZES:
        for index in {0, size - 1, size // 2, *(draw.randrange(size) for _ in range(8))}:
            proof = OURS.inclusion(index, size)
            their = theirs.get_inclusion_proof(index, size)
            assert list(proof) == their.node_hashes
            leaf = tree.leaf_hash(ENTRIES[index])
            InclusionProof(index, size, list(proof)).check(leaf, ROOTS[size])
            tree.check_inclusion(leaf, index, size, their.node_hashes, ROOTS[size])
            with pytest.raises(InclusionProofInvalid):
                InclusionProof(index, size, list(proof)).check(tree.leaf_hash(b"other"), ROOTS[size])


def test_consistency_proofs(theirs: TilesReader) -> None:
    draw = random.Random(2)
    for new in SIZES:
        for old in {1, new, new - 1, new // 2, *(draw.randint(0, new) for _ in range(8))}:
            proof = list(OURS.consistency(old, new))
            if 0 < old < new:  # of nothing, and of itself, there is nothing to prove
                assert proof == theirs.get_consistency_proof(old, new).node_hashes
            ConsistencyProof(old, new, proof).check(ROOTS[old], ROOTS[new])
            tree.check_consistency(old, ROOTS[old], new, ROOTS[new], proof)
            if 0 < old < new:
                with pytest.raises(ConsistencyProofInvalid):
                    ConsistencyProof(old, new, proof).check(ROOTS[old - 1], ROOTS[new])


def test_checkpoints_and_cosignatures() -> None:
    core, witness, stranger = (KeyPair.generate() for _ in range(3))
    checkpoint = Checkpoint(ORIGIN, 700, ROOTS[700])
    note = Note(checkpoint.text).signed(ORIGIN, core).cosigned("ada/ada-1", witness, 1_700_000_000)
    read = TheirCheckpoint.from_text(note.to_bytes().decode())
    assert (read.origin, read.size, read.root_hash) == (ORIGIN, 700, ROOTS[700])
    assert (read.serialize_body(), read.serialize()) == (checkpoint.text, note.to_bytes().decode())
    keys = [
        Vkey(ORIGIN, None, PLAIN, bytes.fromhex(core.public_key)),
        Vkey("ada/ada-1", None, COSIGNATURE, bytes.fromhex(witness.public_key)),
    ]
    for key in keys:
        read.verify(key)
    assert {key.name for key, _ in VkeySet(*keys).verify(read.signatures, read)} == {ORIGIN, "ada/ada-1"}
    assert keys[1].get_verifier().get_timestamp(read.signatures[1].payload) == 1_700_000_000
    with pytest.raises(RuntimeError, match="no signature matched"):
        read.verify(Vkey(ORIGIN, None, PLAIN, bytes.fromhex(stranger.public_key)))
    other = TheirCheckpoint(ORIGIN, 699, ROOTS[700], read.signatures)
    for key in keys:
        with pytest.raises(InvalidSignature):
            other.verify(key)


def test_their_checkpoint_is_read_here() -> None:
    key = KeyPair.generate()
    private = key._private  # what signs is their code
    made = TheirCheckpoint.make_signed(ORIGIN, 12, ROOTS[12], [PlainEd25519Signer(ORIGIN, private)])
    note = Note.from_bytes(made.serialize().encode())
    note.check(ORIGIN, key.public_key)
    assert Checkpoint.parse(note.text) == Checkpoint(ORIGIN, 12, ROOTS[12])
