"""What a withdrawn dataset touched, listed from a long ledger.

Goal: under 5 s for a run of 1,000 rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import verify
from benchmarks.report import Report, Settings, seconds, spread
from tapestry.audit import file as ledger
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.host import files
from tapestry.node import settings as node_settings
from tapestry.node.home import Home
from tapestry.node.kept import Verified
from tapestry.node.revoke import Revoked, revoke
from tapestry.protocol import canonical
from tapestry.training.withdrawals import MANIFESTS

ROUNDS: Final = 1000
QUICK_ROUNDS: Final = 40
USER: Final = "node07"
DATASET: Final = "letters"
NOT_SHOWN: Final = (
    "The ledger is taken as the node has verified it; what verifying takes is in `verify`.",
    "No core is asked, and nothing is taken back from a catalog.",
)


def measure(settings: Settings) -> Report:
    report = Report(what="withdrawal", title="What a withdrawn dataset touched", not_shown=NOT_SHOWN)
    rounds, repeat = QUICK_ROUNDS if settings.quick else ROUNDS, settings.repeat or 5
    with tempfile.TemporaryDirectory() as folder:
        home = make(Path(folder), rounds)
        seen: list[Revoked] = []
        listing = seconds(lambda: seen.append(revoke(home, DATASET, tell=False)), repeat=repeat)
        command = seconds(lambda: say(home), repeat=repeat)
        size = (home.ledger / "ledger.jsonl").stat().st_size
    found = seen[0].touched
    report.section(
        "Times",
        f"A run of {rounds:,} rounds of {verify.NODES} nodes: {found.entries:,} entries, "
        f"{size / 1e6:.0f} MB. "
        f"One node used the dataset from round {first_use(rounds):,} on: {len(found.contributions):,} "
        f"contributions and {sum(len(run.bases) for run in found.runs):,} bases are named. "
        "Goal for 1,000 rounds: 5 s.",
    )
    report.table(
        ("what", "seconds"),
        [
            ("mark, manifests and list, in one process", spread(listing, 3)),
            ("tapestry catalog revoke --json, start and all", spread(command)),
        ],
    )
    return report


def first_use(rounds: int) -> int:
    return rounds // 2 + 1


def say(home: Home) -> None:
    words = ["catalog", "revoke", DATASET, "--home", str(home.root), "--offline", "--json"]
    subprocess.run(
        [sys.executable, "-P", "-m", "tapestry.cli.main", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env=dict(os.environ),
    )


def make(root: Path, rounds: int) -> Home:
    """A node's home with the ledger of such a run, in which one node used a dataset from the middle on."""
    manifests = {}
    for name in (DATASET, "other"):
        card = {"name": name, "root": canonical.sha256(name.encode())}
        manifest = canonical.encode(
            {"cards": [card], "files": [], "format": "tapestry.data-manifest", "version": 2}
        )
        manifests[canonical.sha256(manifest)] = manifest
    sha, other = manifests
    verify.make(
        root / "core",
        rounds * verify.OF_A_ROUND,
        lambda name, number: sha if name == USER and number >= first_use(rounds) else other,
    )
    home = Home(root / "node")
    home.make_folders()
    home.settings.write_text(node_settings.render(node_settings.make(member=USER, name=USER, corpus="text")))
    (home.cache / MANIFESTS).mkdir()
    for digest, manifest in manifests.items():
        files.write_atomic(home.cache / MANIFESTS / f"{digest}.json", manifest)
    path = home.ledger / "ledger.jsonl"
    with Core.open(root / "core") as core, path.open("wb") as out:
        out.write(ledger.FIRST)
        out.writelines(Proofs(core.journal, core.consortium).written(core.store))
    end = path.read_bytes().rindex(b"\n", 0, -1) + 1  # the last line is the checkpoint
    verified = Verified(entries=0, bytes=end, checkpoint="", verifier={})
    files.write_atomic(home.ledger / "verified.json", verified.to_bytes())
    return home
