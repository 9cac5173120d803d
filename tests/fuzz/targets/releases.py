"""Releases: what they say of themselves, what holders send back, a repository whose keys are all stolen."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.formats import encode_canonical
from tuf.api.metadata import Metadata

from tapestry.identity.envelope import pre_authentication, sign
from tapestry.release import client, holder, oms, roles
from tapestry.release.messages import (
    HolderSignature,
    KeySignature,
    Listed,
    ModelKey,
    ModelSignature,
    Release,
    Releases,
)
from tapestry.release.oms import ModelKeyPair
from tests.fuzz.mutate import json_bytes
from tests.fuzz.target import Parser, Target
from tests.sim.setting import key_of

CONSORTIUM, AT = "1" * 64, "2026-05-01T12:00:00.000Z"
HOLDERS = {name: key_of(f"{name} release") for name in ("acme", "birch", "cedar")}
ONLINE = key_of("operator release")
DIGESTS = {"README.md": "2" * 64}
LATER = datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)
ORDER = ("root", "targets", "snapshot", "timestamp")
LIST = Releases(
    consortium=CONSORTIUM,
    title="Test",
    releases=(
        Listed(release="one", decision="3" * 64, state="4" * 64, at=AT, revoked=None, revoked_at=None),
    ),
)


def _release() -> Parser:
    files = ({"path": "README.md", "sha256": "2" * 64, "bytes": 5},)
    names = ("decision", "charter", "plan", "state", "base", "model", "consortium")
    seed = Release.from_json(
        {
            "format": "tapestry.release", "version": 1, "release": "one", "sequence": 9, "at": AT,
            "run": "run", "merges": 3, "files": list(files), **dict.fromkeys(names, "5" * 64),
        }
    )  # fmt: skip

    def call(data: bytes) -> bytes:
        return Release.from_bytes(data).to_bytes()

    return Parser(seeds=[seed.to_bytes()], call=call)


def _sent_back() -> Parser:
    private = ec.derive_private_key(12345, ec.SECP256R1())
    pair, model = HOLDERS["acme"], ModelKeyPair(private)
    bundle = json.loads(model.sign("one", DIGESTS))
    envelope = bundle["dsseEnvelope"]
    said_so = pre_authentication(oms.PAYLOAD, base64.b64decode(envelope["payload"]))
    same = private.sign(said_so, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    envelope["signatures"][0]["sig"] = base64.b64encode(same).decode()
    said = ModelKey(consortium=CONSORTIUM, member="acme", public_key=model.public_pem)
    signed = ModelSignature(
        release="one", key=sign(said, pair).to_bytes().decode(), bundle=json.dumps(bundle)
    )
    one = KeySignature(keyid=pair.key_id, sig=pair.sign(b"x").hex())
    seed = HolderSignature(consortium=CONSORTIUM, member="acme", targets=one, root=(one,), model=signed)

    def call(data: bytes) -> bytes:
        found = HolderSignature.from_bytes(data)
        if found.model is not None:
            holders = {pair.key_id: ("acme", pair.public_key)}
            holder.of_folder(found.model, CONSORTIUM, holders, DIGESTS)
        return found.to_bytes()

    return Parser(seeds=[seed.to_bytes()], call=call)


def _seeds() -> dict[str, bytes]:
    """A repository without a release in it, role by role."""
    keys = {name: pair.public_key for name, pair in HOLDERS.items()}
    root = roles.root_of(keys, 2, ONLINE.public_key, consortium=CONSORTIUM, version=1, expires=LATER)
    listed = LIST.to_bytes()
    files = {"releases.json": (hashlib.sha256(listed).hexdigest(), len(listed))}
    targets = Metadata(roles.targets_of(files, version=1, expires=LATER)).to_bytes()
    snapshot = Metadata(roles.snapshot_of(targets, 1, version=1, expires=LATER)).to_bytes()
    timestamp = Metadata(roles.timestamp_of(snapshot, 1, version=1, expires=LATER)).to_bytes()
    return dict(zip(ORDER, (Metadata(root).to_bytes(), targets, snapshot, timestamp), strict=True))


def _signed(role: str, data: bytes) -> bytes:
    """Signed anew by all who could, so that what is wrong is not only that."""
    try:
        value = json.loads(data)
        content = encode_canonical(value["signed"]).encode()
        if value["signatures"] != []:
            return data
    except Exception:
        return data
    by = HOLDERS.values() if role in ("root", "targets") else (ONLINE,)
    value["signatures"] = [
        {"keyid": roles.tuf_id(pair.public_key), "sig": pair.sign(content).hex()} for pair in by
    ]
    return json.dumps(value).encode()


def _named(data: bytes, of: bytes, name: str) -> bytes:
    """Metadata whose hash of another is right."""
    value = json.loads(data)
    value["signed"]["meta"][name].update(length=len(of), hashes={"sha256": hashlib.sha256(of).hexdigest()})
    return json.dumps(value).encode()


def _repository() -> Parser:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-releases-"))
    seeds, listed = _seeds(), LIST.to_bytes()
    place = folder / "targets" / f"{hashlib.sha256(listed).hexdigest()}.releases.json"
    place.parent.mkdir()
    place.write_bytes(listed)
    (folder / "metadata").mkdir()

    def call(data: bytes) -> None:
        """The role whose metadata it is comes first, up to a line feed."""
        name, _, text = data.partition(b"\n")
        role = name.decode("latin-1") if name.decode("latin-1") in ORDER else "timestamp"
        made: dict[str, Any] = dict(seeds)
        made[role] = text
        made["targets"] = _signed("targets", made["targets"])
        if role != "snapshot":
            made["snapshot"] = _named(made["snapshot"], made["targets"], "targets.json")
        made["snapshot"] = _signed("snapshot", made["snapshot"])
        if role != "timestamp":
            made["timestamp"] = _named(made["timestamp"], made["snapshot"], "snapshot.json")
        made["timestamp"] = _signed("timestamp", made["timestamp"])
        root = _signed("root", seeds["root"])
        files = {"1.targets.json": "targets", "1.snapshot.json": "snapshot", "timestamp.json": "timestamp"}
        for file, of in files.items():
            (folder / "metadata" / file).write_bytes(made[of])
        new = folder / "metadata" / "2.root.json"
        new.unlink(missing_ok=True)
        if role == "root":
            new.write_bytes(_signed("root", text))
        trust = folder / "trust"
        shutil.rmtree(trust, ignore_errors=True)
        client.releases(str(folder), root=root, trust=trust)

    second = json.loads(seeds["root"])
    second["signed"]["version"] = 2
    given = {**seeds, "root": json.dumps(second).encode()}
    return Parser(
        seeds=[role.encode() + b"\n" + text for role, text in given.items()],
        call=call,
        close=lambda: shutil.rmtree(folder, ignore_errors=True),
    )


def _mutate(random: Any, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    role, _, text = seed.partition(b"\n")
    return role + b"\n" + json_bytes(random, text, [each.partition(b"\n")[2] for each in seeds])


TARGETS: Sequence[Target] = (
    Target(name="release", open=_release, mutate=json_bytes),
    Target(name="release-signature", open=_sent_back, mutate=json_bytes),
    Target(name="release-repository", open=_repository, mutate=_mutate, alone=True),
)
