"""An object store whose listing lags behind: what is there by name, the list does not know; what is gone, it
does. A real S3 service, behind a proxy that answers lists from the past."""

from __future__ import annotations

import contextlib
import http.client
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tapestry.cli import corehome
from tapestry.cli.recompute import recompute
from tapestry.core import backup as backups
from tapestry.core import operator, settings
from tapestry.core.home import Home
from tapestry.core.service import Core
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.plan import Retention
from tapestry.storage.blobs import BlobStore
from tapestry.storage.bucket import Bucket, Place
from tapestry.storage.tiered import TieredStore
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.core.test_object_store import make_core
from tests.object_store import KEYS, Proxy, Server

EMPTY = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix>'
    b"<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@dataclass
class Lagging(Proxy):
    """Answers every request as the service does, but lists as they were."""

    past: bytes = EMPTY
    """The list it answers with."""
    listed: list[str] = field(default_factory=list)

    def as_of_now(self, bucket: str) -> bytes:
        """The list as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=30)
        try:
            connection.request("GET", f"/{bucket}?list-type=2", headers={"Authorization": ANYBODY})
            found = connection.getresponse().read()
        finally:
            connection.close()
        assert b"<Contents>" in found
        return found

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        asked = parse_qs(urlsplit(request.path).query)
        whole = "incoming" not in asked.get("prefix", [""])[0]  # that one is for half-sent blobs only
        if request.command != "GET" or "list-type" not in asked or not whole:
            super()._pass_on(request)
            return
        self.listed.append(request.path)
        request.send_response_only(200)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(self.past)))
        request.end_headers()
        request.wfile.write(self.past)


ANYBODY = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)


@dataclass
class Played:
    """A core after three rounds, stopped, with an object store that never listed anything meanwhile."""

    core: CoreUnderTest
    proxy: Lagging
    states: list[str]
    past: bytes
    """The list before the first round."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Core]:
        """With an empty cache: what is found is found in the object store."""
        shutil.rmtree(self.core.root / "cache", ignore_errors=True)
        with Core.open(self.core.root) as opened:
            yield opened


@pytest.fixture(scope="module")
def played(s3: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("listing")
    with Lagging(s3).running() as proxy:
        assert isinstance(proxy, Lagging)
        core = make_core(s3, proxy, folder / "core")
        try:
            yield play(core.start(), proxy, folder / "made")
        finally:
            core.close()


def play(core: CoreUnderTest, proxy: Lagging, made: Path) -> Played:
    """Three rounds, of which one is kept; before the second the core is killed and its cache lost."""
    plan = make_plan(made, total=3).model_copy(update={"retention": Retention(blob_rounds=1)})
    ada, bob = core.running(plan, made, "ada", "bob")
    blobs = settings.load(Home(core.root)).blobs
    past = proxy.as_of_now(blobs.removeprefix("s3://").split("/")[0])
    states = [plan.initial_state]
    # as in tests/core/test_retention.py: of the old deltas one is the initial base too, one came once more
    for number, values in enumerate([(1.0, 0.5), (0.25, 0.125), (0.0625, 0.5)], 1):
        if number == 2:
            core.kill()
            shutil.rmtree(core.root / "cache")
            core.start()
        for member, value in zip((ada, bob), values, strict=True):
            member.hand_in(plan, value, round=number, state=states[-1])
        states.append(ada.wait(lambda v, n=number: v.head.merges == n).head.state)  # type: ignore[misc]
    assert core.stop() == 0
    return Played(core, proxy, states, past)


def test_by_name_a_blob_is_found_that_no_list_knows(s3: Server, tmp_path: Path) -> None:
    with Lagging(s3).running() as proxy:
        assert isinstance(proxy, Lagging)
        place = Place(url=f"{s3.bucket()}/p", endpoint=proxy.url, credentials=KEYS, patience_s=1.0)
        one, two, three = (
            TieredStore(Bucket(place), tmp_path / name, cache_bytes=1 << 20) for name in ("1", "2", "3")
        )
        sha = one.put(b"there")
        assert list(two.iterate()) == [] and len(proxy.listed) == 1
        assert two.has(sha) and two.lacking([sha]) == [] and two.read(sha) == b"there"
        proxy.past = proxy.as_of_now(place.url.removeprefix("s3://").split("/")[0])
        one.delete(sha)
        assert [blob.sha256 for blob in three.iterate()] == [sha]  # the list still knows it
        assert not three.has(sha) and three.lacking([sha]) == [sha]


def test_rounds_a_restart_and_retention_do_without_lists(played: Played) -> None:
    assert played.proxy.listed == []
    with played.opened() as opened:

        def there(value: float) -> list[bool]:
            return [opened.store.has(canonical.sha256(data)) for data in shards(value)]

        assert [set(there(v)) for v in (1.0, 0.5, 0.0625)] == [{True}] * 3
        assert [set(there(v)) for v in (0.25, 0.125)] == [{False}] * 2
        for each in played.states:
            base = State.from_bytes(opened.store.read(each)).base
            manifest = Artifact.from_bytes(opened.store.read(base))
            assert opened.store.lacking(blob.sha256 for blob in manifest.shards) == []


@pytest.mark.parametrize("stale", [False, True], ids=["empty", "stale"])
def test_a_backup_holds_what_the_log_names_whatever_is_listed(
    played: Played, tmp_path: Path, stale: bool
) -> None:
    played.proxy.past = played.past if stale else EMPTY
    with played.opened() as opened:  # positive control: what a copy of what is listed would lack
        listed = {blob.sha256 for blob in opened.store.iterate()}
        assert bool(listed) == stale and played.states[-1] not in listed

    shutil.rmtree(played.core.root / "cache")
    done = backups.backup(played.core.root, tmp_path / "copy")
    assert done["lacking"] == 0 and done["copied"] == done["blobs"] > len(listed)
    assert backups.backup(played.core.root, tmp_path / "copy") == {**done, "copied": 0}
    if stale:
        return
    backups.restore(tmp_path / "copy", tmp_path / "again", settings=settings.make(port=0))
    with Core.open(tmp_path / "again") as again:
        records = corehome.records(again, "run")
        found = recompute(again.store, records, scratch_parent=tmp_path)
    assert [one.verdict for one in found] == ["same", "gone", "same"]  # one round's deltas are not kept
    assert operator.view(tmp_path / "again", "run").head.state == played.states[-1]


def test_a_backup_says_what_is_lost(played: Played, tmp_path: Path) -> None:
    played.proxy.past = EMPTY
    with played.opened() as opened:
        base = State.from_bytes(opened.store.read(played.states[-1])).base
        lost = Artifact.from_bytes(opened.store.read(base)).shards[0].sha256
        data = opened.store.read(lost)
        opened.store.delete(lost)
        try:
            done = backups.backup(played.core.root, tmp_path / "copy")
        finally:
            opened.store.put(data)
    assert done["lacking"] == 1
    copied = BlobStore.open(tmp_path / "copy" / "blobs")
    assert not copied.has(lost) and copied.has(base) and copied.has(played.states[-1])
