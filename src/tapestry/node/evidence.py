"""One folder for an auditor: assertions about each contribution, proofs, ledger, the EU's summary, a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tapestry.bundle import data, manifest, page, statement, summary
from tapestry.bundle.check import Checked
from tapestry.bundle.data import DataManifest, ManifestCard
from tapestry.bundle.folder import Progress
from tapestry.bundle.page import About, Shown
from tapestry.bundle.record import Own, Record
from tapestry.bundle.statement import DataUse, Decided, Digest, Placed, Residency, Used
from tapestry.bundle.writer import Told, Writer, writing
from tapestry.catalog import document
from tapestry.catalog.card import Card
from tapestry.catalog.croissant import CardFile
from tapestry.catalog.policy import RULES, Policy
from tapestry.errors import InputError, TapestryError
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.node.exit import USED, Standing
from tapestry.node.home import Home
from tapestry.node.member import local_now
from tapestry.node.settings import NodeSettings
from tapestry.protocol.canonical import sha256
from tapestry.training import rights
from tapestry.training.shelf import Shelf
from tapestry.training.withdrawals import Withdrawals


def evidence(
    home: Path,
    out: Path,
    run: str | None = None,
    *,
    made: str | None = None,
    progress: Progress = lambda _done, _all: None,
    told: Told = lambda _: None,
) -> Checked:
    """Write a bundle of kind `evidence`, check it, and give it its name.

    Args:
        home: of a node that has joined and holds a ledger.
        out: must not exist, or be empty.
        run: about one run alone; all if None.
        made: as of `exit.Wanted`.
        progress, told: as of `bundle.check.check`.

    Raises: as `exit.export`.
    """
    standing = Standing.of(Home(home))
    record = standing.record
    if run is not None and run not in record.runs:
        raise InputError(f"the node in {home} knows no run {run}", hint="see tapestry node status HOME")
    own, made = record.of(run), made or local_now()
    with writing(out, "evidence", progress=progress, told=told) as writing_:
        writer = writing_.writer
        standing.begin(writer, own)
        teller = _Teller(standing.home, standing.given)
        every = [teller.about(each, record) for each in own.values()]
        _statements(writer, every, standing.keypair)
        answers = summary.fill(teller.cards.values(), sorted({each.said.run for each in own.values()}))
        writer.put("summary.md", summary.markdown(answers, standing.given.node.name).encode())
        writer.put("summary.json", _summary_json(answers))
        about = About(
            member=standing.given.node.member,
            node=standing.given.node.name,
            consortium=standing.joined.consortium,
            made=made,
            entries=record.entries,
            root=record.root,
            contributions=every,
            answers=answers,
            files=dict(writer.files),
        )
        writer.put(manifest.PAGE, page.page(about))
        standing.finish(writer, own=len(own), made=made, only=run, runs=(), derivatives=())
    return writing_.checked


def _statements(writer: Writer, every: list[Shown], keypair: KeyPair) -> None:
    for shown in every:
        predicates: tuple[DataUse | Residency, ...] = (shown.use, shown.place)
        for kind, predicate in zip(statement.KINDS, predicates, strict=True):
            signed = statement.sign(statement.make(shown.own, predicate), keypair)
            writer.put(statement.path_of(shown.own.digest, kind), signed.to_bytes())


def _summary_json(answers: list[summary.Answer]) -> bytes:
    value = {
        "format": "tapestry.training-summary",
        "version": 1,
        "template": summary.TEMPLATE,
        "answers": [answer.to_json() for answer in answers],
    }
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


@dataclass(frozen=True)
class _Held:
    """A dataset that a manifest names, with its card."""

    named: ManifestCard
    card: Card


class _Teller:
    """Says of each contribution what the node knows of its data."""

    def __init__(self, home: Home, given: NodeSettings) -> None:
        self._home = home
        self._given = given
        self._policy: Policy = rights.rules(home.root)
        self._added = rights.owners_rules(home.root)
        self._withdrawals = Withdrawals(home.root)
        self._shelf = {each.digest: each for each in Shelf.of_node(home.root).all()}
        self.cards: dict[str, Card] = {}
        """By digest: those of datasets that were used."""

    def about(self, own: Own, record: Record) -> Shown:
        lacking: str | None = None
        try:
            held = self._held(own)
        except TapestryError as e:
            held, lacking = [], e.message[:400]
        except FileNotFoundError:
            held, lacking = [], "the data manifest or a card of it is not at the node any more"
        common = {**statement.stated(own), "lacking": lacking}
        use = DataUse(
            **common,
            dataManifest=Digest(sha256=own.said.data_manifest),
            tokens=own.said.tokens,
            steps=own.said.steps,
            datasets=tuple(self._used(each, own) for each in held),
            policy=Digest(sha256=sha256(f"{RULES}\n{self._added}".encode())),
        )
        here = self._given.training.residency
        place = Residency(
            **common,
            residency=here,
            airlock=own.said.environment.get("airlock"),
            datasets=tuple(
                Placed(
                    name=each.card.name,
                    card=Digest(sha256=each.named.card),
                    allowed=here is not None and here in each.card.residency,
                )
                for each in held
            ),
        )
        merged = own.digest in record.runs[own.said.run].merged
        return Shown(own=own, merged=merged, use=use, place=place)

    def _used(self, held: _Held, own: Own) -> Used:
        day, stage = own.entry.at[:10], held.named.stage
        decision = self._policy.decide(
            held.card,
            stage,
            node=self._given.node.name,
            member=self._given.node.member,
            residency=self._given.training.residency,
            today=day,
            withdrawn=self._withdrawals.covers(held.card),
        )
        decided = Decided(
            permitted=decision.permitted,
            rule=decision.rule[:200],
            rules=tuple(rule[:200] for rule in decision.rules[:1000]),
            day=day,
        )
        return Used(name=held.card.name, card=Digest(sha256=held.named.card), stage=stage, decision=decided)

    def _held(self, own: Own) -> list[_Held]:
        path = self._home.cache / "manifests" / f"{own.said.data_manifest}.json"
        told = files.read_limited(path, data.MAX_MANIFEST_BYTES)
        return [_Held(named, self._card(named.card)) for named in DataManifest.from_bytes(told).cards]

    def _card(self, digest: str) -> Card:
        if digest not in self.cards:
            found = self._shelf.get(digest)
            if found is None:
                path = self._home.cache / USED / f"{digest}.json"
                found = CardFile.from_bytes(files.read_limited(path, document.MAX_BYTES), str(path))
            self.cards[digest] = found.card
        return self.cards[digest]
