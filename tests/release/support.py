"""A consortium that has accepted a release, its draft, and who could forge what in its repository."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from tapestry.governance.proposal import AcceptRelease, RevokeRelease
from tapestry.identity.keys import KeyPair
from tapestry.protocol.artifact import Artifact, State
from tapestry.release import contents, draft, holder, published, roles, view
from tapestry.release.checking import Checked
from tapestry.release.messages import HolderSignature
from tapestry.release.oms import ModelKeyPair
from tapestry.release.view import View
from tapestry.rounds import machine
from tapestry.training.export import Lineage, export
from tests.audit.council import Council
from tests.audit.stage import digest

NAMES = ("acme", "birch", "cedar", "dara")
HOLDERS = NAMES[:3]
BASE = "base-1"
TABLES = ("plans", "votes", "contributions", "scores", "ledger", "catalog", "members", "charter")
OPEN = {"public": dict.fromkeys(TABLES, "public")}
"""A charter that keeps nothing to the members."""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class World(Council):
    """Four members, three of whom hold release keys; two must sign."""

    def __init__(self, root: Path, **tables: Any) -> None:
        super().__init__(root, *NAMES)
        self.folder = root.parent
        self.repository = self.folder / "repository"
        self.online = KeyPair.generate()
        self.pairs: dict[str, list[KeyPair]] = {}
        self.models = {name: ModelKeyPair.generate() for name in NAMES}
        self.adopt(**tables)
        for name in HOLDERS:
            self.new_key(name)
        self._drafts = 0

    def new_key(self, name: str) -> None:
        """Another release key, in force from now on."""
        pair, node = KeyPair.generate(), self.nodes[name]
        self.core.consortium.certify(node.certificate(pair, "release", named=False))
        old = self.pairs.get(name, [])
        if old:
            self.revoke(node, old[0])
        self.pairs[name] = [pair, *old]

    def merge(self, run: str = "run") -> None:
        """A merge whose state and base are there, as those of a replay worker would be."""
        state = self.state(run)
        at = state.current
        assert at is not None
        self.now += 300
        value = float(state.merges + 2)
        base = Artifact(kind="base", layout=self.layout.digest, shards=self._blobs(value))
        made = {"base": self.core.store.put(base.to_bytes()), "outer": digest("outer", run, state.merges)}
        after = State(run=run, model=state.plan.model, merges=state.merges + 1, **made)
        result = {"state": self.core.store.put(after.to_bytes()), **made}
        self.put(machine.MergeDone(round=at.round, fragment=at.fragment, **result), run)

    def trained(self, rounds: int = 1) -> str:
        """A state that two members have contributed to, in a run that members ratified."""
        plan = self.plan(rounds_total=rounds)
        self.ratified(plan)
        self.put(machine.Start(), plan.run)
        nodes = [self.nodes[name] for name in NAMES[:2]]
        for node in nodes:
            self.enrol(node, plan.run)
        for at, node in enumerate(nodes):
            self.send(node, tokens=1000 * (at + 1))
        self.merge()
        self.score(nodes[0], 1.25)
        return self.state().head

    def accepted(self, name: str = BASE, state: str | None = None) -> str:
        return self.passed(AcceptRelease(release=name, state=state or self.state().head))

    def revoked(self, name: str = BASE) -> None:
        self.passed(RevokeRelease(release=name))

    def view(self) -> View:
        return view.read(self.ledger().lines)

    def draft(
        self,
        name: str | None = BASE,
        catalog: Iterable[bytes] = (),
        leakage: Iterable[bytes] = (),
        **given: Any,
    ) -> Checked:
        self._drafts += 1
        seen = self.view()

        def write(state: State, folder: Path) -> None:
            export(state, self.core.store, folder, Lineage(plan="", rounds=0, members=(), tokens=0))

        return draft.make(
            self.folder / f"draft-{self._drafts}",
            seen,
            name,
            published=published.load(self.repository),
            online=self.online.public_key,
            read=self.core.store.read,
            write_model=write,
            catalog=list(catalog),
            leakage=list(leakage),
            **{"now": now(), **given},
        )

    def signed(self, checked: Checked, name: str) -> HolderSignature:
        return holder.signature(checked, name, self.pairs[name], self.models[name])

    def publish(self, checked: Checked, *names: str) -> None:
        for name in names:
            holder.write(checked, self.signed(checked, name))
        root, targets, models = holder.collect(checked, holder.read(checked))
        release = {} if checked.facts is None else {checked.facts.release: models}
        published.write(
            self.repository,
            before=published.load(self.repository),
            root=root,
            targets=targets,
            new_files=checked.sources(),
            signatures=release,
            online=self.online,
            now=now(),
        )

    def released(self, name: str = BASE) -> None:
        """Accepted, drafted, signed by two and published."""
        self.accepted(name)
        self.publish(self.draft(name), *HOLDERS[:2])


class Forge:
    """A copy of a repository, and all keys: writes into it whatever metadata a test wants."""

    def __init__(self, folder: Path, holders: Mapping[str, KeyPair], online: KeyPair) -> None:
        self.folder = folder
        self.holders = dict(holders)
        self.online = online

    @property
    def at(self) -> Path:
        return self.folder / published.METADATA

    @property
    def now(self) -> published.Published:
        found = published.load(self.folder)
        assert found is not None
        return found

    @property
    def root(self) -> bytes:
        """That the client is given."""
        return (self.at / "1.root.json").read_bytes()

    def copy(self, to: Path) -> Forge:
        shutil.copytree(self.folder, to)
        return Forge(to, self.holders, self.online)

    def write(self, name: str, signed: Any, by: Iterable[KeyPair]) -> bytes:
        metadata = Metadata(signed)
        for pair in by:
            roles.sign(metadata, pair)
        data = metadata.to_bytes()
        (self.at / name).write_bytes(data)
        return data

    def targets(
        self,
        files: Mapping[str, tuple[str, int]] | None = None,
        *,
        by: Iterable[KeyPair] | None = None,
        version: int | None = None,
        days: float = 300,
    ) -> tuple[bytes, int]:
        """The next list of targets, signed by two holders, and its version. Nothing vouches for it yet."""
        before = self.now
        version = version or before.targets.signed.version + 1
        signed = roles.targets_of(files or before.files, version=version, expires=self.in_days(days))
        return self.write(f"{version}.targets.json", signed, by or self.two()), version

    def vouch(
        self,
        targets: tuple[bytes, int] | None = None,
        *,
        online: KeyPair | None = None,
        snapshot_version: int | None = None,
        timestamp_version: int | None = None,
        snapshot_days: float = 30,
        timestamp_days: float = 7,
        hashes: bool = True,
    ) -> None:
        """Snapshot and timestamp for a list of targets, by default the published one."""
        before, key = self.now, online or self.online
        data, version = targets or (before.targets_bytes, before.targets.signed.version)
        number = snapshot_version or before.snapshot + 1
        meta = roles.described(data, version) if hashes else MetaFile(version)
        expires = self.in_days(snapshot_days)
        snapshot = Snapshot(version=number, expires=expires, meta={"targets.json": meta})
        said = self.write(f"{number}.snapshot.json", snapshot, [key])
        at = timestamp_version or before.timestamp + 1
        named = roles.described(said, number) if hashes else MetaFile(number)
        expires = self.in_days(timestamp_days)
        self.write("timestamp.json", Timestamp(version=at, expires=expires, snapshot_meta=named), [key])

    def point(self, snapshot: bytes, number: int, *, version: int) -> None:
        """A timestamp that names a snapshot which is there."""
        named = roles.described(snapshot, number)
        expires = self.in_days(7)
        signed = Timestamp(version=version, expires=expires, snapshot_meta=named)
        self.write("timestamp.json", signed, [self.online])

    def rotate(
        self,
        holders: Mapping[str, KeyPair],
        online: KeyPair,
        *,
        by: Iterable[KeyPair],
        days: float = 300,
        version: int | None = None,
    ) -> None:
        """Another list of holders."""
        before = self.now.root.signed
        number = version or before.version + 1
        root = roles.root_of(
            {name: pair.public_key for name, pair in holders.items()},
            2,
            online.public_key,
            consortium=before.unrecognized_fields[roles.CONSORTIUM],
            version=number,
            expires=self.in_days(days),
        )
        self.write(f"{before.version + 1}.root.json", root, by)
        self.holders, self.online = dict(holders), online

    def two(self) -> list[KeyPair]:
        return list(self.holders.values())[:2]

    @staticmethod
    def in_days(days: float) -> datetime.datetime:
        return (now() + datetime.timedelta(days=days)).replace(microsecond=0)

    def target(self, path: str) -> Path:
        """Where the bytes of a target lie."""
        return self.folder / published.TARGETS / published.place(self.now.targets.signed.targets[path])


__all__ = ["BASE", "HOLDERS", "NAMES", "OPEN", "Forge", "Root", "Targets", "World", "contents", "now"]
