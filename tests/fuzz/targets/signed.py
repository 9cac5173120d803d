"""What is signed: envelopes, request proofs, notes, checkpoints, and whole ledgers in files.

A signature would stop every change at the door, so half of the inputs are signed again after the change: then
it is the owner of a valid key who lies.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tapestry.audit import file as ledger_file
from tapestry.audit import pieces
from tapestry.audit.heads import tree_of
from tapestry.audit.verify import Verifier
from tapestry.identity.envelope import Envelope, payload_type, pre_authentication, sign
from tapestry.identity.invitations import check_token, open_join
from tapestry.identity.keyring import Role, make_join
from tapestry.identity.notes import Note
from tapestry.identity.requests import check_proof, make_proof
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol.canonical import sha256
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Score
from tests.fuzz import made
from tests.fuzz.anew import changed
from tests.fuzz.mutate import encoded, json_bytes, lines, octets, text
from tests.fuzz.target import Parser, Target

KEYS = {pair.key_id: pair for pair in (made.ROOT, made.NODE, made.WITNESS, made.CORE)}
WITNESS: frozenset[Role] = frozenset({"witness"})


def _resigned(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """The payload changed and signed by the same key."""
    value = json.loads(seed)
    kind, payload = value["payloadType"], base64.b64decode(value["payload"])
    payload = json_bytes(random, payload, [payload])
    if random.random() < 0.1:
        kind = random.choice(("application/vnd.tapestry.plan+json", "application/vnd.x+json"))
    pair = KEYS[value["signatures"][0]["keyid"]]
    sig = pair.sign(pre_authentication(kind, payload))
    value |= {"payload": base64.b64encode(payload).decode(), "payloadType": kind}
    value["signatures"] = [{"keyid": pair.key_id, "sig": base64.b64encode(sig).decode()}]
    return encoded(value)


def _envelope(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    return (_resigned if random.random() < 0.5 else json_bytes)(random, seed, seeds)


def _envelopes() -> Parser:
    join = make_join(made.ROOT, consortium=made.CONSORTIUM_ID, invitation="A" * 43, member="ada")
    every = [join, made.certificate(), made.REVOCATION, made.SIGNED, made.SIGNED.add_signature(made.ROOT)]
    every += [sign(each, made.NODE) for each in (made.FOLLOWED, made.ENROLMENT, made.SCORE)]
    every += [sign(each, made.WITNESS) for each in (made.ATTESTATION, made.SUCCESSION)]
    nodes = {payload_type(kind): kind for kind in (Contribution, Enrolment, Score)}
    head = made.TREE.head()

    def call(data: bytes) -> bytes:
        envelope = Envelope.from_bytes(data)
        kind = envelope.payloadType
        if "join" in kind:
            check_token(open_join(envelope, made.CONSORTIUM_ID).invitation)
        elif "revocation" in kind:
            made.RING.revoke(envelope, sequence=9)
        elif "key" in kind:
            made.RING.certify(envelope, sequence=9, at=made.AT)
        elif "attestation" in kind:
            said, _ = made.RING.verify(envelope, Attestation, at=made.AT, roles=WITNESS)
            tree_of(said, made.WITNESS.public_key, made.CONSORTIUM_ID)
        elif "succession" in kind:
            told = {"consortium": made.CONSORTIUM_ID, "size": head.size, "root": head.root.hex()}
            made.RING.succeed(made.NEXT.public_key, [envelope], **told, at=made.AT)
        else:
            made.RING.verify(envelope, nodes.get(kind, Contribution), at=made.AT)
        return envelope.to_bytes()

    return Parser(seeds=[each.to_bytes() for each in every], call=call)


def _proofs() -> Parser:
    def call(data: bytes) -> None:
        asked = ("GET", "/v1/runs?after=1", sha256(b""))
        check_proof(data.decode("latin-1"), made.RING, made.CONSORTIUM_ID, *asked, made.AT)

    proof = make_proof(
        made.NODE,
        consortium=made.CONSORTIUM_ID,
        method="GET",
        target="/v1/runs?after=1",
        body_sha=sha256(b""),
        at=made.AT,
    )
    return Parser(seeds=[proof.encode()], call=call)


def _proof(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """The header's text, or the envelope inside it."""
    if random.random() < 0.3:
        return octets(random, seed, seeds)
    token = seed.partition(b" ")[2]
    inside = base64.urlsafe_b64decode(token + b"=" * (-len(token) % 4))
    changed = _envelope(random, inside, [inside])
    return b"Tapestry " + base64.urlsafe_b64encode(changed).rstrip(b"=")


def _notes() -> Parser:
    note = made.checkpoint(made.ENTRIES)
    cosigned = note.cosigned("witness.example", made.NODE, 1_777_777_777)
    plain = Note("one\ntwo\n\nthree\n").signed("somebody", made.ROOT)

    def call(data: bytes) -> bytes:
        found = Note.from_bytes(data)
        told = found.to_bytes()
        assert told == data
        found.cosigned_at("witness.example", made.NODE.public_key)
        found.check(origin_of(made.CONSORTIUM_ID), made.CORE.public_key)
        assert Checkpoint.parse(found.text).text == found.text
        return told

    return Parser(seeds=[note.to_bytes(), cosigned.to_bytes(), plain.to_bytes()], call=call)


def _note(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """A line changed, or the text changed and signed again."""
    kind = random.randrange(4)
    if kind == 0:
        return octets(random, seed, seeds)
    if kind == 1:
        return lines(octets)(random, seed, seeds)
    whole, _, under = seed.decode().rpartition("\n\n")
    every = whole.split("\n")
    at = random.randrange(len(every))
    every[at] = text(random, every[at])
    if kind == 2:
        return "\n".join(every).encode("utf-8", "surrogatepass") + b"\n\n" + under.encode()
    try:
        note = Note("\n".join(every) + "\n").signed(origin_of(made.CONSORTIUM_ID), made.CORE)
        return note.to_bytes()
    except UnicodeEncodeError:
        return seed[::-1]


def _ledgers() -> Parser:
    out = io.BytesIO()
    ledger_file.write(out, made.ledger()[0])
    path = Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder())) / "ledger"

    def call(data: bytes) -> bytes:
        path.write_bytes(data)
        found = list(ledger_file.read(path))
        Verifier().take(found)
        again = io.BytesIO()
        ledger_file.write(again, found)
        return again.getvalue()

    return Parser(seeds=[out.getvalue()], call=call)


def _mirrors() -> Parser:
    """Checkpoint and first piece of a static mirror, with a zero byte between them."""
    every = list(made.ledger()[0])
    out = io.BytesIO()
    ledger_file.write(out, every[:-1])
    folder = Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder()))

    def call(data: bytes) -> None:
        note, _, piece = data.partition(b"\0")
        (folder / pieces.CHECKPOINT).write_bytes(note)
        (folder / pieces.name(0)).write_bytes(piece)
        Verifier().take(pieces.read(folder.joinpath))

    return Parser(seeds=[every[-1][1].encode() + b"\0" + out.getvalue()], call=call)


def _mirror(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Either file changed, or the ledger signed again and its checkpoint with it."""
    note, _, piece = seed.partition(b"\0")
    kind = random.randrange(3)
    if kind == 0:
        return octets(random, note, [note]) + b"\0" + piece
    if kind == 1:
        return note + b"\0" + lines(json_bytes)(random, piece, [piece])
    first, *every = piece.split(b"\n")[:-1]
    last = ledger_file.encode(("checkpoint", note.decode())).removesuffix(b"\n")
    *every, last = changed(random, [*every, last])
    try:
        note = json.loads(last)["checkpoint"].encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        note = last
    return note + b"\0" + b"\n".join((first, *every, b""))


def _memory_folder() -> str | None:
    """A file system in memory, where there is one: files are written for each input."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _ledger(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Lines changed; or an entry or what an envelope says, and the whole hashed and signed again."""
    if random.random() < 0.3:
        return lines(json_bytes)(random, seed, seeds)
    first, *every = seed.split(b"\n")[:-1]
    return b"\n".join((first, *changed(random, every), b""))


TARGETS: Sequence[Target] = (
    Target(name="envelope", open=_envelopes, mutate=_envelope),
    Target(name="request-proof", open=_proofs, mutate=_proof),
    Target(name="note", open=_notes, mutate=_note),
    Target(name="ledger-file", open=_ledgers, mutate=_ledger),
    Target(name="mirror", open=_mirrors, mutate=_mirror),
)
