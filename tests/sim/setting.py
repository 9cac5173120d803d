"""Founds the consortium that every run begins with: once a process, always the same, kept as bytes."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.core import settings as core_settings
from tapestry.core.consortium import Consortium, found
from tapestry.core.home import Home as CoreHome
from tapestry.core.journal import Journal
from tapestry.host import files
from tapestry.identity.invitations import token_hash
from tapestry.identity.keyring import make_certificate, make_join
from tapestry.identity.keys import KeyPair
from tapestry.node import keys as node_keys
from tapestry.node import settings as node_settings
from tapestry.node.home import Home as NodeHome
from tapestry.node.setup import Consortium as Joined
from tapestry.protocol.clock import time_text
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Retention, Rounds, Witness
from tapestry.storage import invitations
from tapestry.storage.blobs import BlobStore
from tapestry.storage.database import Database
from tests.sim import toy
from tests.sim.net import URL
from tests.sim.shims import EPOCH_S

MEMBERS: Final = ("ada", "bob", "cleo", "dan", "eve")
FOUNDED_MS: Final = (EPOCH_S - 3600) * 1000
DAY_MS: Final = 86_400_000


NODES: Final = ("ada-1", "ada-2", "bob-1", "bob-2", "cleo-1", "dan-1", "eve-1")


def node_of(member: str, number: int = 1) -> str:
    return f"{member}-{number}"


def member_of(node: str) -> str:
    return node.rpartition("-")[0]


def key_of(name: str) -> KeyPair:
    """Always the same key for the same name."""
    return KeyPair(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


@functools.cache
def template(nodes: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Folders, and files with what is in them, of `core` and each node, by path."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        _lay(root, nodes)
        every = sorted(root.rglob("*"))
        folders = tuple(str(path.relative_to(root)) for path in every if path.is_dir())
        return folders, {str(path.relative_to(root)): path.read_bytes() for path in every if path.is_file()}


def _lay(root: Path, nodes: tuple[str, ...]) -> None:
    home = CoreHome(root / "core")
    for folder in (home.key.parent, home.status.parent, home.log.parent):
        folder.mkdir(parents=True)
    key = key_of("core")
    files.private_write(home.key, key.to_pem())
    files.write_atomic(home.settings, core_settings.render(core_settings.make(port=0)).encode())
    store = BlobStore.open(home.root / "blobs")
    for blob in toy.initial_blobs():
        store.put(blob)
    database = Database.open(home.root / "core.sqlite", create=True)
    try:
        journal = Journal(database, clock=lambda: FOUNDED_MS)
        found(journal, title="Simulated", core_key=key.public_key, nonce="0" * 32)
        consortium = Consortium(journal, key)
        for node in nodes:
            _admit(consortium, database, node, root / node)
    finally:
        database.close()


def _admit(consortium: Consortium, database: Database, node: str, folder: Path) -> None:
    member = member_of(node)
    root_key, key = key_of(f"{member} root"), key_of(f"{node} node")
    held = {"node": key, "witness": key_of(f"{node} witness")}
    certificates = {
        role: make_certificate(
            root_key,
            member=member,
            node=node,
            role=role,
            public_key=held[role].public_key,
            not_before=time_text(FOUNDED_MS - DAY_MS),
            expires=time_text(FOUNDED_MS + 365 * DAY_MS),
        )
        for role in node_keys.KEY_ROLES
    }
    token = hashlib.sha256(member.encode()).hexdigest()
    if node == node_of(member):
        with database.transaction() as connection:
            invitations.add(connection, token_hash(token), member, time_text(FOUNDED_MS + DAY_MS))
    consortium.join(
        make_join(root_key, consortium=consortium.id, invitation=token, member=member),
        list(certificates.values()),
    )
    home = NodeHome(folder)
    folder.mkdir()
    home.make_folders()
    (home.blobs / "incoming").mkdir()
    for role, certificate in certificates.items():
        files.private_write(home.keys / f"{role}.key", held[role].to_pem())
        files.write_atomic(home.keys / f"{role}.cert.json", certificate.to_bytes())
    made = node_settings.make(member=member, name=node, corpus="text", threads=1)
    files.write_atomic(home.settings, node_settings.render(made).encode())
    joined = Joined(
        core_url=URL,
        consortium=consortium.id,
        core_key=consortium.core_key.public_key,
        root_key=root_key.public_key,
        ca=None,
    )
    files.write_atomic(home.consortium, joined.to_bytes())
    assert node_keys.load_pair(home).key_id == key.key_id


def lay_out(root: Path, nodes: tuple[str, ...]) -> None:
    """A fresh consortium with these nodes in `root`."""
    folders, contents = template(nodes)
    for name in folders:
        os.mkdir(f"{root}/{name}")  # noqa: PTH102 - as text, in a third of the time
    for name, data in contents.items():
        with open(f"{root}/{name}", "wb", buffering=0) as file:
            file.write(data)


def drawn_plan(rng: random.Random, members: int, count: int, *, lies: bool) -> Plan:
    """Rules for so many nodes of so many members; where the core lies to one, all others can do without that
    one."""
    needed = count - lies
    below_quorum = "abandon" if rng.random() < 0.3 else "wait"
    few = members - lies  # a node that finds out a lie says nothing more
    witnesses = (0, members // 2 + 1, few)[int(rng.random() * 3)]
    least_s = 7.0 if below_quorum == "abandon" else 1.0  # else a slow node is too late for ever
    return Plan(
        run=toy.RUN,
        model=toy.MODEL.digest,
        layout=toy.LAYOUT.digest,
        initial_state=toy.START.digest,
        parameters=toy.LAYOUT.elements,
        rounds=Rounds(
            total=2 + (rng.random() < 0.25),
            min_nodes=count,
            quorum=1 + int(rng.random() * needed),
            deadline_s=least_s + 9.0 * rng.random(),
            below_quorum=below_quorum,
            staleness=int(rng.random() * 3),
        ),
        inner=Inner(steps=toy.STEPS, sequence_length=toy.TOKENS_A_STEP, batch_sequences=1),
        merge=Merge(),
        witness=Witness(quorum=min(witnesses, few)),
        evaluation=Evaluation(every_rounds=1 if rng.random() < 0.3 else 1000),
        retention=Retention(blob_rounds=1 + int(rng.random() * 4)),
    )
