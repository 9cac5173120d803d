"""Pages for those who decide, look after releases, check and leave: one consortium with a charter."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.node.agent import KEEP_S, LOOK_S
from tests.audit.test_fork import PROOF
from tests.federation.support import free_port
from tests.file_server import served
from tests.guides.pages import ROOT
from tests.guides.support import CARD, PLAN, words
from tests.guides.typist import Typist, scene
from tests.training.clusters import fake_slurm

TYPES = {
    "docs/guides/votes.md": (),
    "docs/guides/phases.md": (),
    "docs/guides/accounting.md": (),
    "docs/guides/audit.md": (),
    "docs/guides/entitlements.md": (),
    "docs/guides/releases.md": (),
    "docs/guides/leaving.md": (),
    "docs/guides/dashboard.md": (),
    "docs/guides/run-on-a-cluster.md": (),
    "docs/guides/islands.md": (),
    "docs/guides/planner.md": ("Calibration",),
}
VOTES, PHASES = "docs/guides/votes.md", "docs/guides/phases.md"
RELEASES, RIGHTS = "docs/guides/releases.md", "docs/guides/entitlements.md"
NODES = {"acme": "node", "birch": "birch-node", "cedar": "node"}
"""Each member's folder has its name; where its node is."""
VOTING_S = 24 * 3600  # an invitation that is made beside the core is good for a week
SENTENCES = {  # equal updates would be taken for copies
    "acme": "Le métier, la trame et la chaîne.",
    "birch": "Sous le pont coulait la rivière.",
    "cedar": "Qui garde les abeilles du village ?",
}
CHARTER = f"""\
format = "tapestry.charter-file"
version = 1
title = "Three"

[members]
acme = {{ roles = ["member", "steward"] }}
birch = {{ roles = ["member", "steward"] }}
cedar = {{ roles = ["member", "steward"] }}

[decisions.usual]
approval = "more than 1/2"
quorum = "at least 1/2"
yes_members = 2
voting = "{VOTING_S} seconds"

[contribution]
influence_cap = "1/2"

[entitlements]
rounds = 2

[release]
signatures = 2
holders = ["acme", "birch", "cedar"]

[phases.pilot]
title = "A small model, to learn how it goes"
needs = {{ compute = "800 accelerator-hours", data.fr = "1 kB" }}
members = 1
counts = "pledged"
runs = ["pilot-1", "pilot-2"]
"""
MEMBERS = """\
format = "tapestry.members-file"
version = 1
[[members]]
name = "acme"
peak_tflops = 1
up_mbit = 100
down_mbit = 100
[[members]]
name = "birch"
peak_tflops = 1
up_mbit = 100
down_mbit = 100
[[members]]
name = "cedar"
peak_tflops = 1
up_mbit = 100
down_mbit = 100
"""


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_deciding_releasing_checking_and_leaving_as_the_guides_tell_it(tmp_path: Path) -> None:
    (tmp_path / "hq").mkdir()
    exchanged = {
        "https://core.example.org:8440": "http://127.0.0.1:8440",
        '"2 GB"': '"1 kB"',
        "tapestry web --": f"tapestry web --port {free_port()} --",
        "http://127.0.0.1:8470": "http://127.0.0.1:8440",
        "https://core.example.org:8470": "http://127.0.0.1:8440",
        "/var/lib/tapestry-web": f"{tmp_path}/desk/state",
        "fork-0123456789ab": "fork",
        "/shared/tapestry": f"{tmp_path}/cluster",
    }
    with served(tmp_path) as url, scene(tmp_path, TYPES, exchanged=exchanged) as hand:
        hand.exchanged["https://models.example.org"] = f"{url}/hq"
        hand.exchanged["https://ledger.example.org/tapestry"] = f"{url}/hq/core/mirror"
        founded(hand)
        decided(hand)
        trained(hand)
        counted(hand)
        released(hand)
        certified(hand)
        audited(hand)
        shown(hand)
        on_a_cluster(hand)
        left(hand)


def founded(hand: Typist) -> None:
    hand.words(
        'tapestry core init ./core --title "Three" --port 8440\n'
        "printf '\\n[ledger]\\nmirror = \"mirror\"\\n' >> core/core.toml\n"
        "tapestry core serve ./core\n",
        at="hq",
    )
    (hand.root / "hq" / "charter.toml").write_text(CHARTER)
    (hand.root / "hq" / "plan.toml").write_text(
        PLAN.format(run="first", rounds=4, deadline_s=300).replace(
            "min_nodes = 2\nquorum = 1", "min_nodes = 3\nquorum = 2"
        )
        + "[merge]\ninfluence_cap = 0.5\n"
    )
    for name, home in NODES.items():
        words(hand.root / name / "text", SENTENCES[name])
        shutil.copy(hand.root / "hq" / "charter.toml", hand.root / name)
        token = hand.words(f"tapestry core invite ./core {name}", at="hq").split()[0]
        hand.words(
            f"tapestry member init ./{name} --name {name}\n"
            f"tapestry node init ./{home} --member ./{name} --name {name}-1 --corpus ./text --threads 1 "
            "--residency CH\n"
            f"tapestry catalog add ./text --home ./{home} --name letters {CARD.replace(' en ', ' fr ')}\n"
            f"tapestry node join ./{home} --member ./{name} --core http://127.0.0.1:8440 "
            f"--invitation {token}\n"
            f"tapestry node run ./{home}\n",
            at=name,
        )
    key, sign, adopt = [each for each in hand.left if each.heading == "Before the first vote"]
    hand.block(key, at="acme")
    hand.block(sign, at="acme")
    for name in ("birch", "cedar"):
        hand.words(f"{key.text}{sign.text}".replace("acme", name), at=name)
    for name in NODES:
        shutil.copy(hand.root / name / f"{name}.json", hand.root / "hq")
    hand.block(adopt, at="hq")


def vote(hand: Typist, *proposals: str) -> None:
    for name in NODES:
        said = "".join(f"tapestry vote {each} yes --member ./{name}\n" for each in proposals)
        hand.words(said, at=name)


def passed(hand: Typist, *proposals: str) -> None:
    def outcomes() -> list[Any]:
        listed: Any = hand.json("tapestry proposal list --member ./acme", "acme")["proposals"]
        held = {each["proposal"]: each["outcome"] for each in listed}
        return [next(held[known] for known in held if known.startswith(each)) for each in proposals]

    hand.wait(VOTING_S + 1)
    hand.until(lambda: None not in outcomes())
    assert all((each["verdict"], each["in_force"]) == ("passed", True) for each in outcomes()), outcomes()


def decided(hand: Typist) -> None:
    """A plan, a member and a phase, at once."""
    hand.words("tapestry run plan plan.toml --core ./core\n", at="hq")
    (hand.root / "acme" / "why.txt").write_text("Because we would like to know.\n")
    said = hand.section(VOTES, "Proposing", at="acme").split()
    plan, admission = (word for word in said if re.fullmatch("[0-9a-f]{12,64}", word))
    hand.words("tapestry catalog publish letters --home ./node", at="acme")
    said = hand.section(PHASES, "Pledging", at="acme")
    pledge = next(word for word in said.split() if re.fullmatch("[0-9a-f]{12,64}", word))
    hand.exchanged["pledge confirm 1a2b3c4d5e6f"] = f"pledge confirm {pledge}"
    hand.section(PHASES, "Confirming", at="birch")
    assert "go" in hand.section(PHASES, "Is there enough?", at="acme")
    said = hand.section(PHASES, "Opening it", at="acme")
    opening = next(word for word in said.split() if re.fullmatch("[0-9a-f]{12,64}", word))
    hand.exchanged["1a2b3c4d5e6f"] = plan
    hand.section(VOTES, "Voting", at="acme")
    vote(hand, plan, admission, opening)
    passed(hand, plan, admission, opening)


def trained(hand: Typist) -> None:
    hand.words("tapestry run start --core ./core\n", at="hq")

    def done() -> bool:
        said: Any = hand.json("tapestry run status --core ./core", "hq")
        return bool(said["status"] == "finished")

    hand.until(done)
    status: Any = hand.json("tapestry run status --core ./core", "hq")
    hand.names["DIGEST"] = status["head"]["state"]
    time.sleep(LOOK_S + KEEP_S + 1.0)  # by then a node's own copy of the ledger has all of it


def counted(hand: Typist) -> None:
    """Votes by the ledger, what each gave, and what the planner learns of it."""
    hand.section(VOTES, "Checking a count", at="acme")
    hand.words("tapestry ledger export --core ../hq/core ledger.jsonl", at="acme")
    page = "docs/guides/accounting.md"
    hand.section(page, "The whole picture", at="acme")
    rows = list(csv.DictReader((hand.root / "acme" / "rounds.csv").read_text().splitlines()))
    assert {row["member"] for row in rows} == {*NODES}, rows[:3]
    hand.section(page, "Your statement", at="acme")
    hand.section(page, "If you think it is wrong", at="acme")
    (hand.root / "acme" / "members.toml").write_text(MEMBERS)
    shutil.copy(hand.root / "hq" / "plan.toml", hand.root / "acme")
    hand.section("docs/guides/planner.md", "Calibration", at="acme")


def released(hand: Typist) -> None:
    """By the clock: keys, the vote, a draft, signatures, the release, and a new list of holders."""
    hand.next(RELEASES, at="acme", begins="tapestry member key release")
    for name in ("birch", "cedar"):
        hand.words(f"tapestry member key release ./{name}", at=name)
    said = hand.next(RELEASES, at="acme", begins="tapestry proposal new")
    release = next(word for word in said.split() if re.fullmatch("[0-9a-f]{12,64}", word))
    vote(hand, release)
    passed(hand, release)
    time.sleep(LOOK_S + KEEP_S + 1.0)
    hand.next(RELEASES, at="hq", begins="tapestry release propose base-1")
    signed(hand, "draft", "tapestry release sign ./draft --member ./acme --ledger ./node --look-only")
    hand.next(RELEASES, at="hq", begins="tapestry release publish")
    hand.next(RELEASES, at="hq", begins="tapestry release renew")
    shutil.copy(hand.root / "hq/releases/metadata/1.root.json", hand.root / "acme" / "root.json")
    hand.words("tapestry member key release ./acme", at="acme")
    hand.next(RELEASES, at="hq", begins="tapestry release propose --core")
    time.sleep(LOOK_S + KEEP_S + 1.0)
    hand.exchanged["sign ./draft "] = "sign ./draft-2 "
    signed(hand, "draft-2", "tapestry release sign ./draft --member ./acme --ledger ./node --repository")
    hand.words("tapestry release publish ./draft-2 --core ./core --repository ./releases", at="hq")
    hand.exchanged["fetch https"] = "fetch --trust ./seen https"  # not in the home of who runs the tests
    hand.exchanged |= {"fetch http:": "fetch --trust ./seen http:"}
    hand.section(RELEASES, "For whoever wants the model", at="acme")
    python(hand, RELEASES, "acme")


def signed(hand: Typist, draft: str, begins: str) -> None:
    """By acme as on the page, and by birch."""
    for name in ("acme", "birch"):
        shutil.copytree(hand.root / "hq" / draft, hand.root / name / draft)
    hand.next(RELEASES, at="acme", begins=begins)
    hand.words(f"tapestry release sign ./{draft} --member ./birch --ledger ./birch-node", at="birch")
    for name in ("acme", "birch"):
        shutil.copy(
            hand.root / name / draft / f"signatures/{name}.json", hand.root / "hq" / draft / "signatures"
        )


def python(hand: Typist, page: str, at: str) -> None:
    """What a page has in Python, run beside what it opens."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        subprocess.run(
            [sys.executable, "-c", code], cwd=hand.root / at, env=hand.environment, check=True, timeout=100
        )


def certified(hand: Typist) -> None:
    said = hand.section(RIGHTS, "Who has a right", at="acme")
    assert "yes" in said
    hand.exchanged["--release one"] = "--release base-1"
    key = json.loads((hand.root / "acme" / "node" / "consortium.json").read_bytes())["core_key"]
    hand.exchanged |= {
        "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29": key,
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": hand.names["DIGEST"],
    }
    make, sign = [each for each in hand.left if (each.page, each.heading) == (RIGHTS, "Making and signing")]
    hand.block(make, at="acme")
    shutil.copy(hand.root / "acme" / "acme-one.json", hand.root / "birch")
    hand.block(sign, at="birch")
    hand.words("tapestry entitlement sign ../birch/acme-one.json --member ./acme --ledger ./node", at="acme")
    shutil.copy(hand.root / "birch" / "acme-one.json", hand.root / "acme")
    hand.words("tapestry ledger export --core ../hq/core ledger.jsonl", at="acme")
    hand.section(RIGHTS, "Checking one", at="acme")


def audited(hand: Typist) -> None:
    page = "docs/guides/audit.md"
    folder = hand.root / "auditor"
    folder.mkdir()
    (folder / "core").symlink_to(hand.root / "hq" / "core")
    shutil.copytree(hand.root / "hq" / "core" / "blobs", folder / "blobs")
    shutil.copy(hand.root / "acme" / "ledger.jsonl", folder)
    (folder / "fork.json").write_bytes(PROOF.to_bytes())
    hand.section(page, "A ledger", at="auditor")
    own, theirs = [each for each in hand.left if each.page == page]
    hand.block(own, at="acme")
    shutil.copytree(hand.root / "acme" / "evidence", folder / "evidence")
    hand.block(theirs, at="auditor")


def shown(hand: Typist) -> None:
    """The dashboard, each way to start it; and signing in."""
    page = "docs/guides/dashboard.md"
    desk = hand.root / "desk"
    desk.mkdir()
    (desk / "ada").symlink_to(hand.root / "acme" / "acme")
    (desk / "node").symlink_to(hand.root / "acme" / "node")
    hand.section(page, "The dashboard", at="desk")
    login, proxied = [each for each in hand.left if (each.page, each.heading) == (page, "Signing in")]
    hand.words("tapestry web --as ./ada\n", at="desk")
    address = re.findall(r"http://127\.0\.0\.1:\d+", hand.said("desk", "web"))[-1]
    hand.exchanged["http://127.0.0.1:8471"] = address
    assert f"{address}/" in hand.block(login, at="desk")
    hand.block(proxied, at="desk")
    hand.section(page, "What left my building", at="desk")
    assert hand.said("desk", "web").count("://") >= 2
    hand.end_all("desk")


def on_a_cluster(hand: Typist) -> None:
    """Delta, which the vote has admitted, by jobs of a Slurm of one machine."""
    page = "docs/guides/run-on-a-cluster.md"
    cluster = hand.root / "cluster"
    words(cluster / "text", "Drei Fäden und ein Schiffchen.")
    programs = fake_slurm.install(hand.root / "slurm")
    hand.environment["PATH"] = f"{programs}{os.pathsep}{hand.environment['PATH']}"
    hand.names["TOKEN"] = hand.words("tapestry core invite ./core delta", at="hq").split()[0]
    hand.words("tapestry member init ./member --name delta", at="cluster")
    hand.exchanged |= {f"python3 -m venv {cluster}/venv\n": "", f"{cluster}/venv/bin/pip install ": ": "}
    hand.exchanged["--name acme-1"] = "--name delta-1"
    hand.section(page, "Set it up", at="cluster")
    hand.words(f"tapestry catalog add ./text --home ./node --name letters {CARD}", at="cluster")
    toml = re.findall(r"^```toml\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)[0]
    settings = cluster / "node" / "node.toml"
    text = settings.read_text()
    ours = (
        toml.replace("/shared/tapestry", str(cluster))
        .replace('"cuda"', '"cpu"')
        .replace("hosts = 2", "hosts = 1")
    )
    ours = (
        ours.replace("processes = 4", "processes = 1")
        .replace('"bf16"', '"fp32"')
        .replace("threads = 8", "threads = 1")
    )
    settings.write_text(re.sub(r"^\[training\]\n(?:[^\[].*\n|\n)*", ours + "\n", text, flags=re.MULTILINE))
    look, run = [each for each in hand.left if (each.page, each.heading) == (page, "Slurm")]
    hand.block(look, at="cluster")
    hand.section("docs/guides/islands.md", "On a cluster", at="cluster")
    hand.block(run, at="cluster")
    hand.section(page, "See that it works", at="cluster")


def left(hand: Typist) -> None:
    """Cedar without its root key at hand; acme with a bundle first."""
    page = "docs/guides/leaving.md"
    leave, revoke, export, verify = [each for each in hand.left if each.page == page]
    hand.words("tapestry run export --node ./node --out ./our-model", at="acme")
    hand.block(export, at="acme")
    shutil.move(hand.root / "acme" / "bundle", hand.root / "acme" / "bundle-before")
    hand.block(leave, at="acme")
    hand.block(verify, at="acme")
    python(hand, page, "acme")
    hand.words("tapestry node leave ./node --out ./bundle", at="cedar")
    hand.exchanged["--member ./acme"] = "--member ./cedar"
    hand.block(revoke, at="cedar")
