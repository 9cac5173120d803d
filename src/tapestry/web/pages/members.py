"""Members: what each gave to the consortium, and what it gained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from fractions import Fraction

from starlette.requests import Request
from starlette.responses import Response

from tapestry.errors import NotFound
from tapestry.governance.accounting import Account, Sums
from tapestry.rounds.weights import UNIT
from tapestry.web import charts
from tapestry.web.known import Known
from tapestry.web.live import GAP_S
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page

PER_PAGE = 64
SORTS = ("name", "weight", "tokens", "gain")


@dataclass(frozen=True, kw_only=True)
class Gained:
    """What a member has of the base of one run, on its own text.

    Args:
        first, last: bits per byte of the base it began with, and of the newest one it scored.
        alone: of the same model trained on its own text alone, where that was measured.
    """

    run: str
    first: float
    last: float
    merges: int
    alone: float | None

    @property
    def part(self) -> float:
        """Of the bits that are gone."""
        return 1 - self.last / self.first if self.first else 0.0

    @property
    def against(self) -> float | None:
        """How much better than alone; below 0 it is worse."""
        return None if not self.alone else 1 - self.last / self.alone


@dataclass(frozen=True, kw_only=True)
class MemberRow:
    name: str
    title: str
    roles: tuple[str, ...]
    nodes: int
    suspended: bool
    sums: Sums | None
    share: float | None
    gained: tuple[Gained, ...]
    languages: tuple[str, ...]

    @property
    def gain(self) -> float | None:
        return self.gained[-1].part if self.gained else None


def rows(ask: Ask) -> list[MemberRow]:
    """All members, as far as this viewer sees them, by name."""
    known = ask.known
    account = _account(ask)
    total = account.total() if account is not None else {}
    merges = sum(each.merges for each in account.runs.values()) if account is not None else 0
    languages = charts.languages_of(ask.listings, insider=ask.viewer.insider)
    charter, governance = known.charter if ask.sees("charter") else None, known.assembly.governance
    found = []
    for name in known.members:
        named = charter.members.get(name) if charter is not None else None
        sums = total.get(name)
        share = float(Fraction(sums.weight, UNIT * merges)) if sums is not None and merges else None
        found.append(
            MemberRow(
                name=name,
                title=named.title if named is not None else "",
                roles=named.roles if named is not None else (),
                nodes=_nodes(known, name),
                suspended=ask.sees("votes") and governance.suspension(name, known.heard_at) is not None,
                sums=sums,
                share=share,
                gained=_gained(ask, name),
                languages=tuple(languages.get(name, ())),
            )
        )
    return found


def _account(ask: Ask) -> Account | None:
    follower = ask.site.follower
    if follower is None or not ask.known.size or not ask.sees("contributions"):
        return None
    return follower.account()


def _nodes(known: Known, member: str) -> int:
    """With a key that is valid."""
    keys = known.assembly.ring.keys.values()
    return len(
        {
            key.certificate.node
            for key in keys
            if key.certificate.member == member and key.certificate.role == "node" and key.revoked is None
        }
    )


def _gained(ask: Ask, member: str) -> tuple[Gained, ...]:
    if not ask.sees("scores"):
        return ()
    found = []
    for run, story in sorted(ask.known.stories.items()):
        scores = story.scores.get(member)
        if scores is None or scores.last is None:
            continue
        merges, last, _ = scores.last
        alone = ask.site.settings.alone.get(run, {}).get(member)
        found.append(
            Gained(run=run, first=story.first[member][1], last=last, merges=int(merges), alone=alone)
        )
    return tuple(found)


# -- pages -----------------------------------------------------------------------------------------


async def _shared_rows(ask: Ask) -> list[MemberRow]:
    """Once for all who see the same. Not to be changed."""
    seen = (ask.sees("contributions"), ask.sees("charter"), ask.sees("votes"), ask.sees("scores"))
    key = ("members", ask.viewer.insider, *seen, ask.sees("catalog"), ask.known.closed)
    return await ask.site.shared.of(key, (ask.known,), lambda: rows(ask), fresh_s=GAP_S)


async def every(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("members")
    sort = ask.one_of("sort", SORTS)
    found = await _shared_rows(ask)
    if sort == "weight":
        found = sorted(found, key=lambda row: -(row.share or 0))
    elif sort == "tokens":
        found = sorted(found, key=lambda row: -(row.sums.tokens if row.sums is not None else 0))
    elif sort == "gain":
        found = sorted(found, key=lambda row: -(row.gain or 0))
    last = max(1, -(-len(found) // PER_PAGE))
    at = ask.number("page", 1, least=1, most=last)
    top = max((row.share or 0.0 for row in found), default=0.0)
    return page(
        *(ask, "members.html"),
        rows=found[(at - 1) * PER_PAGE : at * PER_PAGE],
        total=len(found),
        top=top,
        sort=sort,
        sorts=SORTS,
        at=at,
        last=last,
    )


async def one(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("members")
    name = str(request.path_params["member"])
    row = next((each for each in await _shared_rows(ask) if each.name == name), None)
    if row is None:
        raise NotFound(f"there is no member {name[:40]!r} here")
    account = await asyncio.to_thread(_account, ask)
    runs = [
        (run.run, run.members[name], float(run.share(name)), run.rounds)
        for run in (account.runs.values() if account is not None else ())
        if name in run.members
    ]
    shown = [each for each in ask.listings if each.member == name]
    return page(ask, "member.html", row=row, runs=runs, datasets=shown)


ROUTES = (Route("/members", every), Route("/members/{member}", one))
