"""A consortium with something of everything to look at, made in seconds by its own rules; and a dashboard.

Members: ada and cyd (stewards), bob (steward, auditor), and dan, who trains nothing. Votes take a minute.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from tapestry.catalog.listing import Shown
from tapestry.core.proofs import Proofs
from tapestry.core.views import run_view
from tapestry.governance import proposal as subjects
from tapestry.identity.keyring import KeyRing
from tapestry.identity.logins import make_login
from tapestry.protocol.clock import time_text
from tapestry.protocol.derivative import DerivativeRecord
from tapestry.protocol.views import Hello, RunView
from tapestry.rounds import machine
from tapestry.web.book import Book
from tapestry.web.follow import Follower
from tapestry.web.known import Known
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tapestry.web.source import Listing, Source
from tests.audit.promising import PILOT, Promising

NAMES: Final = ("ada", "bob", "cyd", "dan")
ROLES: Final[dict[str, Any]] = {
    "ada": {"seats": 1, "roles": ("member", "steward"), "title": "University of Ada"},
    "bob": {"seats": 1, "roles": ("member", "steward", "auditor")},
    "cyd": {"seats": 1, "roles": ("member", "steward")},
    "dan": {"seats": 1, "roles": ("member",)},
}
SCRIPT: Final = "<script>alert(1)</script><img src=x onerror=alert(2)>"
"""What somebody hostile writes where words may stand."""
SHOWN: Final = (
    "charter",
    "members",
    "plans",
    "votes",
    "contributions",
    "scores",
    "ledger",
    "catalog",
    "releases",
)


class World(Promising):
    """On a core without a server. What was decided is in `names`, by what it is called here."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, *NAMES)
        self.names: dict[str, str] = {}

    def charter(self, *names: str, **tables: Any) -> Any:
        found = super().charter(*names, **({"members": ROLES} | tables))
        return found.model_copy(update={"title": SCRIPT})

    def live(self, *, public: bool = True) -> World:
        """All that happens in it; the last proposal stays open."""
        shown = {"public": dict.fromkeys(SHOWN, "public")} if public else {}
        self.adopt(phases={"pilot": PILOT}, entitlements={"rounds": 2}, **shown)
        self.names["pledge"] = self.brought("ada", "compute", "120 accelerator-hours", "bob")
        self.brought("bob", "funds", "2000 EUR", "ada")
        self.names["waiting"] = self.pledge("cyd", "funds", "3500 EUR", text=SCRIPT)
        self.names["refused"] = self.decided("ada", subjects.OpenPhase(phase="pilot"), yes=["ada", "bob"])
        self.confirm("ada", self.names["waiting"])
        self.names["phase"] = self.passed(subjects.OpenPhase(phase="pilot"), "dan")
        plan = self.plan(rounds_total=3, rounds_min_nodes=3, rounds_quorum=2, rounds_deadline_s=10_000.0)
        self.ratified(plan)
        self.put(machine.Start())
        for name in NAMES[:3]:
            self.enrol(self.nodes[name])
        for number in range(3):
            for name in NAMES[: 3 if number == 0 else 2]:
                self.send(self.nodes[name], train_ms=3_600_000, bytes=1000)
            if number:
                self.wait(10_001)
            self.merge()
            self.attest(self.nodes["ada"])
            for name in NAMES[:2]:
                self.score(self.nodes[name], 2.5 - number / 10)
        self.names["release"] = self.passed(subjects.AcceptRelease(release="one", state=self.state().head))
        self.names["dispute"] = self.dispute("cyd", reason=SCRIPT)
        self.names["hostile"] = self.said_to_vote("cyd", subjects.Suspend(member="dan"), SCRIPT)
        self.vote(self.names["hostile"], yes=["ada"], no=["bob"])
        return self

    def said_to_vote(self, name: str, subject: subjects.Subject, words: str) -> str:
        self.now += 10
        return self.votes.propose(self.proposal(name, subject, title=words, text=words)).proposal


class InProcess(Source):
    """What a dashboard would be told by this world's core, with a member's key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.signed = True
        self.derived: tuple[DerivativeRecord, ...] = ()

    def hello(self) -> Hello:
        key = self._world.core.consortium.core_key.public_key
        return Hello(
            consortium=self._world.consortium, core_key=key, release="0", formats={}, time=self.time()
        )

    def time(self) -> str:
        return time_text(self._world.now)

    def lines(self, after: int) -> bytes:
        core = self._world.core
        return b"".join(Proofs(core.journal, core.consortium).written(core.store, after))

    def run(self, run: str) -> RunView:
        return run_view(self._world.core.runs.standing(run), self._world.now, {}, None)

    def listings(self, ring: KeyRing, consortium: str) -> tuple[Listing, ...] | None:
        shown = Shown(**{**dict.fromkeys(Shown.model_fields), "description": SCRIPT, "languages": ("en",)})
        return (
            Listing(
                member="cyd", dataset="letters", at=self.time(), card=shown, public=frozenset(), signed=True
            ),
        )

    def derivatives(self, ring: KeyRing, consortium: str) -> tuple[DerivativeRecord, ...]:
        return self.derived


class Dashboard:
    """On a world, in this process, following it as it would a core."""

    def __init__(self, world: World, folder: Path, **settings: Any) -> None:
        self.world = world
        self.follower = Follower(InProcess(world), Book(folder / "web"))
        self.again()
        self.site = Site(settings=WebSettings(**settings), follower=self.follower)

    @property
    def known(self) -> Known:
        return self.follower.known

    @property
    def book(self) -> Book:
        return self.follower.book

    def again(self) -> None:
        """Read what happened since."""
        self.follower.step()
        assert self.known.trouble is None and self.known.broken is None, self.known

    def cookie(self, member: str, origin: str) -> str:
        """A session, by the way of everybody."""
        now, at = time.time(), self.known.heard_at
        challenge = self.site.sessions.challenge(origin, now)
        signed = make_login(
            self.world.nodes[member].vote,
            consortium=self.world.consortium,
            origin=origin,
            challenge=challenge,
            member=member,
        )
        ring = self.known.assembly.ring
        token = self.site.sessions.answer(
            signed, ring, consortium=self.world.consortium, origin=origin, at=at, now=now
        )
        return self.site.sessions.enter(token, now)
