"""Pledges at the core: taken in, confirmed, and shown against what phases need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from tapestry.catalog.listing import CatalogEntry, Shown
from tapestry.core.journal import ASSEMBLY, Decision, Moment, Standing
from tapestry.core.ledger_api import MAX_BYTES
from tapestry.core.service import Core
from tapestry.errors import Refused, TapestryError
from tapestry.governance import machine, pledging
from tapestry.governance.delivered import NAMED, Delivered
from tapestry.governance.phase_status import shown
from tapestry.governance.pledge import Confirmation, Pledge, Pledged, key_of
from tapestry.governance.resources import amount
from tapestry.governance.state import Assembly
from tapestry.governance.thresholds import reckon
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import Entry
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Contribution
from tapestry.storage import listings
from tapestry.transport import server, wire
from tapestry.transport.server import Call

Signed = Annotated[Call, Depends(server.signed)]
Seen = Annotated[Call | None, Depends(server.seen)]
Endpoint = Callable[..., Any]
Act = Callable[[Assembly, Envelope, machine.Moment], machine.Step]
PIECE: Final = 1000
"""Entries read at once."""
MAX_PAGE_BYTES: Final = 4 << 20
"""Of envelopes in an answer; one more pledge may go beyond it."""


class Pledges:
    """Of one core. Safe to use from several threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._runs: tuple[str, ...] = ()
        self._delivered = Delivered()

    def pledge(self, envelope: Envelope) -> Pledged:
        """Errors as of `governance.pledging.pledge`; `Refused` for what the catalog does not show."""
        self._check_dataset(envelope.unverified(Pledge))
        assembly = self._act(pledging.pledge, envelope)
        return assembly.governance.pledges[key_of(envelope.unverified(Pledge))]

    def confirm(self, envelope: Envelope) -> Pledged:
        """Errors as of `governance.pledging.confirm`."""
        assembly = self._act(pledging.confirm, envelope)
        return pledging.held_as(assembly.governance, envelope.unverified(Confirmation).pledge)

    def page(self, after: int, limit: int) -> dict[str, Any]:
        """Pledges in force behind so many, with what was signed, and how many there are; JSON values."""
        standing = self._standing()
        held = standing.state.governance.pledges.values()  # in another order once the core has begun anew
        every = sorted(held, key=lambda each: each.sequence)
        found: list[dict[str, Any]] = []
        size = 0
        for each in every[after : after + limit]:
            found.append(self._view(each))
            size += sum(len(part["envelope"]) for part in (found[-1], *found[-1]["words"]))
            if size > MAX_PAGE_BYTES:
                break
        return {"pledges": found, "sequence": standing.sequence, "total": len(every)}

    def phases(self) -> dict[str, Any]:
        """How each phase of the charter stands; JSON values."""
        standing = self._standing()
        assembly = standing.state
        governance, now = assembly.governance, time_text(self._core.journal.now_ms())
        phases = (governance.charter.phases if governance.charter is not None else None) or {}
        runs = tuple(sorted(run for each in phases.values() for run in each.runs))
        with self._lock:
            found = self._follow(runs)
            views = [
                shown(reckon(assembly, name, now), found.of(each.runs))
                for name, each in sorted(phases.items())
            ]
        return {
            "charter": governance.charter.digest if governance.charter is not None else None,
            "now": now,
            "phases": views,
            "sequence": standing.sequence,
        }

    def _standing(self) -> Standing[Assembly]:
        standing = self._core.journal.read(ASSEMBLY)
        return standing if standing is not None else Standing(sequence=0, state=Assembly())

    def _view(self, each: Pledged) -> dict[str, Any]:
        words = [
            {**word.model_dump(mode="json"), "envelope": self._entry(word.sequence).body["envelope"]}
            for word in each.words
        ]
        envelope = self._entry(each.sequence).body["envelope"]
        return {**each.model_dump(mode="json"), "words": words, "envelope": envelope}

    def _entry(self, sequence: int) -> Entry:
        (data,), _ = self._core.journal.entries(sequence - 1, limit=1, max_bytes=1)
        return Entry.from_bytes(data)

    def _follow(self, runs: tuple[str, ...]) -> Delivered:
        """The account of these runs, brought up to the newest entry. Under the lock."""
        if runs != self._runs:
            self._runs, self._delivered = runs, Delivered()
        found, journal = self._delivered, self._core.journal
        while runs:
            pieces, head = journal.entries(found.sequence, limit=PIECE, max_bytes=MAX_BYTES)
            for data in pieces:
                entry = Entry.from_bytes(data)
                found.sequence = entry.sequence
                if entry.scope in runs:
                    found.take(entry, self._said(entry))
            if not pieces or found.sequence >= head:
                break
        return found

    def _said(self, entry: Entry) -> Contribution | None:
        """What the envelope says that an entry names, where it lies here."""
        if entry.type not in NAMED:
            return None
        try:
            data = self._core.store.read(entry.body["contribution"], Envelope.MAX_BYTES)
            return Envelope.from_bytes(data).unverified(Contribution)
        except TapestryError:
            return None

    def _check_dataset(self, said: Pledge) -> None:
        """What a member pledges of its data, its catalog shows; that is not in the ledger, so only the core
        looks. What the card keeps to itself is not asked for; nor is anything of who takes a pledge back,
        whose dataset may be gone."""
        if said.dataset is None or not said.resource.startswith("data.") or _nothing(said.amount):
            return
        with self._core.database.reading() as connection:
            found = listings.DATASETS.newest(connection, said.member, said.dataset)
        entry = Envelope.from_bytes(found[1]).unverified(CatalogEntry) if found is not None else None
        if entry is None or entry.card is None:
            raise Refused(
                f"member {said.member} shows no dataset {said.dataset} in the catalog",
                hint="publish its card first: tapestry catalog publish",
            )
        self._check_card(said, entry.card)

    def _check_card(self, said: Pledge, card: Shown) -> None:
        language = said.resource.removeprefix("data.")
        if card.languages is not None and language not in card.languages:
            raise Refused(
                f"dataset {said.dataset} is in {', '.join(card.languages)}, not in {language}",
                hint="pledge it as what its card says",
            )
        try:
            pledged = amount(said.amount).base
        except ValueError:
            return  # the rules say so
        also = self._in_other_languages(said)
        if card.bytes is not None and pledged + also > card.bytes:
            more = f", beside {also} bytes of it in other languages" if also else ""
            has = f"dataset {said.dataset} has {card.bytes} bytes by its card"
            raise Refused(
                f"{has}, and {said.amount} are pledged{more}",
                hint="pledge what there is, or publish the card of what there is",
            )

    def _in_other_languages(self, said: Pledge) -> int:
        """Bytes of the dataset that its member pledges to this phase as something else: a card does not say
        how much is in which language, and no byte is in two."""
        own = (said.phase, said.member, said.dataset)
        return sum(
            amount(each.amount).base
            for each in self._standing().state.governance.pledges.values()
            if (each.phase, each.member, each.dataset) == own and each.resource != said.resource
        )

    def _act(self, act: Act, envelope: Envelope) -> Assembly:
        consortium = self._core.consortium.id

        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            assembly = standing.state if standing is not None else Assembly()
            at = machine.Moment(consortium=consortium, at=moment.at, sequence=moment.sequence)
            step = act(assembly, envelope, at)
            return Decision(state=step.assembly, events=() if step.event is None else (step.event,))

        return self._core.journal.apply(ASSEMBLY, decide).state


def _nothing(text: str) -> bool:
    try:
        return not amount(text).base
    except ValueError:
        return False  # the rules say so


class PledgesApi:
    """Endpoints over one core; whoever asks is a member, by a node's key or by its vote key."""

    def __init__(self, core: Core) -> None:
        self._pledges = Pledges(core)
        self._following = asyncio.Lock()
        """After a start the first look at phases reads the whole ledger: others wait for it here, and not in
        threads, of which there are few for all that members ask."""

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (
            ("POST", "/v1/pledges", self.pledge),
            ("GET", "/v1/pledges", self.list),
            ("POST", "/v1/confirmations", self.confirm),
            ("GET", "/v1/phases", self.phases),
        )

    async def pledge(self, request: Request, call: Signed) -> Response:
        server.query(request)
        found = await asyncio.to_thread(self._pledges.pledge, Envelope.from_bytes(call.body))
        return server.answer({"pledge": found.pledge, "sequence": found.sequence, "at": found.at})

    async def confirm(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        found = await asyncio.to_thread(self._pledges.confirm, envelope)
        member = envelope.unverified(Confirmation).member
        (word,) = (each for each in found.words if each.member == member)
        return server.answer({"pledge": found.pledge, "sequence": word.sequence, "at": word.at})

    async def list(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, after=0, limit=wire.MAX_LISTED)
        limit = min(asked["limit"], wire.MAX_LISTED)
        return server.answer(await asyncio.to_thread(self._pledges.page, asked["after"], limit))

    async def phases(self, request: Request, call: Seen) -> Response:
        server.query(request)
        async with self._following:
            return server.answer(await asyncio.to_thread(self._pledges.phases))
