"""A core that lies to a node in its answers: plans, names, versions, bytes without end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.errors import (
    AuthError,
    FormatError,
    HashMismatch,
    TooLarge,
    Unreachable,
    VersionError,
)
from tapestry.node import agent
from tapestry.node.home import Home
from tapestry.node.sync import Library
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob, Model, ModelFile
from tapestry.protocol.plan import Merge, Plan
from tapestry.protocol.views import Hello
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tapestry.transport.connection import Traffic
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.scene import Scene
from tests.attacks.switches import Switches
from tests.core.support import make_plan
from tests.transport.stub import CONSORTIUM, CORE_KEY, KEY, TIME, StubCore, served

WHO = "a core, against a node"
Given = tuple[Any, ...]


# -- plans and names ----------------------------------------------------------------------------


RECEIVED = (
    "tapestry.storage.receiver.Receiver.finish",
    "(actual := self._hash.hexdigest()) != self.expected.sha256",
)


@attack(
    "plan-with-another-hash",
    tries="gives other rules under the digest that the members agreed on",
    stopped_by="a plan is fetched by its hash",
)
def test_another_plan(stub: StubCore, client: CoreClient, tmp_path: Path, switches: Switches) -> None:
    plan = make_plan(tmp_path / "made")
    other = plan.model_copy(update={"merge": Merge(outer="sgd", outer_rate=9.0, outer_momentum=0.0)})
    library = Library(client, BlobStore.open(tmp_path / "blobs"))
    stub.blobs[plan.digest] = other.to_bytes()
    with pytest.raises(HashMismatch):
        library.message(plan.digest, Plan)
    stub.blobs[plan.digest] = plan.to_bytes()
    assert library.message(plan.digest, Plan) == plan
    library.store.delete(plan.digest)
    stub.blobs[plan.digest] = other.to_bytes()
    with switches.all_off(RECEIVED, ("tapestry.storage.blobs.BlobStore._check", "actual != sha")):
        assert library.message(plan.digest, Plan) == other


@attack(
    "plan-of-another-run",
    tries="gives the plan of one run for another, which the owner did not choose",
    stopped_by="a plan names its run",
)
def test_a_plan_of_another_run(scene: Scene, switches: Switches) -> None:
    from tapestry.node.session import Session

    client = SimpleNamespace(traffic=Traffic())
    replica = SimpleNamespace(check_origin=lambda plan: None)
    tools: Any = SimpleNamespace(home=scene.home, library=scene.library, client=client, replica=replica)
    session = Session("another", tools)
    view = scene.view(scene.plan.initial_state)
    scene.library.store.put(scene.plan.to_bytes())
    with pytest.raises(FormatError, match="gives the plan of run run"):
        session._plan(view)
    assert session.plan is None
    with switches.check_off("tapestry.node.session.Session._plan", "plan.run != self.run"):
        assert session._plan(view) == scene.plan
    scene.unharmed()


@attack(
    "run-named-as-a-path",
    tries="offers a run named `../../../tmp/x`",
    stopped_by="names of runs are checked before anything is made of them",
)
def test_run_names(tmp_path: Path, switches: Switches) -> None:
    home, name = Home(tmp_path / "node"), "../../outside"
    answer = {"runs": [{"run": name}, {"run": "good"}]}
    assert agent._names(answer) == ["good"]
    with switches.off("tapestry.node.agent.is_name", lambda _: True):
        (bad, _) = agent._names(answer)
    assert not home.passed(bad, 1).resolve().is_relative_to(home.root.resolve())


@attack(
    "model-file-named-as-a-path",
    tries="gives a model one of whose files is named `../../.bashrc`",
    stopped_by="names of files are letters, digits, dots and dashes",
)
def test_model_files(scene: Scene, switches: Switches) -> None:
    store, name = scene.core.store, "../../.bashrc"
    good = Model.from_bytes(store.read(scene.plan.model))
    file = ModelFile.model_construct(path=name, blob=Blob(sha256=store.put(b"evil"), bytes=4))
    bad = good.model_copy(update={"files": (file,)})
    plan = scene.plan.model_copy(update={"model": store.put(bad.to_bytes())})
    with pytest.raises(FormatError, match="path"):
        scene.library.model(plan)
    assert not scene.store.has(file.blob.sha256), "nothing of it was fetched"
    with switches.off("tapestry.protocol.artifact.Model.from_bytes", lambda _: bad):
        (told,) = scene.library.model(plan).files
    assert ".." in told.path and scene.store.read(told.blob.sha256) == b"evil"
    scene.unharmed()


# -- answers ------------------------------------------------------------------------------------


@attacks(
    case(
        "core-of-another-consortium",
        "answers at the address of the core that was joined",
        "the first answer names the consortium",
        {"consortium": "e" * 64},
        AuthError,
        ("tapestry.transport.connection.Connection.hello", "hello.consortium != self.consortium"),
    ),
    case(
        "downgrade-to-another-version",
        "speaks a version with fewer checks",
        "versions are exact",
        {"version": 0},
        VersionError,
        ("tapestry.transport.connection.Hello.from_bytes", None),
    ),
    case(
        "another-format",
        "answers with another message of the same fields",
        "formats are exact",
        {"format": "tapestry.other"},
        VersionError,
        ("tapestry.transport.connection.Hello.from_bytes", None),
    ),
    case(
        "time-that-is-none",
        "says that it is next week on the 45th",
        "times have one form",
        {"time": "next week"},
        FormatError,
        ("tapestry.transport.connection.Hello.from_bytes", None),
    ),
)
def test_hello(stub: StubCore, client: CoreClient, switches: Switches, given: Given) -> None:
    fields, error, (target, check) = given
    good = Hello(consortium=CONSORTIUM, core_key=CORE_KEY, release="0", formats={}, time=TIME)
    bad = canonical.encode(good.model_dump(mode="json") | fields)
    stub.answers["/v1/hello"] = lambda: (200, {}, bad)
    with pytest.raises(error):
        client.hello()
    del stub.answers["/v1/hello"]
    assert client.hello() == good
    stub.answers["/v1/hello"] = lambda: (200, {}, bad)
    off = (
        switches.check_off(target, check)
        if check
        else switches.off(target, lambda data: Hello.model_construct(**canonical.decode(data)))
    )
    with off:
        assert client.hello().model_dump(mode="json") != good.model_dump(mode="json")


class Endless(StubCore):
    """Sends 8 MiB of an answer that should have one, without saying how much it will be; or waits with it."""

    sent = 0
    wait_s = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/progress"):
            await super().__call__(scope, receive, send)
            return
        await self._start(send, 200, {})
        await asyncio.sleep(self.wait_s)
        for _ in range(128 if not self.wait_s else 1):
            await send({"type": "http.response.body", "body": b"0" * (1 << 16), "more_body": True})
            self.sent += 1 << 16
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _ask(client: CoreClient) -> bytes:
    from tapestry.transport.connection import Request

    return client.connection.ask(Request(method="POST", path="/v1/runs/run/progress", body=b"{}"))


@attack(
    "answer-without-end",
    tries="answers without end",
    stopped_by="bytes are counted as they come, and refused above a cap of one MiB",
)
def test_endless(switches: Switches) -> None:
    with served(Endless()) as stub, CoreClient(stub.url, CONSORTIUM, KEY, read_s=5) as client:
        with pytest.raises(TooLarge, match="more than"):
            _ask(client)
        assert client.hello().consortium == CONSORTIUM
        with switches.check_off("tapestry.transport.connection.Connection.read", "received > cap"):
            assert len(_ask(client)) == 8 << 20


@attack(
    "answer-that-never-comes",
    tries="takes the request and then says nothing, so that a node waits for ever",
    stopped_by="patience ends, and the node tries again later",
)
def test_slow(switches: Switches) -> None:
    with served(Endless()) as stub, CoreClient(stub.url, CONSORTIUM, KEY, read_s=0.2) as client:
        client.hello()
        stub.wait_s = 0.6
        with pytest.raises(Unreachable):
            _ask(client)
        assert client.hello().consortium == CONSORTIUM
        with switches.off("tapestry.transport.connection.httpx.Timeout", lambda *_, **__: None):
            assert len(_ask(client)) == 1 << 16, "it has waited as long as the core liked"


@attack(
    "answer-of-stated-size-too-large",
    tries="announces an answer of a gigabyte",
    stopped_by="the stated size is held against the cap before a byte is read",
)
def test_stated(stub: StubCore, client: CoreClient, switches: Switches) -> None:
    body = b"0" * (2 << 20)
    stub.answers["/v1/runs/run/progress"] = lambda: (200, {}, body)
    with pytest.raises(TooLarge, match="has 2097152 bytes"):
        _ask(client)
    assert client.hello().consortium == CONSORTIUM
    read = "tapestry.transport.connection.Connection.read"
    with switches.all_off((read, "stated and int(stated) > cap"), (read, "received > cap")):
        assert _ask(client) == body


@attack(
    "blob-of-another-size",
    tries="announces more bytes for a blob than it has",
    stopped_by="the announced size must be the one due",
)
def test_another_size(stub: StubCore, client: CoreClient, tmp_path: Path, switches: Switches) -> None:
    store, data = BlobStore.open(tmp_path / "blobs"), b"good bytes"
    blob = Blob(sha256=canonical.sha256(data), bytes=len(data))
    stub.blobs[blob.sha256] = data + b"x" * 100_000
    with pytest.raises(TooLarge, match="announces"):
        client.download_blobs([blob], store)
    assert not store.has(blob.sha256)
    with switches.all_off(
        ("tapestry.transport.transfers.Transfers._fetch", "(size := _stated_size(response)) != due"),
        ("tapestry.storage.receiver.Receiver.write", "self.offset + len(view) > self.expected.bytes"),
        ("tapestry.storage.receiver.Receiver.finish", "self.offset != self.expected.bytes"),
        RECEIVED,
    ):
        client.download_blobs([blob], store)
    assert store.path(blob.sha256).stat().st_size > 100_000
    store.delete(blob.sha256)
    stub.blobs[blob.sha256] = data
    client.download_blobs([blob], store)
    assert store.read(blob.sha256) == data
