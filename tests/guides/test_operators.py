"""Pages for who runs a core or a node, or looks after text: one consortium over TLS, from its first day."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import postgresql
from tests.curation import made
from tests.federation.support import free_port
from tests.file_server import served
from tests.guides.support import CARD, PLAN, words
from tests.guides.typist import Typist, scene
from tests.sovereign import support

TYPES = {
    "docs/guides/run-a-core.md": (),
    "docs/guides/run-a-node.md": (),
    "docs/guides/data-owner.md": (),
    "docs/guides/operate.md": (),
    "docs/guides/first-consortium.md": (),
    "docs/concepts/airlock.md": (),
    "docs/concepts/leakage.md": (),
}
CORE, NODE = "docs/guides/run-a-core.md", "docs/guides/run-a-node.md"
OWNER, FIRST = "docs/guides/data-owner.md", "docs/guides/first-consortium.md"
ROUNDS = 4
FEW = "--window-bytes 32 --windows 400 --candidates 16 --threads 1"
"""Of so little text a leak is measured."""
COPIES = "node-a node-b node-c"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_core_and_its_nodes_as_the_guides_tell_it(tmp_path: Path, postgres: postgresql.Server) -> None:
    exchanged = {
        "core.example.org": "localhost",
        "2027-12-31": "2099-12-31",  # a consent that ends one day
        "capture.pcap": "capture",
        "/mnt/core-disk": "../hq/core",
        "--plan without-letters.toml": "--plan without-letters.toml --run first",  # of the two here
        "/backup/core": f"{tmp_path}/backup",
        "--rounds 1,10,20 --windows 2000": f"--rounds 1,{ROUNDS} --windows 400",
        "node leakage ./node": f"node leakage ./node {FEW}",
        "tensorboard --logdir": f"{sys.executable} -m tensorboard.main --inspect --logdir",
    }
    (tmp_path / "hq" / "core").parent.mkdir()
    with served(tmp_path) as url, scene(tmp_path, TYPES, exchanged=exchanged) as hand:
        hand.exchanged["https://ledger.example.org/tapestry"] = f"{url}/hq/core/mirror"
        core(hand)
        nodes(hand)
        watched(hand)
        looked_at(hand)
        measured(hand)
        asked(hand)
        backed_up(hand, postgres)
        shown_and_withdrawn(hand)
        keys(hand)
        databases(hand, postgres)


def core(hand: Typist) -> None:
    """With a certificate, a mirror, and two who are invited."""
    hand.next(FIRST, at="hq", begins="openssl")
    shutil.copytree(hand.root / "hq", hand.root / "elsewhere")
    hand.next(FIRST, at="elsewhere", begins="tapestry core init")
    hand.exchanged["--host 0.0.0.0 --tls"] = "--host 0.0.0.0 --port 8440 --tls"
    hand.section(CORE, "Running a core", at="hq")
    setting(hand.root / "hq/core/core.toml", '\n[ledger]\nmirror = "mirror"\n')
    hand.words("tapestry core serve ./core\n", at="hq")
    hand.names["TOKEN"] = hand.section(CORE, "People", at="hq").split()[0]
    for name, rounds, deadline_s in (("first", ROUNDS, 300), ("second", 2, 8)):
        text = PLAN.format(run=name, rounds=rounds, deadline_s=deadline_s)
        (hand.root / "hq" / f"{name}.toml").write_text(text)


def nodes(hand: Typist) -> None:
    """Acme by the pages; birch beside it."""
    node(hand, "acme")
    words(hand.root / "acme" / "text", "Die Rhone fließt nach Westen, und das Gesetz des Tals gilt.")
    hand.section(OWNER, "A card", at="acme")
    hand.next(FIRST, at="acme", begins="tapestry node join")
    node(hand, "birch")
    words(hand.root / "birch" / "text", "The loom, the warp and the weft.")
    token = hand.words("tapestry core invite ./core birch", at="hq").split()[0]
    hand.words(
        f"tapestry catalog add ./text --home ./node --name text {CARD}\n"
        "tapestry node join ./node --member ./member --core https://localhost:8440 "
        f"--invitation {token} --ca ca.pem\ntapestry node run ./node\n",
        at="birch",
    )


def node(hand: Typist, name: str) -> None:
    folder = hand.root / name
    (folder / "text").mkdir(parents=True)
    shutil.copy(hand.root / "hq" / "server.pem", folder / "ca.pem")
    (folder / "text" / "train.txt").write_text("Text.")
    (folder / "text" / "valid.txt").write_text("Text.")
    hand.words(
        f"tapestry member init ./member --name {name}\n"
        f"tapestry node init ./node --member ./member --name {name}-1 --corpus ./text --threads 1 "
        "--residency CH\n",
        at=name,
    )


def setting(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def finished(hand: Typist, run: str, *places: str) -> None:
    def done(place: str) -> bool:
        try:
            said = json.loads((hand.root / place / "node/status/agent.json").read_bytes())
        except (OSError, ValueError):
            return False
        return said["runs"].get(run, {}).get("status") == "finished"

    hand.until(lambda: all(map(done, places)))


def watched(hand: Typist) -> None:
    """The first run: canaries, training, what left."""
    canaries(hand)
    hand.words("tapestry run plan first.toml --core ./core\ntapestry run start --core ./core\n", at="hq")
    hand.section(NODE, "Running a node", at="acme")
    once = hand.process("acme")
    hand.running.remove(once)
    assert once.process.wait(200) == 0, hand.tails()
    finished(hand, "first", "birch")
    said = hand.section(NODE, "What leaves", at="acme")
    assert "contribution" in said
    (hand.root / "acme" / "capture").write_bytes(b"nothing of it")
    hand.next(NODE, at="acme", begins="tapestry node canaries search")
    (hand.root / "acme" / "more").mkdir()
    hand.exchanged["./text/train-canaries"] = "./more/train-canaries"  # it is trained on no more
    hand.next("docs/concepts/airlock.md", at="acme")
    said = hand.section(NODE, "Checking the core", at="acme")
    assert len(re.findall(r"\bsame\b", said)) == 1


def canaries(hand: Typist) -> None:
    hand.next(NODE, at="acme", begins="tapestry node canaries plant")
    hand.words(
        "tapestry catalog add ./text --home ./node --name letters --license CC-BY-4.0 --language de "
        "--language rm --residency CH --category sovereign --stage base --stage evaluation "
        '--consent-basis "contract 17" --replace',
        at="acme",
    )


def looked_at(hand: Typist) -> None:
    """By those who operate it: watch, doctor, TensorBoard, mirror."""
    desk = hand.root / "desk"
    desk.mkdir()
    for name, folder in (("core", "hq/core"), ("node", "acme/node")):
        (desk / name).symlink_to(hand.root / folder)
    page = "docs/guides/operate.md"
    said = hand.section(page, "Watching a run", at="desk")
    assert f"round {ROUNDS} of {ROUNDS} merged" in said and '"finished": true' in said
    doctor(hand, page)
    hand.section(page, "TensorBoard", at="desk")
    hand.section(CORE, "Static mirror", at="hq")


def doctor(hand: Typist, page: str) -> None:
    """Of a machine that may be short of disk: what it lacks is said, and nothing of core or node is wrong."""
    (block,) = [each for each in hand.left if (each.page, each.heading) == (page, "The doctor")]
    hand.left.remove(block)
    for line in block.text.splitlines():
        said = hand.words(f"{line} --json".replace("--json --json", "--json"), at="desk")
        wrong = {each["check"] for each in json.loads(said)["findings"] if each["verdict"] == "fail"}
        assert wrong <= {"disk", "room for rounds", "limits"}, said


def measured(hand: Typist) -> None:
    support.make_base(hand.root / "acme" / "other-model")
    hand.section("docs/concepts/leakage.md", "Measure your own", at="acme")
    assert (hand.root / "acme" / "leakage-signed.json").is_file()


def asked(hand: Typist) -> None:
    """The second run, whose updates wait for acme's word: it lets the first, and keeps the second."""
    toml = hand.root / "acme" / "node" / "node.toml"
    toml.write_text(toml.read_text().replace("approve = false", "approve = true"))
    hand.words(
        "tapestry run plan second.toml --core ./core\ntapestry run start --run second --core ./core\n",
        at="hq",
    )
    hand.words("tapestry node run ./node\n", at="acme")
    plan = (hand.root / "hq" / "second.toml").read_text()
    (hand.root / "hq" / "plan.toml").write_text(plan.replace("steps = 16", "steps = 12"))
    hand.next(FIRST, at="hq")
    (block,) = [each for each in hand.left if (each.page, each.heading) == (NODE, "Asking the owner")]
    hand.left.remove(block)
    pending, approve, refuse = block.text.splitlines()

    def waits() -> list[Any]:
        said: Any = hand.json(pending.removesuffix("\n"), "acme")["pending"]
        return list(said)

    for line in (approve.replace("run.3", "second.1"), refuse):
        hand.until(lambda: bool(waits()))
        hand.words(pending, at="acme")
        hand.words(line, at="acme")
    finished(hand, "second", "acme", "birch")
    hand.end_all("acme")
    toml.write_text(toml.read_text().replace("approve = true", "approve = false"))


def backed_up(hand: Typist, postgres: postgresql.Server) -> None:
    """While it serves; restored to two places; recovered from nodes; and again under another key."""
    hand.exchanged["postgresql://tapestry@db.example.org/tapestry"] = postgres.database()
    hand.next(CORE, at="hq", begins="tapestry core backup")
    for name in COPIES.split():
        shutil.copytree(
            hand.root / ("birch" if name == "node-b" else "acme") / "node", hand.root / "hq" / name
        )
    hand.next(CORE, at="hq", begins="tapestry core recover")
    for name, place in (("copy-a", "acme"), ("copy-b", "birch")):
        shutil.copytree(hand.root / place / "node", hand.root / "new" / name)
        shutil.rmtree(hand.root / "new" / name / "keys")
    hand.words(
        "tapestry core recover ./core2 --from copy-a --from copy-b --port 8440 || test $? -eq 4", at="new"
    )
    for place in ("acme", "birch"):
        for name in ("request.json", "ledger.jsonl"):
            shutil.copy(hand.root / "new/core2/succession" / name, hand.root / place)
    endorse = next(each for each in hand.left if each.text.startswith("tapestry node endorse"))
    hand.block(endorse, at="acme")
    hand.words(endorse.text.replace("acme.json", "birch.json"), at="birch")
    for place in ("acme", "birch"):
        shutil.copy(hand.root / place / f"{place}.json", hand.root / "new")
    hand.next(CORE, at="new", begins="tapestry core recover")
    status: Any = hand.json("tapestry run status --core ./core2 --run first", "new")
    assert status["status"] == "finished"


def shown_and_withdrawn(hand: Typist) -> None:
    hand.section(OWNER, "Looking at what there is", at="acme")
    said = hand.section(OWNER, "What others get to know", at="acme")
    assert "letters" in said
    made_raw(hand.root / "curating" / "raw")
    shutil.copytree(hand.root / "acme" / "node", hand.root / "curating" / "node")
    hand.section(OWNER, "What is never trained on", at="curating")
    hand.section(OWNER, "Withdrawal", at="acme")
    shutil.copy(hand.root / "acme" / "without-letters.toml", hand.root / "hq")
    hand.section(OWNER, "The run again", at="hq")
    folder = hand.root / "parts"
    for part in ("train/laws-1.txt", "valid/laws-1.txt", "train/letters-1.txt", "valid/letters-1.txt"):
        (folder / "text" / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / "text" / part).write_text(made.GERMAN + part)
    hand.words(
        "tapestry member init ./member --name parts\n"
        "tapestry node init ./node --member ./member --name parts-1 --corpus ./text --residency CH\n",
        at="parts",
    )
    hand.section(OWNER, "Several datasets", at="parts")


def made_raw(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "valid")):
        text = f"{made.GERMAN} {made.prose(number, 20)}"
        (folder / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")


def keys(hand: Typist) -> None:
    hand.section(NODE, "Keys", at="acme")
    assert "is revoked" in hand.words("tapestry member key list ./node", at="acme", refused=True)
    hand.end_all()


def databases(hand: Typist, postgres: postgresql.Server) -> None:
    hand.exchanged |= {
        "createdb tapestry ": ": ",
        "postgresql://tapestry@db.example.org/tapestry": postgres.database(),
        "core init ./core --database": "core init ./core --port 8440 --database",
    }
    hand.section(CORE, "PostgreSQL", at="pg")
    hand.end_all()
    other = free_port()
    hand.exchanged |= {
        "postgresql://tapestry@db.example.org/tapestry": postgres.database(),
        "core init ./one --database": "core init ./one --port 8440 --database",
        "keys two/ ": f"keys two/ && sed -i 's/^port = .*/port = {other}/' two/core.toml",
    }
    hand.section(CORE, "Several processes", at="pg2")
    leads = [(hand.root / "pg2" / name / "logs/core.log").read_text() for name in ("one", "two")]
    assert any("leads" in each for each in leads)
