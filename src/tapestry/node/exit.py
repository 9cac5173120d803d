"""A bundle of everything a node would take with it. Needs no network, and no process of the node to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tapestry.audit import file
from tapestry.bundle import base, data, manifest
from tapestry.bundle.check import Checked
from tapestry.bundle.folder import Progress
from tapestry.bundle.manifest import Taken
from tapestry.bundle.record import Own, Record, RunRecord
from tapestry.bundle.writer import Told, Writer, writing
from tapestry.errors import HashMismatch, InputError, NotFound, TapestryError
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.node import keys, settings, setup
from tapestry.node.home import Home, parse_round_name
from tapestry.node.kept import Kept
from tapestry.node.member import local_now
from tapestry.node.memory import AgentMemory
from tapestry.node.settings import NodeSettings
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.canonical import is_name
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.training import export as hugging_face
from tapestry.training.blobs import BlobFolder
from tapestry.training.export import Lineage
from tapestry.training.home import INNER
from tapestry.training.shelf import Shelf

TRIES: Final = 3
"""A node that runs erases what it needs no more, while it is copied."""
USED: Final = "used-cards"
"""Of a node's cache."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be exported.

    Args:
        run: one run alone; all if None.
        derivatives: model folders of the owner's, to go along.
        made: what the bundle says of when it was made; now, if None.
    """

    run: str | None = None
    derivatives: Sequence[Path] = ()
    made: str | None = None


def export(
    home: Path,
    out: Path,
    wanted: Wanted | None = None,
    *,
    progress: Progress = lambda _done, _all: None,
    told: Told = lambda _: None,
) -> Checked:
    """Write a bundle of kind `exit`, check it, and give it its name.

    Args:
        home: of a node that has joined and holds a ledger.
        out: must not exist, or be empty.
        wanted: what of it.
        progress, told: as of `bundle.check.check`.

    Raises:
        SettingsError, InputError: no node, no ledger, or no such run.
        Conflict: there is something in `out`.
        DiskFull: no space; nothing is left.
        BundleError: what was written does not hold, since something in the home was damaged.
    """
    wanted = wanted or Wanted()
    for attempt in range(TRIES):
        try:
            return _export(Home(home), out, wanted, progress, told)
        except (NotFound, FileNotFoundError) as e:
            if attempt == TRIES - 1:
                raise InputError(
                    f"the node in {home} lacks something of its newest base: {e}",
                    hint="let it run until it has the base; tapestry node leave fetches what is lost as well",
                ) from e
    raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A node at one moment; whatever its processes do meanwhile, a bundle is of this."""

    home: Home
    given: NodeSettings
    joined: setup.Consortium
    keypair: KeyPair
    memory: AgentMemory
    kept: Kept
    record: Record

    @classmethod
    def of(cls, home: Home) -> Self:
        """Raises `SettingsError` or `InputError` where there is no node, or no ledger of it."""
        given, joined = settings.load(home), setup.load_consortium(home)
        try:
            memory = AgentMemory.from_bytes(files.read_limited(home.agent_state, AgentMemory.MAX_BYTES))
        except FileNotFoundError:
            memory = AgentMemory()
        kept = Kept.of(home)
        return cls(
            home=home,
            given=given,
            joined=joined,
            keypair=keys.load_pair(home),
            memory=memory,
            kept=kept,
            record=Record(given.node.name).read(kept.lines()),
        )

    def begin(self, writer: Writer, own: dict[str, Own]) -> None:
        """What bundles of both kinds hold: the ledger, whose it is, keys' certificates, proofs.

        Raises `InputError` where the node's key is newer than the ledger, by which a bundle is checked.
        """
        if self.keypair.key_id not in self.record.certificates:
            raise InputError(
                f"the node in {self.home.root} has a new key that its copy of the ledger does not have yet",
                hint=f"let it follow the ledger for a moment: tapestry node run {self.home.root}",
            )
        lines = (file.encode(line) for line in self.kept.lines())
        writer.lines(manifest.LEDGER, (each for part in ([file.FIRST], lines) for each in part))
        writer.copy(manifest.CONSORTIUM, self.home.consortium)
        for key, envelope in self.record.certificates.items():
            writer.put(f"certificates/{key}.json", envelope)
        for digest, proof in self.record.inclusions():
            if digest in own:
                writer.put(f"proofs/{digest}.json", proof.to_bytes())

    def finish(self, writer: Writer, *, own: int, made: str, **said: Any) -> None:
        """Sign the list of all that was written."""
        writer.finish(
            self.keypair,
            self.record,
            self.record.root,
            consortium=self.joined.consortium,
            member=self.given.node.member,
            node=self.given.node.name,
            made=made,
            contributions=own,
            **said,
        )

    def runs(self, only: str | None) -> tuple[Taken, ...]:
        """The newest state of each run that the node has and this ledger names: a node that runs may have
        one that is newer than the ledger on its disk."""
        found = []
        for run, told in sorted(self.memory.runs.items()):
            named = self.record.runs.get(run)
            if only not in (None, run) or named is None or told.head is None:
                continue
            state = next((s for s in (told.head.state, *reversed(told.older)) if s in named.heads), None)
            if state is not None:  # else they are of a history that the core has lost
                at = named.heads[state]
                plan = named.plan_of(state)
                found.append(Taken(run=run, plan=plan, state=state, merges=at.merges, round=at.round))
        return tuple(found)


def _export(home: Home, out: Path, wanted: Wanted, progress: Progress, told: Told) -> Checked:
    standing = Standing.of(home)
    record, only = standing.record, wanted.run
    if only is not None and only not in record.runs:
        raise InputError(f"the node in {home.root} knows no run {only}", hint="see tapestry node status HOME")
    own = record.of(only)
    with writing(out, "exit", progress=progress, told=told) as made:
        writer = made.writer
        standing.begin(writer, own)
        runs = standing.runs(only)
        for taken in runs:
            _base(writer, home, record.runs[taken.run], taken, standing.joined.consortium)
            _inner(writer, home, taken.run)
        for run in sorted({each.said.run for each in own.values()} - {taken.run for taken in runs}):
            writer.lacks(f"models/{run}", "the node has no base of this run any more")
        _updates(writer, home, own.values(), record)
        _data(writer, home, own.values())
        _receipts(writer, home, only)
        for name in (*manifest.EGRESS, manifest.RIGHTS):
            if (home.root / name).is_file():
                writer.copy(name, home.root / name)
        derivatives = _derivatives(writer, wanted.derivatives)
        at = wanted.made or local_now()
        standing.finish(writer, own=len(own), made=at, only=only, runs=runs, derivatives=derivatives)
    return made.checked


def _blob(writer: Writer, home: Home, sha: str) -> bytes:
    """Copy a small blob, and read it."""
    found = BlobFolder(home.blobs).read(sha, MAX_BLOB_BYTES)
    writer.put(base.blob_path(sha), found)
    return found


def _base(writer: Writer, home: Home, run: RunRecord, taken: Taken, consortium: str) -> None:
    source = BlobFolder(home.blobs)
    plan = run.plans[taken.plan]
    writer.put(base.blob_path(taken.plan), plan.to_bytes())
    state = State.from_bytes(_blob(writer, home, taken.state))
    for sha in (plan.model, plan.layout, state.base):
        _blob(writer, home, sha)
    lineage = Lineage(
        plan=taken.plan,
        rounds=taken.round,
        members=sorted(run.members),
        tokens=run.tokens,
        title=plan.title,
        consortium=consortium,
    )
    hugging_face.export(state, source, writer.root / "models" / taken.run, lineage)
    writer.take(f"models/{taken.run}")
    if state.outer is not None:
        _artifact(writer, home, state.outer)


def _artifact(writer: Writer, home: Home, sha: str) -> bool:
    """An artifact that may have been erased: all of it, or nothing."""
    source = BlobFolder(home.blobs)
    try:
        found = Artifact.from_bytes(source.read(sha, MAX_BLOB_BYTES))
        if not all(source.has(blob.sha256) for blob in found.shards):
            return False
        for blob in found.shards:
            writer.put(base.blob_path(blob.sha256), source.read(blob.sha256, blob.bytes))
    except (NotFound, HashMismatch):
        return False
    writer.put(base.blob_path(sha), found.to_bytes())
    return True


def _inner(writer: Writer, home: Home, run: str) -> None:
    """The newest inner state that the trainer has left."""
    rounds = [named for each in home.outputs.glob(f"{run}.*") if (named := parse_round_name(each.name))]
    held = [number for name, number in rounds if name == run and (home.output(run, number) / INNER).is_dir()]
    if held:
        folder = home.output(run, max(held))
        writer.tree(f"inner/{folder.name}", folder / INNER)


def _updates(writer: Writer, home: Home, own: Iterable[Own], record: Record) -> None:
    for each in own:
        if _artifact(writer, home, each.said.delta):
            layout = record.runs[each.said.run].plans[each.said.plan].layout
            _blob(writer, home, layout)


def _data(writer: Writer, home: Home, own: Iterable[Own]) -> None:
    """Data manifests of all contributions, and the cards that they name."""
    shelf = Shelf.of_node(home.root)
    held = {}
    for name in shelf.names():
        found = shelf.read(name)
        held[found.digest] = found
        writer.copy(f"cards/{name}.json", shelf.path(name))
    for sha in sorted({each.said.data_manifest for each in own}):
        try:
            told = files.read_limited(home.cache / "manifests" / f"{sha}.json", data.MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            writer.lacks(data.manifest_path(sha), "it is not in the node's cache/manifests")
            continue
        writer.put(data.manifest_path(sha), told)
        try:
            named = [card.card for card in data.DataManifest.from_bytes(told).cards]
        except TapestryError:
            continue  # the check says what is wrong with it
        for card in named:
            if card in held or data.used_path(card) in writer.files:
                continue
            used = home.cache / USED / f"{card}.json"
            if used.is_file():
                writer.copy(data.used_path(card), used)
            elif all(data.used_path(card) != each.what for each in writer.lacking):
                writer.lacks(data.used_path(card), "the card was made anew, and the old one was not kept")


def _receipts(writer: Writer, home: Home, only: str | None) -> None:
    for path in sorted(home.receipts.glob("*.json")):
        named = parse_round_name(path.name.removesuffix(".json").removesuffix(".lost"))
        if named is not None and only in (None, named[0]):
            writer.copy(f"receipts/{path.name}", path)


def _derivatives(writer: Writer, folders: Sequence[Path]) -> tuple[str, ...]:
    names = []
    for folder in folders:
        name = folder.resolve().name
        if not folder.is_dir() or not is_name(name) or name in names:
            raise InputError(
                f"{folder} cannot go along as a derivative",
                hint="give folders whose names differ, of a-z, 0-9, '.', '_' and '-'",
            )
        if not writer.tree(f"derivatives/{name}", folder):
            raise InputError(f"{folder} holds no file", hint="give the folder of a model")
        names.append(name)
    return tuple(sorted(names))
