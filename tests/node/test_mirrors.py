"""What others can see of the ledger, held against what a node is shown."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.audit import pieces
from tapestry.audit.fork import ForkProof
from tapestry.cli import main
from tapestry.core import operator
from tapestry.core.mirror import Mirror
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import Fork
from tapestry.node import mirrors as node_mirrors
from tapestry.node.mirrors import Mirrors
from tests.audit.stage import on_core
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest, wait_until
from tests.node.test_replica import Scene, withdraw


def publish(core: Core, folder: Path) -> Path:
    """The mirror of a core as it is now."""
    mirror = Mirror(folder, core.journal, Proofs(core.journal, core.consortium), core.store)
    mirror.update()
    mirror.close()
    return folder


class Web:
    """A small server of files that notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked = asked = list[str]()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, code: object = "-", size: object = "-") -> None:
                asked.append(self.path)

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    for core in scene.opened:
        core.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    served = Web(tmp_path / "web")
    yield served
    served.close()


class Looking:
    """A node that follows its core and looks at mirrors, without waiting a minute."""

    def __init__(self, scene: Scene, *sources: object) -> None:
        self.scene = scene
        self.replica = scene.replica()
        self.mirrors = Mirrors(scene.home, [str(each) for each in sources], self.replica)
        self._round = 0

    def follow(self, core: Core | None = None) -> None:
        self.scene.client.core = core or self.scene.core
        self.replica.follow(self.scene.size(self.scene.client.core))
        self.replica.keep()

    def look(self) -> None:
        """At a new round, a minute later; with what comes of it."""
        self._round += 1
        self.mirrors._next = 0.0
        self.mirrors.look(self._round)
        self.settle()

    def settle(self) -> None:
        while (thread := self.mirrors._thread) is not None and (thread.is_alive() or self.mirrors._notes):
            thread.join(30)
            self.mirrors.look(self._round)

    @property
    def proofs(self) -> list[ForkProof]:
        found = self.scene.home.ledger.glob("fork-*.json")
        return [ForkProof.from_bytes(path.read_bytes()) for path in found]


def split(scene: Scene) -> Core:
    """Another history of the same core."""
    other = scene.copy("other")
    withdraw(scene.core, "ada-1")
    withdraw(other, "bob-1")
    return other


@pytest.mark.parametrize("by", ["folder", "web"])
def test_another_history_is_proved(scene: Scene, web: Web, tmp_path: Path, by: str) -> None:
    other = split(scene)
    publish(other, tmp_path / "web" / "other")
    publish(scene.core, tmp_path / "web" / "same")
    where = tmp_path / "web" if by == "folder" else web.url
    control = Looking(scene, f"{where}/same")
    control.follow()
    control.look()
    control.follow()
    assert not control.proofs, "the control: the same history proves nothing"
    looking = Looking(scene, f"{where}/same", f"{where}/other")
    looking.follow()
    with pytest.raises(Fork, match="for others") as caught:
        looking.look()
    (proof,) = looking.proofs
    assert proof.check() == scene.joined.consortium and "tapestry ledger verify" in str(caught.value.hint)
    for _ in range(2):  # nothing is sent without asking first, and that is over
        with pytest.raises(Fork, match="for others"):
            looking.replica.follow(1)
    assert looking.replica.doubted


def test_a_beginning_of_the_same_ledger_is_fine(scene: Scene, tmp_path: Path) -> None:
    """A mirror is always somewhat late."""
    folder = publish(scene.core, tmp_path / "mirror")
    withdraw(scene.core, "ada-1")
    looking = Looking(scene, folder)
    looking.follow()
    looking.look()
    assert not looking.proofs and not looking.mirrors._ahead


def test_a_mirror_that_is_ahead_is_judged_once_that_can_be(scene: Scene, tmp_path: Path) -> None:
    other = scene.copy("other")
    withdraw(other, "bob-1")
    looking = Looking(scene, publish(other, tmp_path / "mirror"))
    looking.look()  # before anything was followed
    looking.follow()
    looking.look()
    assert not looking.proofs
    withdraw(scene.core, "ada-1")
    looking.follow()
    with pytest.raises(Fork):
        looking.mirrors.look(looking._round)  # without another look at the mirror
    assert len(looking.proofs) == 1


def test_a_mirror_that_goes_on_where_this_node_stands_still(scene: Scene, tmp_path: Path) -> None:
    """Of two histories the longer one is elsewhere, and nothing more comes here: its entries tell."""
    other = split(scene)
    withdraw(other, "ada-1")
    looking = Looking(scene, publish(other, tmp_path / "mirror"))
    looking.follow()
    looking.look()
    assert not looking.proofs, "as far as the head tells, the core is slow here"
    with pytest.raises(Fork, match="entries for others"):
        looking.look()
    (proof,) = looking.proofs
    assert proof.check() == scene.joined.consortium


def test_a_node_that_is_behind_the_same_history(scene: Scene, tmp_path: Path) -> None:
    """The control of that: entries are fetched, and prove nothing."""
    looking = Looking(scene)
    looking.follow()
    withdraw(scene.core, "ada-1")
    looking.mirrors = Mirrors(scene.home, [str(publish(scene.core, tmp_path / "mirror"))], looking.replica)
    for _ in range(3):
        looking.look()
    looking.follow()
    looking.look()
    assert not looking.proofs and not looking.mirrors._ahead


def test_a_bad_mirror_troubles_nobody(scene: Scene, web: Web, tmp_path: Path) -> None:
    """Away, empty, of another consortium, forged, or junk; the one that convicts is still heard."""
    root = tmp_path / "web"
    with on_core(tmp_path / "another") as another:
        another.node("cyd")
        publish(another.core, root / "another")
    forged = publish(scene.core, root / "forged")
    note = (forged / "checkpoint").read_bytes()
    (forged / "checkpoint").write_bytes(note.replace(note.splitlines()[2], b"A" * 43 + b"="))
    (root / "junk").mkdir()
    (root / "junk" / "checkpoint").write_bytes(bytes(range(256)) * 2000)
    names = ("another", "forged", "junk", "none")
    sources = [f"{web.url}/{name}" for name in names] + [str(root / name) for name in names]
    looking = Looking(scene, "http://127.0.0.1:9/away", "http://", *sources)
    looking.follow()
    for _ in range(3):
        looking.look()
    looking.follow()
    assert not looking.proofs
    assert set(looking.mirrors._said) == {"http://127.0.0.1:9/away", "http://", *sources}
    other = split(scene)
    looking = Looking(scene, *sources, publish(other, root / "other"))
    looking.follow()
    with pytest.raises(Fork):
        looking.look()


def test_it_looks_at_new_rounds_and_once_a_minute_at_most(
    scene: Scene, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(scene.core, tmp_path / "web" / "mirror")
    now = [1000.0]
    monkeypatch.setattr(node_mirrors.time, "monotonic", lambda: now[0])
    looking = Looking(scene, f"{web.url}/mirror/")
    looking.follow()

    def asked(news: object, after_s: float) -> int:
        now[0] += after_s
        before = len(web.asked)
        looking.mirrors.look(news)
        looking.settle()
        return len(web.asked) - before

    assert asked(1, 0) == 1
    assert [asked(1, 1), asked(2, 1), asked(3, 50)] == [0, 0, 0]  # too soon
    assert asked(3, 10) == 1
    assert [asked(3, 61), asked(3, 500)] == [0, 0]  # nothing new
    assert asked(3, 200) == 1  # but both may stand still
    assert set(web.asked) == {"/mirror/checkpoint"}
    monkeypatch.undo()
    silent = Looking(scene)
    silent.look()
    assert silent.mirrors._thread is None


def test_a_mirror_is_verified_by_its_address(
    scene: Scene,
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(pieces, "ENTRIES", 4)
    folder = publish(scene.core, tmp_path / "web" / "mirror")
    for where in (folder, f"{web.url}/mirror", f"{web.url}/mirror/"):
        assert main.call(["ledger", "verify", str(where)]) == 0, where
        assert f"{scene.size()} entries hold" in capsys.readouterr().err
    assert (
        main.call(["ledger", "export", "--core", str(scene.core.home.root), str(folder / "whole.jsonl")]) == 0
    )
    assert main.call(["ledger", "verify", f"{web.url}/mirror/whole.jsonl"]) == 0
    (folder / pieces.name(2)).write_bytes((folder / pieces.name(1)).read_bytes())
    assert main.call(["ledger", "verify", f"{web.url}/mirror"]) == 3
    (folder / pieces.name(1)).unlink()
    assert main.call(["ledger", "verify", f"{web.url}/mirror"]) == 5
    assert main.call(["ledger", "verify", f"{web.url}/nothing"]) == 5


def receipts(node: NodeUnderTest) -> int:
    return len(list(node.home.receipts.glob("*.json")))


@pytest.mark.parametrize("of", ["other", "same"])
def test_a_node_that_runs_stops(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path, of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A core shows it one history and the world another; with a mirror of the same history it goes on."""
    ada = make_node("ada")
    core.kill()
    settings = core.root / "core.toml"  # at the same address again
    settings.write_text(settings.read_text().replace("port = 0", f"port = {core.url.rsplit(':', 1)[1]}"))
    shutil.copytree(core.root, tmp_path / "other")
    operator.plan(tmp_path / "other", make_plan(tmp_path / "more", run="more"), tmp_path / "more")
    core.start()
    plan = make_plan(tmp_path / "seed", total=4, min_nodes=1, quorum=1)
    operator.plan(core.root, plan, tmp_path / "seed")
    operator.start(core.root, "run")
    with Core.open(tmp_path / "other" if of == "other" else core.root) as opened:
        publish(opened, ada.home.root / "mirror")
    toml = ada.home.settings
    toml.write_text(toml.read_text() + '\n[ledger]\nmirrors = ["mirror", "http://127.0.0.1:9/away"]\n')
    go_on: list[bool] = []

    def late(job: object) -> list[bytes]:
        wait_until(lambda: go_on)
        return shards(1.0)

    ada.start(make=late)
    if of == "same":
        go_on.append(True)
        assert ada.wait() == 0, ada.log()
        assert not list(ada.home.ledger.glob("fork-*.json"))
        assert main.call(["ledger", "verify", str(ada.home.root), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        skipped = sum(len(each["rounds"]) for each in found["merges_skipped"])
        assert found["merges_repeated"] + skipped == found["merges"] and found["merges_repeated"] > 1
        return
    wait_until(lambda: list(ada.home.ledger.glob("fork-*.json")), what=ada.log())
    go_on.append(True)
    wait_until(lambda: "for others" in (ada.status("agent").get("trouble") or ""))
    time.sleep(2.0)
    assert receipts(ada) == 0 and ada.processes["agent"].poll() is None
    (proof,) = ada.home.ledger.glob("fork-*.json")
    assert main.call(["ledger", "verify", str(proof)]) == 0
