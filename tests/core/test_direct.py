"""Blobs past the core: a real core, a real S3 service, and a wire before the core that counts its bytes."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tapestry.core import direct, serve, settings
from tapestry.core import quota as quota_module
from tapestry.core.direct import LEAST_BYTES
from tapestry.core.home import Home
from tapestry.core.quota import Quota
from tapestry.errors import Refused, SettingsError, StoreError
from tapestry.protocol.artifact import Artifact, Blob, Model, State
from tapestry.protocol.canonical import encode, sha256
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore, blob_name
from tapestry.storage.bucket import Bucket, Place
from tapestry.storage.tiered import TieredStore
from tapestry.transport.client import CoreClient
from tests import object_store
from tests.core.support import CoreUnderTest, Member, artifact, code, make_plan, shards
from tests.object_store import KEYS, Proxy, Server

MIB = 1 << 20
DATA = os.urandom(2 * MIB)
BLOB = Blob(sha256=sha256(DATA), bytes=len(DATA))
BIG = Layout(shard_bytes=2 * MIB, tensors=(Tensor(name="a", shape=(1500, 1000)),))
SECRET = re.compile("X-Amz-Signature", re.IGNORECASE)


class Wire(socketserver.ThreadingTCPServer):
    """Passes TCP on to a port and counts the bytes, both ways."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), self.pass_on)
        self.to = ("127.0.0.1", port)
        self.bytes = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Wire]:
        thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()

    def pass_on(self, near: socket.socket, _address: object, _server: object) -> None:
        with socket.create_connection(self.to) as far:
            while True:
                for source in select.select((near, far), (), ())[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    self.bytes += len(data)
                    (far if source is near else near).sendall(data)


class At:
    """One core, the service behind it, and clients that talk to it over a `Wire`."""

    def __init__(self, s3: Server, proxy: Proxy, folder: Path) -> None:
        self.s3, self.proxy, self.folder = s3, proxy, folder
        self.bucket = s3.bucket()
        self.core: CoreUnderTest
        self.wires: list[Wire] = []

    def start(self, *, direct: bool = True, environment: Any = None, **limits: int) -> At:
        root = self.folder / "core"
        (root / "keys").mkdir(parents=True)
        keys = root / "keys" / "object_store.toml"
        keys.write_text("".join(f'{name} = "{value}"\n' for name, value in KEYS.items()))
        keys.chmod(0o600)
        section = {"endpoint": self.proxy.url, "direct": direct}
        where = {"blobs": f"{self.bucket}/blobs", "object_store": section}
        self.core = CoreUnderTest(root, where=where, **limits).start(**environment or {})
        return self

    @contextmanager
    def client(self, member: Member, **more: Any) -> Iterator[CoreClient]:
        wire = Wire(urlsplit(member.url).port or 0)
        self.wires.append(wire)
        with wire.running(), CoreClient(wire.url, member.consortium, member.key, **more) as client:
            yield client

    @property
    def relayed(self) -> int:
        """Bytes that have crossed to and from the core, whatever they were."""
        return sum(wire.bytes for wire in self.wires)

    def folder_of(self, name: str) -> BlobStore:
        return BlobStore.open(self.folder / name)

    def names(self) -> list[str]:
        """Objects, but for small ones that `init` and contributions leave."""
        found = (name.removeprefix("blobs/") for name in self.s3.names(self.bucket))
        return [name for name in found if BLOB.sha256 in name or name.startswith("incoming")]

    def told(self) -> str:
        """All that the core has written but blobs and database."""
        files = [*(self.core.root / "logs").iterdir(), *(self.core.root / "status").iterdir()]
        return "".join(f.read_text() for f in [*files, self.core.root / "stderr.log"])


@pytest.fixture
def at(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[At]:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    with Proxy(s3).running() as proxy:
        at = At(s3, proxy, tmp_path)
        yield at
        if hasattr(at, "core"):
            at.core.close()


def place(member: Member, blob: Blob = BLOB, **more: Any) -> httpx.Response:
    return member.ask("POST", f"/v1/blobs/{blob.sha256}?bytes={blob.bytes}", proof_of=blob.sha256, **more)


def put(answer: httpx.Response, data: bytes) -> None:
    assert answer.status_code == 200, answer.text
    httpx.put(answer.json()["url"], content=data, trust_env=False).raise_for_status()


def big(value: float) -> list[bytes]:
    """Shards with `value`, a little more in each, so that no two are the same."""
    return [shards(value + n / 64, BIG)[n] for n in range(len(BIG.shards))]


def big_plan(folder: Path) -> Plan:
    """As `make_plan`, with shards of a size that goes past the core."""
    plan = make_plan(folder, total=1)
    store = BlobStore.open(folder)
    data = big(1.0)
    base = artifact("base", data, BIG)
    for blob in (*data, base.to_bytes(), BIG.to_bytes()):
        store.put(blob, durable=False)
    model = store.put(Model(layout=BIG.digest, files=()).to_bytes(), durable=False)
    state = State(run=plan.run, model=model, merges=0, base=base.digest, outer=None)
    store.put(state.to_bytes(), durable=False)
    changed = {"model": model, "layout": BIG.digest, "initial_state": state.digest}
    return plan.model_copy(update={**changed, "parameters": BIG.elements})


# -- how many bytes the core relays ---------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False])
def test_a_round_whose_weights_do_not_cross_the_core(at: At, direct: bool) -> None:
    at.start(direct=direct)
    plan = big_plan(at.folder / "made")
    members = at.core.running(plan, at.folder / "made", "ada", "bob")
    sizes = [len(data) for data in big(1.0)]
    size = sum(sizes)
    assert len(sizes) == 3 and min(sizes) > LEAST_BYTES
    for member, value in zip(members, (0.5, 0.25), strict=True):
        mine, data = at.folder_of(member.name), big(value)
        delta = artifact("delta", data, BIG)
        blobs = [Blob(sha256=mine.put(d), bytes=len(d)) for d in (*data, delta.to_bytes())]
        with at.client(member) as client:
            client.upload_blobs(blobs, mine)
            assert client.upload_blobs(blobs, mine) == 0
        answer = member.contribute(member.contribution(plan, delta.digest))
        assert answer.status_code == 200, answer.text
    state = members[0].wait(lambda v: v.status == "finished").head.state
    for member in members:
        mine = at.folder_of(member.name)
        with at.client(member) as client:
            client.download(state, mine, max_bytes=MIB)
            base = State.from_bytes(mine.read(state)).base
            client.download(base, mine, max_bytes=MIB)
            blobs = list(Artifact.from_bytes(mine.read(base)).shards)
            assert client.download_blobs(blobs, mine) == size
        assert [mine.size(blob.sha256) for blob in blobs] == sizes
    relayed = [members[0].ask("GET", f"/v1/blobs/{blob.sha256}").content for blob in blobs]  # by another wire
    assert relayed == [mine.read(blob.sha256) for blob in blobs]
    crossed = at.relayed
    assert crossed < size // 50 if direct else crossed > 4 * size
    signed = [path for _, path in at.proxy.seen if SECRET.search(path)]
    assert len(signed) == (12 if direct else 0)
    assert at.names() == [] and not SECRET.search(at.told())


def test_what_is_asked_for_without_the_header_is_relayed(at: At) -> None:
    at.start()
    ada = at.core.member("ada")
    assert ada.put(DATA).status_code == 200
    plain = ada.ask("GET", f"/v1/blobs/{BLOB.sha256}", headers={"Range": "bytes=7-"})
    assert (plain.status_code, plain.content) == (206, DATA[7:])
    told = ada.ask("GET", f"/v1/blobs/{BLOB.sha256}", headers={"Tapestry-Direct": "1"})
    assert told.headers["tapestry-direct"] == "1" and told.headers["cache-control"] == "no-store"
    assert told.json()["bytes"] == len(DATA)
    assert httpx.get(told.json()["url"], trust_env=False).content == DATA
    small = ada.put(b"small").json()["sha256"]
    missing = ada.ask("GET", f"/v1/blobs/{'0' * 64}", headers={"Tapestry-Direct": "1"})
    assert code(missing) == "not-found"
    told = ada.ask("GET", f"/v1/blobs/{small}", headers={"Tapestry-Direct": "1"})
    assert told.content == b"small" and "tapestry-direct" not in told.headers


# -- falling back ---------------------------------------------------------------------------------


def test_a_store_the_node_does_not_get_through_to(at: At) -> None:
    at.start()
    ada = at.core.member("ada")
    mine, other = at.folder_of("mine"), at.folder_of("other")
    mine.put(DATA)
    with at.client(ada) as client:
        at.proxy.spoil("PUT", None, times=1)  # the node's; the core's come later
        client.upload_blobs([BLOB], mine)
        assert at.relayed > len(DATA) and at.names() == [blob_name(BLOB.sha256)]
        before = at.relayed
        at.proxy.spoil("GET", None, times=2)
        client.download_blobs([BLOB], other)
        assert other.read(BLOB.sha256) == DATA and at.relayed > before + len(DATA)


def test_an_expired_url_and_wrong_bytes(at: At) -> None:
    at.start()
    ada = at.core.member("ada")
    ada.put(DATA)
    expired = object_store.answers(403, "AccessDenied")
    for number, change in enumerate((expired, object_store.flipped, object_store.shortened)):
        other, before = at.folder_of(f"other{number}"), at.relayed
        with at.client(ada) as client:
            at.proxy.spoil("GET", change)  # for good: the core has it in its folder
            client.download_blobs([BLOB], other)
        assert other.read(BLOB.sha256) == DATA and at.relayed > before + len(DATA)


def test_a_download_that_breaks_off_goes_on_directly(at: At) -> None:
    at.start()
    ada = at.core.member("ada")
    ada.put(DATA)
    other = at.folder_of("other")
    with at.client(ada) as client:
        at.proxy.spoil("GET", object_store.truncated, times=1)
        client.download_blobs([BLOB], other)
    assert other.read(BLOB.sha256) == DATA and at.relayed < 20_000


def test_an_object_that_is_wrong_in_the_store(at: At) -> None:
    """Nobody gets it; and who has the right bytes puts it right."""
    at.start()
    ada = at.core.member("ada")
    ada.put(DATA)
    at.core.stop()
    shutil.rmtree(at.core.root / "cache")
    at.s3.replace(at.bucket, f"blobs/{blob_name(BLOB.sha256)}", b"?" + DATA[1:])
    at.core.start()
    mine, other = at.folder_of("mine"), at.folder_of("other")
    mine.put(DATA)
    with at.client(ada) as client:
        with pytest.raises(Exception, match=r"other bytes|not-found|damaged|neither"):
            client.download_blobs([BLOB], other)
        assert not other.has(BLOB.sha256)
        before = at.relayed
        client.upload_blobs([BLOB], mine)
        client.download_blobs([BLOB], other)
    assert other.read(BLOB.sha256) == DATA and at.relayed < before + 20_000


# -- what a node may say, and what is believed ------------------------------------------------------


def test_an_object_that_is_not_what_was_announced(at: At) -> None:
    at.start()
    ada = at.core.member("ada")
    for data, said in (
        (b"?" + DATA[1:], "hash-mismatch"),
        (os.urandom(len(DATA)), "hash-mismatch"),
        (DATA[:-1], "hash-mismatch"),
        (DATA + b"?", "too-large"),
        (os.urandom(8 * MIB), "too-large"),
    ):
        put(place(ada), data)
        refused = place(ada)
        assert code(refused) == said and "url" not in refused.json()
        assert at.names() == []
        missing = ada.ask("POST", "/v1/blobs/missing", encode({"blobs": [BLOB.sha256]})).json()
        assert missing == {"direct": LEAST_BYTES, "missing": {BLOB.sha256: 0}}
        assert code(ada.ask("GET", f"/v1/blobs/{BLOB.sha256}")) == "not-found"
    put(place(ada), DATA)  # positive control
    assert place(ada).json() == {"bytes": len(DATA), "sha256": BLOB.sha256, "url": None}
    assert at.names() == [blob_name(BLOB.sha256)]
    assert ada.ask("GET", f"/v1/blobs/{BLOB.sha256}").content == DATA
    assert place(ada).json()["url"] is None  # as often as one likes


def test_what_was_never_put_is_not_there(at: At) -> None:
    at.start()
    ada, bob = at.core.member("ada"), at.core.member("bob")
    assert [place(ada).json()["url"] is None for _ in range(3)] == [False] * 3
    missing = ada.ask("POST", "/v1/blobs/missing", encode({"blobs": [BLOB.sha256]}))
    assert missing.json()["missing"] == {BLOB.sha256: 0}
    put(place(bob), DATA)
    assert place(ada).json()["url"] is not None  # what bob has put is not ada's to tell of
    assert place(bob).json()["url"] is None
    assert place(ada).json()["url"] is None


def test_who_may_put_what(at: At) -> None:
    at.start(pending_bytes=5 * MIB, blob_bytes=4 * MIB)
    ada = at.core.member("ada")
    target = f"/v1/blobs/{BLOB.sha256}?bytes={BLOB.bytes}"
    assert code(ada.http.post(at.core.url + target)) == "auth"
    assert code(ada.ask("POST", target, proof_of="0" * 64)) in ("auth", "signature")
    stranger = at.core.member("eve", join=False)
    assert place(stranger).status_code in (401, 403)
    assert code(ada.ask("POST", target + "&offset=0", proof_of=BLOB.sha256)) == "format"
    sizes = {LEAST_BYTES - 1: "refused", 4 * MIB + 1: "too-large", 0: "refused"}
    for size, said in sizes.items():
        assert code(place(ada, Blob.model_construct(sha256=BLOB.sha256, bytes=size))) == said
    for _ in range(4):  # the same blob again is counted once
        assert place(ada).status_code == 200
    second, third = (Blob(sha256=sha256(bytes([n])), bytes=2 * MIB) for n in range(2))
    assert place(ada, second).status_code == 200
    refused = place(ada, third)
    assert (refused.status_code, code(refused)) == (422, "refused")
    assert place(at.core.member("bob"), third).status_code == 200
    assert ada.put(DATA).status_code == 200  # in place of the one that was promised
    assert code(place(ada, third)) == "refused"
    assert not any(SECRET.search(line) for line in at.core.log_lines())


def test_promised_bytes_are_counted_for_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(quota_module.time, "monotonic", lambda: now)
    quota = Quota(10 * MIB)
    quota.reserve("n", "a", 6 * MIB, 600)
    quota.reserve("n", "a", 6 * MIB, 600)
    with pytest.raises(Refused):
        quota.reserve("n", "b", 6 * MIB, 600)
    with pytest.raises(Refused):
        quota.check("n", 6 * MIB)
    quota.check("m", 6 * MIB)
    now = 601.0
    quota.reserve("n", "b", 6 * MIB, 600)
    quota.forget("n", "b")
    quota.charge("n", 6 * MIB)
    with pytest.raises(Refused):
        quota.reserve("n", "c", 6 * MIB, 600)
    quota.release("n", [6 * MIB])
    quota.reserve("n", "c", 6 * MIB, 600)


def test_killed_before_it_answers(at: At) -> None:
    at.start(environment={"TAPESTRY_FAILPOINT": "core.blob.received"})
    ada = at.core.member("ada")
    put(place(ada), DATA)
    with pytest.raises(httpx.TransportError):
        place(ada)
    assert at.core.wait() == -9
    at.core.start()
    assert place(ada).json()["url"] is None
    assert ada.ask("GET", f"/v1/blobs/{BLOB.sha256}").content == DATA


def test_a_store_that_is_away(at: At) -> None:
    """The core says so; nothing that was put is lost, and what lies in its folder it relays."""
    at.start()
    ada = at.core.member("ada")
    put(place(ada), DATA)
    at.proxy.spoil("HEAD", object_store.answers(403, "AccessDenied"))
    assert place(ada).status_code == 503
    at.proxy.heal()
    assert place(ada).json()["url"] is None
    at.proxy.spoil("HEAD", object_store.answers(403, "AccessDenied"))
    got = ada.ask("GET", f"/v1/blobs/{BLOB.sha256}", headers={"Tapestry-Direct": "1"})
    assert got.content == DATA and "tapestry-direct" not in got.headers
    assert not SECRET.search(at.told())


# -- settings -------------------------------------------------------------------------------------


def test_switched_off_nothing_is_offered(at: At) -> None:
    at.start(direct=False)
    ada = at.core.member("ada")
    assert code(place(ada)) == "not-found"
    assert ada.ask("POST", "/v1/blobs/missing", encode({"blobs": []})).json() == {"missing": {}}
    ada.put(DATA)
    got = ada.ask("GET", f"/v1/blobs/{BLOB.sha256}", headers={"Tapestry-Direct": "1"})
    assert got.content == DATA and "tapestry-direct" not in got.headers


def test_settings(at: At, tmp_path: Path) -> None:
    made = settings.make(object_store={"direct": True, "direct_s": 60})
    home = Home(tmp_path)
    home.settings.write_text(settings.render(made))
    assert settings.load(home) == made and "direct = true" in home.settings.read_text()
    for wrong in ({"direct_s": 59}, {"direct_s": 86_401}, {"direct": "yes"}):
        with pytest.raises(SettingsError, match="direct"):
            settings.make(object_store=wrong)
    assert not settings.make().object_store.direct
    folder = CoreUnderTest(tmp_path / "folder", where={"object_store": {"direct": True}})
    with pytest.raises(SettingsError, match="`blobs` is a folder") as caught:
        serve.serve(folder.root)
    assert "direct = false" in str(caught.value.hint)


def test_credentials_that_cannot_sign_are_told_at_the_start(at: At, tmp_path: Path) -> None:
    keys = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_KEY": "sv=1&sig=secret"}
    bucket = Bucket(Place(url="az://container", credentials=keys))
    store = TieredStore(bucket, tmp_path / "cache", cache_bytes=MIB)
    with pytest.raises(StoreError, match="no signed addresses"):
        direct.direct(settings.make(object_store={"direct": True}), store, Quota(MIB))
    assert direct.direct(settings.make(), store, Quota(MIB)) is None
