"""What people do, in a real browser: sign in, vote, verify a proof, follow a run to its end. The core is a
process of its own, and the commands are those that the pages show."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import main
from tapestry.governance import proposal as subjects
from tapestry.host import files
from tapestry.node.member import MemberFile
from tapestry.node.setup import Consortium
from tapestry.transport.connection import Connection
from tapestry.web.app import make_app
from tapestry.web.book import Book
from tapestry.web.follow import Follower
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tapestry.web.source import Source
from tests.web import followed
from tests.web.served import served
from tests.web.world import NAMES, SHOWN, World

PATIENCE_MS = 60_000


@dataclass
class Place:
    """A consortium whose core and dashboard run, and bob's folder."""

    world: World
    url: str
    proposal: str
    folder: Path
    chromium: Any

    def typed(self, command: str, capsys: Any) -> str:
        """What a page shows, with bob's folder put in: its output."""
        words = command.replace("FOLDER", str(self.folder)).split()
        assert words[0] == "tapestry"
        capsys.readouterr()
        assert main.call(words[1:]) == 0, capsys.readouterr().err
        return str(capsys.readouterr().out).strip()

    def signed_in(self, capsys: Any) -> Any:
        """A browser in which bob has signed in, by what the page says."""
        page = self.chromium.new_context().new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{self.url}/en/decisions/{self.proposal}")
        page.click("text=Sign in")
        command = page.inner_text(".command code >> nth=0")
        page.goto(self.typed(command, capsys))
        assert page.locator("h1").inner_text() == "Sign in as bob"
        page.click("main button")
        page.wait_for_url("**/desk")
        return page


def _folder(world: World, name: str, core_url: str, folder: Path) -> Path:
    """A member's, as `tapestry member key vote` leaves it."""
    folder.mkdir(parents=True)
    node = world.nodes[name]
    (folder / "member.json").write_bytes(MemberFile(name=name, root_key=node.root.public_key).to_bytes())
    files.private_write(folder / "vote.key", node.vote.to_pem())
    joined = Consortium(
        core_url=core_url,
        consortium=world.consortium,
        core_key=world.core.consortium.core_key.public_key,
        root_key=node.root.public_key,
        ca=None,
    )
    (folder / "consortium.json").write_bytes(joined.to_bytes())
    return folder


@pytest.fixture(scope="module")
def place(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("flows")
    with (world := World(folder / "core")).core:
        usual = {"voting": "1 day", "quorum": "at least 1/2", "approval": "more than 1/2"}
        world.adopt(usual=usual, public=dict.fromkeys(SHOWN, "public"))
        proposal = world.propose("ada", subjects.Suspend(member="dan"))
        with followed.core_of(folder / "core") as (core_url, _):
            key = world.nodes["cyd"].vote
            asked = Connection(core_url, world.consortium, key, ca=None, connections=2)
            follower = Follower(Source(asked), Book(folder / "web"), every_s=0.2)
            site = Site(settings=WebSettings(core_url=core_url), follower=follower)
            follower._news = site.bell.ring
            follower.start()
            try:
                _until(lambda: proposal in follower.known.assembly.governance.proposals)
                bob = _folder(world, "bob", core_url, folder / "bob")
                with served(make_app(site)) as url:
                    yield Place(world, url, proposal, bob, chromium)
            finally:
                follower.stop()


def test_sign_in_vote_and_see_it_counted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    page = place.signed_in(capsys)
    assert page.locator("main h3 a").count() == 1
    page.goto(f"{place.url}/en/decisions/{place.proposal}")
    assert "Nobody has voted yet" in page.inner_text("#count")
    command = page.inner_text(".command code")
    assert command == f"tapestry vote {place.proposal[:12]} yes --member FOLDER"
    place.typed(command, capsys)
    page.wait_for_selector("#count >> text=Your member voted: Yes")  # without anybody loading it anew
    page.goto(f"{place.url}/en/desk")
    assert page.locator("main h3 a").count() == 0
    page.click("text=Sign out")
    page.wait_for_selector("text=Sign in")
    assert page.goto(f"{place.url}/en/desk").status == 403
    page.context.close()


def test_a_proof_is_worked_out_by_the_browser_and_a_lie_is_seen(place: Place) -> None:
    page = place.chromium.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{place.url}/en/ledger/7")

    def forged(route: Any) -> None:
        given = json.loads(route.fetch().body())
        lines = given["checkpoint"].split("\n")
        lines[2] = base64.b64encode(bytes(32)).decode()
        route.fulfill(
            body=json.dumps({**given, "checkpoint": "\n".join(lines)}), content_type="application/json"
        )

    page.route("**/proof", forged)  # before this browser has seen anything: it must not remember that
    page.click("[data-verify]")
    page.wait_for_selector("[data-verdict][data-ok=fails]")
    page.unroute("**/proof")
    page.route("**/proof", lambda route: route.abort())
    page.click("[data-verify]")
    page.wait_for_selector("[data-verdict][data-ok=lacking]")
    page.unroute("**/proof")
    page.click("[data-verify]")
    page.wait_for_selector("[data-verdict][data-ok=holds]")
    steps = page.locator(".steps > li")
    assert steps.count() > 8 and page.locator('.steps > li[data-ok="true"]').count() == steps.count()
    page.click("[data-verify]")  # and again, against what it remembers
    page.wait_for_selector("[data-verdict][data-ok=holds]")

    def lie(route: Any) -> None:
        given = json.loads(route.fetch().body())
        given["proof"][1] = "0" * 64
        route.fulfill(body=json.dumps(given), content_type="application/json")

    page.route("**/proof", lie)
    page.click("[data-verify]")
    page.wait_for_selector("[data-verdict][data-ok=fails]")
    assert page.locator('[data-step="root"][data-ok="false"]').count() == 1
    page.unroute("**/proof")
    # Another tree than the one it has seen before: as from a core with two histories.
    page.evaluate(
        """() => { for (const key of Object.keys(localStorage).filter((k) => k.startsWith("tapestry-check")))
            localStorage.setItem(key, JSON.stringify({size: 3, root: "0".repeat(64)})); }"""
    )
    page.click("[data-verify]")
    page.wait_for_selector('[data-step="seen"][data-ok="false"]')
    page.wait_for_selector("[data-verdict][data-ok=fails]")
    page.context.close()


@pytest.mark.long
def test_a_run_is_followed_to_its_end(chromium: Any, tmp_path: Path) -> None:
    """Its merges are the core's own, of deltas that two nodes send; the page follows by itself."""
    with (world := World(tmp_path / "core")).core:
        nodes = [world.nodes[name] for name in NAMES[:2]]
        world.running(*nodes, rounds_total=2, rounds_min_nodes=2, rounds_quorum=2, rounds_deadline_s=600.0)
        with followed.core_of(tmp_path / "core") as (core_url, _):
            asked = Connection(core_url, world.consortium, world.nodes["cyd"].vote, ca=None, connections=2)
            follower = Follower(Source(asked), Book(tmp_path / "web"), every_s=0.2)
            site = Site(settings=WebSettings(core_url=core_url, opened="member"), follower=follower)
            follower._news = site.bell.ring
            follower.start()
            try:
                with served(make_app(site)) as url:
                    _until(lambda: "run" in follower.known.views)
                    page = chromium.new_context().new_page()
                    page.set_default_timeout(PATIENCE_MS)
                    page.goto(f"{url}/en/runs/run")
                    assert "finished" not in page.inner_text("main")
                    for number in range(2):
                        _until(lambda: world.state().current is not None)
                        for node in nodes:
                            world.core.runs.contribute("run", world.envelope(node), node.signer)
                        _until(lambda number=number: world.state().merges == number + 1)
                    page.wait_for_selector("main >> text=/finished/i")
                    page.context.close()
            finally:
                follower.stop()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
