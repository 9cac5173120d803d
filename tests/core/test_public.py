"""What is read without a proof: what the charter makes public, and at little cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core import catalog
from tapestry.core.api import Api
from tapestry.core.coordinator import Coordinator
from tapestry.core.public import SAVED_S, PublicReads, levels, may_read
from tapestry.core.quota import Quota
from tapestry.core.watch import Watch
from tapestry.errors import AuthError
from tapestry.governance.charter import Public
from tapestry.identity.envelope import sign
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Progress
from tapestry.rounds import machine
from tests.audit.council import Council
from tests.catalog.made import card
from tests.governance.made import charter

LEVELS = tuple(Public.model_fields)
OPEN = charter().model_copy(update={"public": Public.model_validate(dict.fromkeys(LEVELS, "public"))})
READ = {
    "/v1/charter": ("charter",),
    "/v1/members": ("members",),
    "/v1/runs": ("plans",),
    "/v1/runs/run": ("plans", "contributions"),
    "/v1/proposals": ("votes",),
    "/v1/pledges": ("votes",),
    "/v1/phases": ("votes", "contributions"),
    "/v1/catalog": ("catalog",),
    "/v1/events": ("ledger",),
    "/v1/ledger": ("ledger",),
    "/v1/ledger/checkpoint": ("ledger",),
    "/v1/ledger/inclusion?sequence=1&size=2": ("ledger",),
    "/v1/ledger/consistency?old=1&new=2": ("ledger",),
}
"""Every address that anybody may read, and when."""


class Town(Council):
    """A consortium with a charter, whose core is asked in memory. `said`: by a node, of its progress."""

    said: tuple[str, Progress] | None = None

    def __init__(self, root: Path, **public: str) -> None:
        super().__init__(root, "ada", "bob", "cyd")
        self.adopt(public=public)
        self.ratified(self.plan())
        self.put(machine.Start())

    def ask(self, *targets: str, **headers: str) -> list[httpx.Response]:
        async def ask() -> list[httpx.Response]:
            watch, quota = Watch(), Quota(1 << 30)
            coordinator = Coordinator(
                *(self.core.runs, None, watch),  # type: ignore[arg-type] - it merges nothing
                copies=self.core.copies(None),  # type: ignore[arg-type]
                quota=quota,
                tell=lambda *_, **__: None,
                trouble_changed=lambda _: None,
            )
            api = Api(self.core, watch, quota, coordinator)
            if self.said is not None:
                api._telling.take("run", *self.said)
            app = api.app()
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://core") as client:
                return [await client.get(target, headers=headers) for target in targets]

        return asyncio.run(ask())

    def publish(self, **levels: str) -> None:
        made = card(name="letters", visibility=levels)
        what, public = shown(made)
        node = self.nodes["ada"]
        entry = CatalogEntry(
            consortium=self.consortium, member="ada", node=node.name, dataset="letters",
            at=time_text(self.now), card=what, public=public,
        )  # fmt: skip
        catalog.CatalogApi(self.core).take(sign(entry, node.key), node.signer)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Callable[..., Town]]:
    made: list[Town] = []

    def make(**public: str) -> Town:
        made.append(Town(tmp_path / f"core{len(made)}", **public))
        return made[-1]

    yield make
    for each in made:
        each.core.close()


def test_what_the_charter_says_is_what_anybody_reads(town: Callable[..., Town]) -> None:
    everything = town(**dict.fromkeys(LEVELS, "public"))
    for target, answer in zip(READ, everything.ask(*READ), strict=True):
        assert answer.status_code == 200, (target, answer.text)
        assert "max-age" in answer.headers["cache-control"]
    usual = town()
    for target, answer in zip(READ, usual.ask(*READ), strict=True):
        shown = READ[target] in (("charter",), ("members",))
        assert answer.status_code == (200 if shown else 401), (target, answer.text)


@pytest.mark.parametrize("hidden", LEVELS)
def test_each_level_hides_what_is_its_own(hidden: str) -> None:
    """By the rule alone: a charter with a public ledger may hide nothing."""
    public = {**dict.fromkeys(LEVELS, "public"), hidden: "consortium"}
    said = charter().model_copy(update={"public": Public.model_validate(public)})
    for target, needed in READ.items():
        path = target.partition("?")[0]
        assert levels(path) == needed
        if hidden in needed:
            with pytest.raises(AuthError):
                may_read(path, said)
        else:
            may_read(path, said)


@pytest.mark.parametrize("scores", ["public", "consortium"])
def test_a_nodes_loss_is_told_with_scores_alone(town: Callable[..., Town], scores: str) -> None:
    """The control: where scores are public, the loss stands there."""
    there = town(plans="public", contributions="public", scores=scores)
    for each in ("ada", "bob", "cyd"):
        there.enrol(there.nodes[each])
    state = there.state()
    assert state.current is not None
    node = sorted(state.current.nodes)[0]
    said = Progress(round=state.current.round, step=1, steps=9, loss=2.5, tokens_per_s=7.0)
    there.said = node, said
    (answer,) = there.ask("/v1/runs/run")
    (told,) = (each["progress"] for each in answer.json()["current"]["nodes"] if each["node"] == node)
    assert (told["step"], told["loss"]) == (1, 2.5 if scores == "public" else None)


def test_blobs_and_whatever_is_new_are_for_members(town: Callable[..., Town]) -> None:
    everything = town(**dict.fromkeys(LEVELS, "public"))
    blob = everything.state().plan.digest
    for answer in everything.ask(f"/v1/blobs/{blob}", "/v1/charter/", "/v1/new"):
        assert answer.status_code in (401, 404)


def test_a_wrong_proof_is_not_the_same_as_none(town: Callable[..., Town]) -> None:
    (answer,) = town().ask("/v1/charter", Authorization="Tapestry wrong")
    assert answer.status_code in (400, 401)


def test_anybody_sees_of_a_card_what_its_owner_calls_public(town: Callable[..., Town]) -> None:
    open_catalog = town(catalog="public")
    open_catalog.publish(licence="public", description="consortium", documents="private")
    (answer,) = open_catalog.ask("/v1/catalog")
    (entry,) = answer.json()["entries"]
    assert (entry["member"], entry["dataset"]) == ("ada", "letters")
    assert "licence" in entry["card"]
    assert not {"description", "documents"} & set(entry["card"])
    assert "payload" not in json.dumps(entry)


class Behind:
    """An application that counts how often it is asked, and takes its time."""

    def __init__(self, takes_s: float = 0.0, size: int = 10) -> None:
        self.asked = 0
        self.now = 0.0
        self._takes_s, self._size = takes_s, size

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.asked += 1
        await asyncio.sleep(0.01)
        self.now += self._takes_s
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * self._size})


def _reads(behind: Behind, targets: list[str]) -> list[int]:
    """All at once."""
    layer = PublicReads(behind, lambda: OPEN, clock=lambda: behind.now)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://core") as client:
            return [each.status_code for each in await asyncio.gather(*map(client.get, targets))]

    return asyncio.run(ask())


def test_many_who_ask_the_same_are_answered_by_one_look() -> None:
    behind = Behind()
    assert _reads(behind, ["/v1/ledger?after=7"] * 50) == [200] * 50
    assert behind.asked == 1


def test_few_are_made_at_once_and_others_come_again() -> None:
    behind = Behind()
    answers = _reads(behind, [f"/v1/ledger?after={n}" for n in range(50)])
    assert (answers.count(200), answers.count(503), behind.asked) == (2, 48, 2)


def test_they_take_a_share_of_the_time_and_no_more() -> None:
    behind = Behind(takes_s=2 * SAVED_S)
    layer = PublicReads(behind, lambda: OPEN, clock=lambda: behind.now)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://core") as client:
            found = [(await client.get(f"/v1/ledger?after={n}")).status_code for n in range(2)]
            behind.now += 60
            return [*found, (await client.get("/v1/ledger?after=9")).status_code]

    assert asyncio.run(ask()) == [200, 503, 200]


def test_little_is_kept() -> None:
    behind = Behind(size=9 << 20)
    layer = PublicReads(behind, lambda: OPEN, clock=lambda: behind.now)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(layer), base_url="http://core") as client:
            for n in range(4):
                await client.get(f"/v1/ledger?after={n}")

    asyncio.run(ask())
    assert layer._kept_bytes <= 16 << 20


@pytest.mark.parametrize("bounded", [True, False])
def test_answers_that_nobody_takes_are_few_and_end(monkeypatch: pytest.MonkeyPatch, bounded: bool) -> None:
    """The control: as many are held as are asked for."""
    monkeypatch.setattr("tapestry.core.public.SEND_S", 0.5)
    if not bounded:
        monkeypatch.setattr("tapestry.core.public.SENDING_BYTES", 1 << 40)
    behind = Behind(size=9 << 20)
    layer = PublicReads(behind, lambda: OPEN, clock=lambda: behind.now)
    refused = 0

    async def one(n: int) -> None:
        nonlocal refused
        stuck = asyncio.Event()

        async def never(message: Message) -> None:
            nonlocal refused
            refused += message.get("status") == 503
            if message.get("more_body"):
                await stuck.wait()

        scope = {"type": "http", "method": "GET", "path": "/v1/ledger", "query_string": b"after=%d" % n}
        await layer({**scope, "headers": []}, _no_body, never)

    async def ask() -> int:
        tasks = []
        for n in range(12):
            tasks.append(asyncio.create_task(one(n)))
            await asyncio.sleep(0.03)
        held = layer._sending
        await asyncio.gather(*tasks, return_exceptions=True)
        return held

    held = asyncio.run(ask())
    assert (held <= (64 << 20) + (9 << 20), refused > 0, layer._sending) == (bounded, bounded, 0)


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
