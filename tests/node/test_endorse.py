"""A lost core set up from copies without keys: each member signs at home, and only for its own ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.cli import main
from tapestry.core import operator
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.node import keys, setup
from tapestry.node.outbox import egress_table
from tapestry.node.replica import Replica
from tapestry.protocol.messages import Succession, SuccessionRequest
from tests.core.support import CoreUnderTest, make_plan
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest
from tests.node.test_replica import Ledger

INPUT, INTEGRITY, AUTH, PROTOCOL = 2, 3, 4, 5
OF_NODES = ("--host", "127.0.0.1", "--port", "0")


class Scene:
    """Three members and a core that is gone. The third node has less of the ledger than the others."""

    def __init__(
        self, core: CoreUnderTest, make_node: MakeNode, folder: Path, read: Callable[[], tuple[str, str]]
    ) -> None:
        self.folder, self.read, self.lost = folder, read, folder / "lost"
        self.nodes = [make_node(name) for name in ("de", "fr", "uk")]
        core.kill()
        self.follow(core.root, *self.nodes)
        operator.plan(core.root, make_plan(folder / "seed"), folder / "seed")
        self.follow(core.root, *self.nodes[:2])
        shutil.move(core.root, self.lost)
        self.root = core.root
        self.copies = [self.copy(node) for node in self.nodes]

    def follow(self, root: Path, *nodes: NodeUnderTest) -> int:
        with Core.open(root) as core:
            size = core.journal.tree_head()[0]
            for node in nodes:
                replica = Replica(node.home, Ledger(core), setup.load_consortium(node.home))  # type: ignore[arg-type]
                replica.follow(size)
                replica.keep()
        return size

    def copy(self, node: NodeUnderTest) -> Path:
        """What an institution hands over: no keys."""
        to = self.folder / f"copy-{node.name}"
        return Path(shutil.copytree(node.home.root, to, ignore=shutil.ignore_patterns("keys")))

    def call(self, *arguments: object) -> tuple[int, str, str]:
        code = main.call([str(each) for each in arguments])
        return (code, *self.read())

    def recover(self, *endorsements: Path, copies: list[Path] | None = None) -> tuple[int, str, str]:
        given = [("--from", each) for each in copies or self.copies]
        given += [("--endorsement", each) for each in endorsements]
        return self.call("core", "recover", self.root, *OF_NODES, *(x for pair in given for x in pair))

    @property
    def request(self) -> SuccessionRequest:
        return SuccessionRequest.from_bytes((self.root / "succession" / "request.json").read_bytes())

    def endorse(
        self, node: NodeUnderTest, *more: object, request: SuccessionRequest | None = None
    ) -> tuple[int, Path, str]:
        """As its operator calls it; the file that was written."""
        asked, out = self.folder / "asked.json", self.folder / f"{node.name}.json"
        asked.write_bytes((request or self.request).to_bytes())
        out.unlink(missing_ok=True)
        code, _, err = self.call("node", "endorse", node.home.root, "--request", asked, "--out", out, *more)
        assert out.exists() == (code == 0)
        return code, out, err

    def given_ledger(self) -> tuple[str, Path]:
        return "--ledger", self.root / "succession" / "ledger.jsonl"

    def signed(self, node: NodeUnderTest, *, key: KeyPair | None = None, **fields: Any) -> Path:
        """A word that nobody has checked, from whoever has a key."""
        asked = self.request
        known = asked.model_dump(include={"consortium", "core_key", "size", "root"})
        said = Succession(**known | {"member": node.name.removesuffix("-1"), "node": node.name} | fields)
        path = self.folder / f"forged-{node.name}.json"
        path.write_bytes(sign(said, key or keys.load_pair(node.home, "witness")).to_bytes())
        return path


@pytest.fixture
def scene(
    core: CoreUnderTest,
    make_node: MakeNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Scene]:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "400")

    def read() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, err

    yield Scene(core, make_node, tmp_path, read)


def test_members_sign_at_home_and_the_core_goes_on(scene: Scene) -> None:
    de, fr, uk = scene.nodes
    assert not any((copy / "keys").exists() for copy in scene.copies)
    code, _, err = scene.recover()
    assert code == AUTH and "0 of 3 members have signed" in err and "tapestry node endorse" in err
    assert not (scene.root / "core.toml").exists()
    asked = scene.request
    assert scene.call("ledger", "verify", scene.given_ledger()[1])[0] == 0

    code, first, _ = scene.endorse(de)
    assert code == 0
    code, _, err = scene.recover(first)
    assert code == AUTH and "1 of 3 members have signed" in err
    code, _, err = scene.recover(first, first, scene.endorse(de)[1])
    assert code == AUTH and "1 of 3 members" in err, "a member counts once"
    assert scene.request == asked, "the same key waits"
    code, second, err = scene.endorse(uk, *scene.given_ledger())  # it has less, and sees that the rest holds
    assert code == 0, err
    code, out, err = scene.recover(first, second)
    assert code == 0 and out.strip() == str(scene.root), err
    assert not (scene.root / "succession").exists()
    with Core.open(scene.root) as core:
        assert core.consortium.core_key.public_key == asked.core_key
        lines = list(Proofs(core.journal, core.consortium).lines(core.store))
    assert Verifier().take(lines).entries == asked.size + 1
    assert (
        scene.follow(scene.root, de, fr, uk) == asked.size + 1
    )  # who joined the old core follows the new one
    kinds = [row["kind"] for row in egress_table(de.home)]
    assert kinds.count("succession") == 2, "what left is in the log"


def test_keys_that_are_there_sign_too(scene: Scene) -> None:
    """One folder is handed over whole, one member signs at home."""
    copies = [scene.nodes[0].home.root, *scene.copies[1:]]
    code, _, err = scene.recover(copies=copies)
    assert code == AUTH and "1 of 3 members" in err
    code, word, _ = scene.endorse(scene.nodes[1])
    assert code == 0
    assert scene.recover(word, copies=copies)[0] == 0


def changed(request: SuccessionRequest, **fields: Any) -> SuccessionRequest:
    return request.model_copy(update=fields)


def test_a_node_signs_for_nothing_but_its_own_ledger(scene: Scene) -> None:
    de, _, uk = scene.nodes
    scene.recover()
    asked = scene.request
    for fields, code, said in (
        ({"root": "7" * 64}, INTEGRITY, "another ledger"),
        ({"consortium": "7" * 64}, INPUT, "of consortium 777777777777"),
        ({"size": asked.size - 1}, PROTOCOL, "would be lost"),
        ({"size": asked.size + 1}, INPUT, "--ledger FILE"),
    ):
        refused, _, err = scene.endorse(de, request=changed(asked, **fields))
        assert refused == code and said in err, err
    assert scene.endorse(de)[0] == 0, "the control"

    refused, _, err = scene.endorse(uk)
    assert refused == INPUT and "--ledger FILE" in err
    ledger = scene.given_ledger()[1]
    data = ledger.read_bytes()
    ledger.write_bytes(data.replace(b'"total":2', b'"total":3', 1))
    refused, _, err = scene.endorse(uk, "--ledger", ledger)
    assert refused == INTEGRITY and "does not hold" in err
    ledger.write_bytes(data)
    refused, _, err = scene.endorse(uk, "--ledger", ledger, request=changed(asked, size=asked.size + 1))
    assert refused == INTEGRITY and "not the one that the request is about" in err
    assert scene.endorse(uk, "--ledger", ledger)[0] == 0, "the control"


def test_a_ledger_that_goes_on_from_another_is_refused(scene: Scene) -> None:
    """The lost core signed two histories: this node was shown one, the request is about the other."""
    _, _, uk = scene.nodes
    operator.invite(scene.lost, "pt")
    other = shutil.copytree(scene.lost, scene.folder / "other")
    operator.plan(scene.lost, make_plan(scene.folder / "a", run="a"), scene.folder / "a")
    operator.plan(other, make_plan(scene.folder / "b", run="b"), scene.folder / "b")
    operator.plan(other, make_plan(scene.folder / "c", run="c"), scene.folder / "c")
    scene.recover()
    path = scene.folder / "other.jsonl"
    with Core.open(other) as core, path.open("wb") as out:
        file.write(out, Proofs(core.journal, core.consortium).lines(core.store))
        size, root = core.journal.tree_head()
    asked = changed(scene.request, size=size, root=root.hex())
    control, _, err = scene.endorse(uk, "--ledger", path, request=asked)
    assert control == 0, err  # its own entries are the beginning of that ledger as well
    scene.follow(scene.lost, uk)
    refused, _, err = scene.endorse(uk, "--ledger", path, request=asked)
    assert refused == INTEGRITY and "does not go on from" in err


def test_a_second_key_is_not_signed_by_mistake(scene: Scene) -> None:
    """A majority that signs twice could set up two cores."""
    de = scene.nodes[0]
    scene.recover()
    assert scene.endorse(de)[0] == scene.endorse(de)[0] == 0, "the same again is nothing new"
    other = changed(scene.request, core_key=KeyPair.generate().public_key)
    refused, _, err = scene.endorse(de, request=other)
    assert refused == PROTOCOL and "has signed for key" in err
    assert scene.endorse(de, "--anew", request=other)[0] == 0


def test_a_key_that_may_not_sign(scene: Scene) -> None:
    de = scene.nodes[0]
    scene.recover()
    own = (de.home.keys / "witness.key").read_bytes()
    (de.home.keys / "witness.key").write_bytes((de.home.keys / "node.key").read_bytes())
    refused, _, err = scene.endorse(de)
    assert refused == AUTH and "signed by a node key" in err
    (de.home.keys / "witness.key").write_bytes(own)
    assert scene.endorse(de)[0] == 0, "the control"


def test_what_others_have_made_up_is_refused(scene: Scene) -> None:
    de, fr, _ = scene.nodes
    scene.recover()
    asked = scene.request
    good = scene.endorse(de)[1]
    for fields, code, said in (
        ({"root": "7" * 64}, AUTH, "for another ledger"),
        ({"size": asked.size + 1}, AUTH, "for another ledger"),
        ({"consortium": "7" * 64}, AUTH, "of another consortium"),
        ({"core_key": KeyPair.generate().public_key}, AUTH, "for another key"),
        ({"key": KeyPair.generate()}, AUTH, "no member has certified"),
        ({"key": keys.load_pair(fr.home)}, AUTH, "signed by a node key"),
        ({"key": keys.load_pair(de.home, "witness")}, AUTH, "signed by a key of de"),
    ):
        forged = scene.signed(fr, **fields)
        refused, _, err = scene.recover(good, forged)
        assert refused == code and said in err and str(forged) in err, err
        assert not (scene.root / "core.toml").exists()
    forged.write_bytes(good.read_bytes().replace(b'"sig":"', b'"sig":"A', 1))
    refused, _, err = scene.recover(good, forged)
    assert refused == INTEGRITY and str(forged) in err
    refused, _, err = scene.recover(good, scene.folder / "none.json")
    assert refused == INPUT and "tapestry node endorse" in err
    assert scene.recover(good, scene.signed(fr))[0] == 0, "the control"


def test_a_request_that_has_grown_old(scene: Scene) -> None:
    """With another copy the ledger is longer; what was signed is for the shorter one."""
    de, fr, uk = scene.nodes
    short = [scene.copies[2]]
    assert scene.recover(copies=short)[0] == AUTH
    old = scene.request
    refused, _, err = scene.endorse(de)
    assert refused == PROTOCOL and "would be lost" in err
    word = scene.endorse(uk)[1]
    code, _, err = scene.recover(word)
    assert code == AUTH and "for another ledger" in err
    assert scene.recover()[0] == AUTH and scene.request.size > old.size
    assert scene.request.core_key == old.core_key
    words = [scene.endorse(node)[1] for node in (de, fr)]
    assert scene.recover(*words)[0] == 0


def test_json(scene: Scene) -> None:
    scene.recover()
    request = scene.root / "succession" / "request.json"
    out = scene.folder / "out.json"
    code, said, _ = scene.call(
        "node", "endorse", scene.nodes[0].home.root, "--request", request, "--out", out, "--json"
    )
    asked = scene.request
    assert code == 0
    assert json.loads(said) == {
        "endorsement": str(out), "core_key": asked.core_key, "entries": asked.size,
    }  # fmt: skip
    assert Envelope.from_bytes(out.read_bytes()).unverified(Succession).core_key == asked.core_key
    code, _, err = scene.call(
        "node", "endorse", scene.nodes[0].home.root, "--request", out, "--out", scene.folder / "x"
    )
    assert code == INTEGRITY and "is no request for a succession" in err
