"""A dashboard believes no core: it verifies what it is told, remembers it, and says when it hears nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.core.catalog import CatalogApi
from tapestry.errors import DiskFull
from tapestry.governance import proposal as subjects
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import time_text
from tapestry.web.app import make_app
from tapestry.web.book import Book
from tapestry.web.follow import Follower
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tapestry.web.source import Source
from tests.catalog.made import card
from tests.web.followed import caught_up, core_of, end, follower, source
from tests.web.world import World


class Town:
    """A world, and its core as it serves."""

    def __init__(self, root: Path, *, public: bool) -> None:
        self.world = World(root).live(public=public)
        self.world.core.consortium.certify(self._vote_like_node())
        self._publish()
        self.consortium = self.world.consortium
        self.key: KeyPair = self.world.nodes["ada"].key
        self.size = self.world.core.journal.tree_head()[0]
        self.world.core.close()

    def _vote_like_node(self) -> Any:
        ada = self.world.nodes["ada"]
        ada.key = KeyPair.generate()
        return ada.certificate(ada.key)

    def _publish(self) -> None:
        levels = {"licence": "public", "description": "consortium", "languages": "consortium"}
        made = card(name="letters", visibility=levels)
        what, public = shown(made)
        node = self.world.nodes["ada"]
        entry = CatalogEntry(
            consortium=self.world.consortium, member="ada", node=node.name, dataset="letters",
            at=time_text(self.world.now), card=what, public=public,
        )  # fmt: skip
        CatalogApi(self.world.core).take(sign(entry, node.key), node.signer)


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    end()


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, str]]:
    """One whose charter makes everything public."""
    town = Town(tmp_path_factory.mktemp("open") / "core", public=True)
    with core_of(town.world.root) as (url, _):
        yield town, url


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, str]]:
    """One whose charter leaves all to its defaults."""
    town = Town(tmp_path_factory.mktemp("closed") / "core", public=False)
    with core_of(town.world.root) as (url, _):
        yield town, url


def client(found: Follower, **settings: Any) -> TestClient:
    site = Site(settings=WebSettings(**settings), follower=found)
    return TestClient(make_app(site), base_url="http://127.0.0.1", follow_redirects=False)


def test_everything_is_verified_and_kept(town: tuple[Town, str], tmp_path: Path) -> None:
    there, url = town
    found = follower(source(url), tmp_path)
    known = found.known
    assert (known.size, known.head, known.broken) == (there.size, there.size, None)
    assert found.book.root(there.size).hex()[:12] in _root_of(known.checkpoint)
    assert known.states["run"].status == "finished"
    story = known.stories["run"]
    assert story.totals.rounds == 3 and story.totals.merged == 7
    assert sorted(story.scores) == ["ada", "bob"]
    account = found.account()
    assert account.runs["run"].members["ada"].rounds == 3
    assert [each.dataset for each in known.listings or ()] == ["letters"]
    found.stop()
    again = follower(source("http://127.0.0.1:9"), tmp_path, asks=False)
    assert again.known.size == there.size  # from the disk, without a core
    assert again.book.read(1, 5)[0].entry.type == "founded"


def _root_of(note: str) -> str:
    import base64

    return base64.b64decode(note.split("\n")[2]).hex()


def test_a_file_that_was_changed_is_fetched_anew(town: tuple[Town, str], tmp_path: Path) -> None:
    there, url = town
    found = follower(source(url), tmp_path)
    found.stop()
    path = tmp_path / "ledger.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"tokens":1000', b'"tokens":9000', 1))
    again = follower(source(url), tmp_path)
    assert (again.known.size, again.known.broken) == (there.size, None)
    assert path.read_bytes() == data


class Changed(Source):
    """Asks a core, and changes what it says of an entry that was signed."""

    change = (b'"tokens":1000', b'"tokens":9000')

    def lines(self, after: int) -> bytes:
        return super().lines(after).replace(*self.change, 1)


@pytest.mark.parametrize("does", [True, False])
def test_nothing_is_taken_from_a_ledger_that_does_not_hold(
    town: tuple[Town, str], tmp_path: Path, does: bool
) -> None:
    """The control: the same source, which changes nothing."""
    changed = source(town[1])
    changed.__class__ = Changed
    if not does:
        changed.change = (b"", b"")  # type: ignore[misc]
    found = follower(changed, tmp_path)
    assert (found.known.broken is not None) == does
    assert (found.known.size < town[0].size) == does
    with client(found) as browser:
        assert ("does not hold" in browser.get("/en/runs").text) == does


def test_a_core_that_is_gone_leaves_its_last_state_and_its_age(
    town: tuple[Town, str], tmp_path: Path
) -> None:
    there, _ = town
    root = shutil.copytree(there.world.root, tmp_path / "core")
    with core_of(root) as (url, process):
        found = follower(source(url), tmp_path / "web")
        process.kill()
        process.join()
        found.step()
    assert found.known.trouble and found.known.size == there.size
    with client(found) as browser:
        answer = browser.get("/en/runs/run")
        assert answer.status_code == 200
        assert "last known state" in answer.text and "cannot be reached" in answer.text


def test_a_core_that_was_never_there(tmp_path: Path) -> None:
    found = follower(source("http://127.0.0.1:9"), tmp_path, asks=False)
    found.step()
    with client(found) as browser:
        assert "has not been reached yet" in browser.get("/en/").text
        assert browser.get("/en/runs/run").status_code in (403, 404)


PAGES = ("/en/", "/en/runs", "/en/runs/run", "/en/members", "/en/members/ada", "/en/data", "/fr/runs/run")
OF_MEMBERS = ("/en/runs", "/en/runs/run", "/en/data", "/en/runs/run/loss.csv", "/en/runs/run/live")


def test_anybody_sees_what_is_public(town: tuple[Town, str], tmp_path: Path) -> None:
    found = follower(source(town[1]), tmp_path)
    with client(found) as browser:
        for page in (*PAGES, "/en/runs/run/loss.csv", "/en/runs/run/rounds.json?metric=busy"):
            assert browser.get(page).status_code == 200, page
        by_language = browser.get("/en/runs/run/loss.json?by=language").json()
        assert [line["name"] for line in by_language["lines"]] == ["?"]
        assert 'lang="ja"' not in browser.get("/en/members/ada").text
        table = browser.get("/en/data").text
        assert "CC-BY-4.0" in table and "Letters from the archive" not in table


def test_anybody_sees_no_more_than_the_charter_says(closed: tuple[Town, str], tmp_path: Path) -> None:
    """Whether the dashboard itself knows more or not."""
    town, url = closed
    anybody = follower(source(url), tmp_path / "anybody")
    assert anybody.known.closed and anybody.known.size == 0
    member = follower(source(url, town.consortium, town.key), tmp_path / "member")
    assert not member.known.closed and member.known.size == town.size
    for found in (anybody, member):
        with client(found) as browser:
            for page in ("/en/", "/en/members", "/en/members/ada"):
                assert browser.get(page).status_code == 200, page
            assert "What it gave" in browser.get("/en/members/ada").text
            assert "Updates in" not in browser.get("/en/members/ada").text
            for page in OF_MEMBERS:
                assert browser.get(page).status_code == 403, page
    with client(member, opened="member") as browser:  # the control: an insider sees all of it
        for page in (*PAGES, "/en/runs/run/loss.csv"):
            assert browser.get(page).status_code == 200, page
        assert "Letters from the archive" in browser.get("/en/data").text
        assert 'lang="ja"' in browser.get("/en/members/ada").text
        assert "Updates in" in browser.get("/en/members/ada").text


def test_what_is_asked_wrongly_is_a_clear_page(town: tuple[Town, str], tmp_path: Path) -> None:
    found = follower(source(town[1]), tmp_path)
    wrong = {
        "/en/runs/none": 404,
        "/en/members/nobody": 404,
        "/en/runs?page=99999999999999999999999": 400,
        "/en/members?page=2": 400,
        "/en/members?sort=size": 400,
        "/en/runs/run?by=colour": 400,
        "/en/data?q=" + "x" * 300: 400,
        "/en/data?q=a&q=b": 400,
        "/en/runs/run/loss.exe": 404,
        "/en/runs/%3Cscript%3E": 404,
    }
    with client(found) as browser:
        for page, status in wrong.items():
            answer = browser.get(page)
            assert answer.status_code == status, page
            assert "<h1>" in answer.text and "<script>" not in answer.text


def test_pages_are_small(town: tuple[Town, str], tmp_path: Path) -> None:
    """With all that a browser loads for them."""
    found = follower(source(town[1]), tmp_path)
    with client(found) as browser:
        for page in PAGES:
            answer = browser.get(page)
            files = {part.split('"')[0] for part in answer.text.split('"/static/')[1:]}
            whole = len(answer.content) // 4 + sum(_packed(browser, f"/static/{file}") for file in files)
            assert whole < 150_000, page


def _packed(browser: TestClient, path: str) -> int:
    with browser.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        return sum(map(len, answer.iter_raw()))


def test_what_comes_later_comes_in(tmp_path: Path) -> None:
    world = World(tmp_path / "core").live()
    with core_of(world.root) as (url, _):
        found = follower(source(url), tmp_path / "web")
        before = found.known.size
        world.said_to_vote("ada", subjects.Suspend(member="cyd"), "later")
        caught_up(found)
        assert found.known.size == before + 1
    world.core.close()


@pytest.mark.parametrize("kept", [True, False])
def test_a_full_disk_is_no_fault_of_the_core(
    town: tuple[Town, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """What was verified waits until it can be written. The control: it is forgotten, and asked for again."""
    there, url = town
    found = follower(source(url), tmp_path, asks=False)
    with monkeypatch.context() as full:
        full.setattr(Book, "add", _no_space)
        found.step()
    assert "no space" in str(found.known.trouble)
    if not kept:
        found._unwritten = None
    found.step()
    assert (found.known.broken is None, found.known.size) == (kept, there.size if kept else 0)
    assert found.book.size == found.known.size


def _no_space(*_: Any, **__: Any) -> None:
    raise DiskFull("no space left to write the ledger")


def test_a_core_of_another_name_than_its_ledgers(
    town: tuple[Town, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = source(town[1])
    hello = asked.hello()
    monkeypatch.setattr(asked, "hello", lambda: hello.model_copy(update={"consortium": "e" * 64}))
    assert "another consortium" in str(follower(asked, tmp_path).known.broken)


def test_what_nobody_foresaw_is_told_and_asked_again(
    town: tuple[Town, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = source(town[1])
    found = follower(asked, tmp_path, asks=False)
    with monkeypatch.context() as bad:
        bad.setattr(asked, "hello", lambda: 1 / 0)
        found.step()
    assert "ZeroDivisionError" in str(found.known.trouble)
    caught_up(found)
