"""A node's own copy of the ledger: what it believes, what it remembers, and what it can prove."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestry.audit import file
from tapestry.audit.fork import ForkProof
from tapestry.audit.verify import Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import Behind, Fork, IntegrityError, SettingsError, SignatureError, Unreachable
from tapestry.identity.keys import KeyPair
from tapestry.node.home import Home
from tapestry.node.replica import Replica
from tapestry.node.setup import Consortium
from tapestry.rounds import machine
from tests.audit.stage import on_core
from tests.core.support import CoreUnderTest, make_plan


class Ledger:
    """Stands for a `CoreClient`: gives a real core's ledger, `altered` on its way."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.altered: Callable[[bytes], bytes] = lambda data: data

    def ledger(self, *, after: int) -> bytes:
        proofs = Proofs(self.core.journal, self.core.consortium)
        return self.altered(b"".join(map(file.encode, proofs.lines(self.core.store, after))))


@functools.cache
def merged() -> Path:
    """Home of a core whose run has one merge; made once, to be copied."""
    folder = Path(tempfile.mkdtemp(prefix="tapestry-merged-"))
    atexit.register(shutil.rmtree, folder)
    served = CoreUnderTest(folder / "core").start()
    plan = make_plan(folder / "seed")
    members = served.running(plan, folder / "seed", "ada", "bob")
    for number, member in enumerate(members):
        member.hand_in(plan, float(number))
    members[0].wait(lambda view: view.head.merges == 1)
    served.close()
    return folder / "core"


class Scene:
    """A core whose run has one merge, and a node that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(merged(), folder / "core")
        self.opened: list[Core] = []
        self.core = self.open("core")
        self.client = Ledger(self.core)
        self.home = Home(folder / "node")
        self.home.make_folders()
        self.joined = Consortium(
            core_url="http://127.0.0.1:1",
            consortium=self.core.consortium.id,
            core_key=self.core.consortium.core_key.public_key,
            root_key=KeyPair.generate().public_key,
            ca=None,
        )

    def open(self, name: str) -> Core:
        self.opened.append(Core.open(self.folder / name))
        return self.opened[-1]

    def copy(self, name: str) -> Core:
        """The same core as it is now; what happens to one does not happen to the other."""
        shutil.copytree(self.folder / "core", self.folder / name)
        return self.open(name)

    def size(self, core: Core | None = None) -> int:
        return (core or self.core).journal.tree_head()[0]

    def replica(self) -> Replica:
        return Replica(self.home, self.client, self.joined)  # type: ignore[arg-type]

    def lines(self) -> list[file.Line]:
        return list(file.read(self.home.ledger / "ledger.jsonl"))


def withdraw(core: Core, node: str) -> None:
    core.runs.apply("run", machine.Withdraw(node=node, reason="operator"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    for core in scene.opened:
        core.close()


def test_it_follows_the_core_and_goes_on_after_a_restart(scene: Scene) -> None:
    replica = scene.replica()
    replica.follow(scene.size())
    assert replica.view("run").head.merges == 1
    checkpoint = replica.checkpoint
    withdraw(scene.core, "ada-1")
    again = scene.replica()
    assert (again.size, again.checkpoint) == (replica.size, checkpoint)
    again.follow(scene.size())
    assert again.view("run").enrolled == ("bob-1",)
    again.keep()
    whole = [*scene.lines(), ("checkpoint", again.checkpoint)]
    assert Verifier().take(whole).entries == scene.size()


def test_it_says_what_was_merged(scene: Scene) -> None:
    """Of a round that the state holds, and of one that only the file has."""
    replica = scene.replica()
    assert replica.merged("run", 1) is None
    replica.follow(scene.size())
    found = replica.merged("run", 1)
    assert found is not None and {each.node for each in found} == {"ada-1", "bob-1"}
    assert replica.merged("run", 2) is None and replica.merged("other", 1) is None
    replica.keep()
    with (scene.home.ledger / "ledger.jsonl").open("ab") as torn:
        torn.write(b"torn")
    state = replica.state("run")
    assert state is not None
    replica._verifier._states["run"] = state.model_copy(update={"rounds": ()})
    assert replica.merged("run", 1) == found


def test_what_was_not_kept_is_asked_for_again(scene: Scene) -> None:
    replica = scene.replica()
    replica.follow(scene.size())
    assert scene.replica().size == 0  # nothing was signed on it yet
    replica.keep()
    with (scene.home.ledger / "ledger.jsonl").open("ab") as torn:
        torn.write(b"torn")
    withdraw(scene.core, "ada-1")
    again = scene.replica()
    again.follow(scene.size())
    again.keep()
    assert len([1 for kind, _ in scene.lines() if kind == "entry"]) == scene.size()


def _away(data: bytes) -> bytes:
    raise Unreachable("the core is away")


def test_what_is_known_when_the_core_goes_away_is_kept(scene: Scene) -> None:
    """From the disk a core is set up again; but for that a ledger is whole."""
    replica = scene.replica()
    replica.doubt()
    assert scene.replica().size == 0
    replica.follow(scene.size())
    scene.client.altered = _away
    with pytest.raises(Unreachable):
        replica.follow(scene.size() + 1)  # it goes away when more is asked for
    replica.doubt()
    assert scene.replica().size == scene.size()


def test_lines_that_do_not_hold_are_not_believed(scene: Scene) -> None:
    replica = scene.replica()
    scene.client.altered = lambda data: data.replace(b'"tokens":1000', b'"tokens":2000', 1)
    with pytest.raises(IntegrityError, match="entry"):
        replica.follow(scene.size())
    assert replica.size == 0
    scene.client.altered = lambda data: data
    replica.follow(scene.size())
    assert replica.size == scene.size()


def test_a_core_that_went_back_is_waited_for(scene: Scene) -> None:
    older = scene.copy("older")
    withdraw(scene.core, "ada-1")
    replica = scene.replica()
    replica.follow(scene.size())
    replica.keep()
    scene.client.core = older
    with pytest.raises(Behind, match="that it signed"):
        replica.follow(scene.size(older), again=True)
    scene.client.core = scene.core
    replica.follow(scene.size(), again=True)


def test_what_nothing_was_signed_on_may_be_lost_by_the_core(scene: Scene) -> None:
    older = scene.copy("older")
    withdraw(scene.core, "ada-1")
    replica = scene.replica()
    replica.follow(scene.size())
    scene.client.core = older
    replica.follow(scene.size(older), again=True)
    assert replica.size == scene.size(older)


def test_two_histories_are_proved(scene: Scene) -> None:
    """The same core shows one node the one, and then the other."""
    other = scene.copy("other")
    withdraw(scene.core, "ada-1")
    withdraw(other, "bob-1")
    replica = scene.replica()
    replica.follow(scene.size())
    replica.keep()
    scene.client.core = other
    with pytest.raises(Fork) as caught:
        replica.follow(scene.size(other), again=True)
    (path,) = scene.home.ledger.glob("fork-*.json")
    assert path.name in str(caught.value.hint)
    proof = ForkProof.from_bytes(path.read_bytes())
    assert proof.check() == scene.joined.consortium
    with pytest.raises(IntegrityError):
        proof.model_copy(update={"second": proof.first, "root": proof.root}).check()
    with pytest.raises(IntegrityError):
        proof.model_copy(update={"first": proof.second}).check()


def test_a_longer_other_history_is_proved(scene: Scene) -> None:
    """Its first entry does not follow here; that both are signed is shown with the whole of it."""
    other = scene.copy("other")
    withdraw(scene.core, "ada-1")
    withdraw(other, "bob-1")
    withdraw(other, "ada-1")
    replica = scene.replica()
    replica.follow(scene.size())
    replica.keep()
    scene.client.core = other
    with pytest.raises(Fork, match="is not this node's") as caught:
        replica.follow(scene.size(other))
    (path,) = scene.home.ledger.glob("fork-*.json")
    assert path.name in str(caught.value.hint)
    assert ForkProof.from_bytes(path.read_bytes()).check() == scene.joined.consortium
    assert replica.size == scene.size()  # none of it was believed


@pytest.mark.parametrize("more", [0, 9])
def test_a_core_that_was_recovered_from_nodes_that_had_seen_less_is_said(tmp_path: Path, more: int) -> None:
    """Its new key signs a ledger without the end of this node's: shorter than that, or longer by now. Nobody
    has signed two histories, so there is no proof; the node stands by what it saw."""
    with on_core(tmp_path / "core") as scene:
        nodes = [scene.node(name) for name in ("ada", "bob", "cyd")]
        common = scene.core.journal.tree_head()[0]
        shutil.copytree(scene.root, tmp_path / "lost")
        with Core.open(tmp_path / "lost") as lost:
            for _ in range(5):
                lost.consortium.certify(nodes[0].certificate(KeyPair.generate()))
            node = Following(tmp_path, lost)
            node.replica.follow(common + 5)
            node.replica.keep()
        scene.succeed(*nodes)
        for _ in range(more):
            scene.core.consortium.certify(nodes[1].certificate(KeyPair.generate()))
        node.client.core = scene.core
        for _ in range(2):
            with pytest.raises(
                Fork, match=f"had seen {common} entries .* this node has {common + 5}.* the last 5"
            ) as e:
                node.replica.follow(common + 6, again=True)
            assert "recover it anew, this node's folder" in str(e.value.hint)
            assert str(node.home.ledger) in str(e.value.hint)
        assert node.replica.size == common + 5 and not list(node.home.ledger.glob("fork-*.json"))


def test_a_core_that_was_recovered_with_all_this_node_has_is_followed(tmp_path: Path) -> None:
    """The control."""
    with on_core(tmp_path / "core") as scene:
        nodes = [scene.node(name) for name in ("ada", "bob", "cyd")]
        node = Following(tmp_path, scene.core)
        node.replica.follow(scene.core.journal.tree_head()[0])
        node.replica.keep()
        scene.succeed(*nodes)
        node.replica.follow(scene.core.journal.tree_head()[0])
        assert node.replica.size == scene.core.journal.tree_head()[0]


def test_another_key_that_no_majority_has_signed_for_is_no_recovery(tmp_path: Path) -> None:
    """It stays the error that it is: somebody gives a ledger that does not hold."""
    with on_core(tmp_path / "core") as scene:
        nodes = [scene.node(name) for name in ("ada", "bob", "cyd")]
        shutil.copytree(scene.root, tmp_path / "lost")
        with Core.open(tmp_path / "lost") as lost:
            lost.consortium.certify(nodes[0].certificate(KeyPair.generate()))
            node = Following(tmp_path, lost)
            node.replica.follow(lost.journal.tree_head()[0])
            node.replica.keep()
        scene.core.consortium.core_key = KeyPair.generate()
        node.client.core = scene.core
        with pytest.raises(SignatureError, match="not signed by"):
            node.replica.follow(node.replica.size + 1, again=True)


class Following:
    """A node that follows a core as `Ledger` gives its ledger."""

    def __init__(self, folder: Path, core: Core) -> None:
        self.home, self.client = Home(folder / "node"), Ledger(core)
        self.home.make_folders()
        joined = Consortium(
            core_url="http://127.0.0.1:1",
            consortium=core.consortium.id,
            core_key=core.consortium.core_key.public_key,
            root_key=KeyPair.generate().public_key,
            ca=None,
        )
        self.replica = Replica(self.home, self.client, joined)  # type: ignore[arg-type]


def test_bad_lines_behind_good_ones_are_not_asked_for_for_ever(scene: Scene) -> None:
    """The ledger comes in parts; a part that does not hold is said, not asked for again and again."""
    asked: list[int] = []
    whole = scene.client.ledger

    def in_parts(*, after: int) -> bytes:
        asked.append(after)
        lines = list(file.parse(whole(after=after)))
        entries = [at for at, (kind, _) in enumerate(lines) if kind == "entry"]
        data = b"".join(map(file.encode, lines[: entries[6] + 1] if len(entries) > 7 else lines))
        return data.replace(b'"tokens":1000', b'"tokens":2000')

    scene.client.ledger = in_parts  # type: ignore[method-assign]
    replica = scene.replica()
    with pytest.raises(IntegrityError, match="entry"):
        replica.follow(scene.size())
    assert replica.size == 0 and len(asked) < 12


def test_a_node_that_forgets_is_shown_anything(scene: Scene) -> None:
    """Why it has to remember: without its copy the other history is as good as the first."""
    other = scene.copy("other")
    withdraw(scene.core, "ada-1")
    withdraw(other, "bob-1")
    replica = scene.replica()
    replica.follow(scene.size())
    replica.keep()
    shutil.rmtree(scene.home.ledger)
    scene.client.core = other
    forgetful = scene.replica()
    forgetful.follow(scene.size(other), again=True)
    assert forgetful.view("run").enrolled == ("ada-1",)


@pytest.mark.parametrize("name", ["ledger.jsonl", "roots", "verified.json"])
def test_a_damaged_copy_is_said(scene: Scene, name: str) -> None:
    replica = scene.replica()
    replica.follow(scene.size())
    replica.keep()
    path = scene.home.ledger / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SettingsError, match="ledger"):
        scene.replica()


@pytest.mark.timeout(60)
def test_a_core_that_never_comes_to_an_end_is_refused(scene: Scene) -> None:
    """It gives the same part again and again, or nothing and no checkpoint with it."""
    replica = scene.replica()
    first = b"".join(scene.client.ledger(after=0).splitlines(keepends=True)[:2])
    scene.client.altered = lambda data: first
    with pytest.raises(IntegrityError, match="entry 1"):
        replica.follow(scene.size())
    scene.client.altered = lambda data: data
    replica.follow(scene.size())
    scene.client.altered = lambda data: b""
    with pytest.raises(Behind, match="than the"):
        replica.follow(scene.size(), again=True)
