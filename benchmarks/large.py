"""A whole round of a large model with everything real: core, node, trainer, and the commands a person types.

The model has random parameters and trains one step; what is looked at is memory: no process but the
trainer ever holds the model, however large it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cards import HERE, give_card

from benchmarks.machine import peaks, say, scratch
from benchmarks.report import Report, Settings
from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.host import files
from tapestry.protocol.layout import ELEMENT_BYTES
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView

LIMITS = {"core": 150, "agent": 150, "replay worker of the core": 600, "replay worker of the node": 600}
"""Anonymous memory in MB."""
SHAPES = {
    # hidden, layers, heads, intermediate, vocabulary: about so many parameters
    1_000_000_000: (2048, 18, 16, 6144, 32_000),
    20_000_000: (384, 8, 6, 1024, 8_000),
}
_PLAN = """\
format = "tapestry.plan-file"
version = 1
[run]
name = "large"
[model]
[model.config]
hidden_size = {hidden}
num_hidden_layers = {layers}
num_attention_heads = {heads}
num_key_value_heads = {heads}
intermediate_size = {intermediate}
vocab_size = {vocabulary}
max_position_embeddings = 64
tie_word_embeddings = true
[rounds]
total = 1
[inner]
steps = 1
sequence_length = 64
batch_sequences = 1
[evaluation]
max_tokens = 64
"""


def measure(settings: Settings) -> Report:
    size = 20_000_000 if settings.quick else 1_000_000_000
    with scratch(needs_bytes=11 * size * ELEMENT_BYTES) as root:
        found, seconds, view, parameters = _run(root, size)
    report = Report(
        what="large",
        title=f"A whole round of a model with {parameters / 1e6:.0f} million parameters",
        not_shown=[
            "One node, one step of 64 tokens: what training and many nodes cost is not measured here.",
            "Reading and writing shares one disk between core and node.",
        ],
    )
    report.section(
        "Anonymous memory in MB, largest seen of each process",
        f"The base has {parameters * ELEMENT_BYTES / 1e9:.2f} GB. One round with a merge (Nesterov), "
        f"repeated by the node; the run ended as {view.status} with {view.head.merges} merge.",
    )
    rows = [[name, f"{peak / 1e6:.0f}", LIMITS.get(name, "")] for name, peak in sorted(found.items())]
    report.table(["process", "MB", "goal, at most"], rows)
    report.section("Seconds")
    report.table(["what", "seconds"], [[what, f"{took:.0f}"] for what, took in seconds.items()])
    return report


def _run(root: Path, size: int) -> tuple[dict[str, int], dict[str, float], RunView, int]:
    hidden, layers, heads, intermediate, vocabulary = SHAPES[size]
    core, node, member, corpus = (root / name for name in ("core", "node", "member", "text"))
    corpus.mkdir()
    for name in ("train.txt", "valid.txt"):
        (corpus / name).write_text("the loom the warp and the weft\n" * 40)
    plan = root / "plan.toml"
    plan.write_text(
        _PLAN.format(
            hidden=hidden, layers=layers, heads=heads, intermediate=intermediate, vocabulary=vocabulary
        )
    )
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def lap(what: str) -> None:
        nonlocal started
        seconds[what] = seconds.get(what, 0.0) + time.monotonic() - started
        started = time.monotonic()
        say(f"{what}: {seconds[what]:.0f} s")

    _cli("core", "init", core, "--title", "Benchmark", "--port", 0)
    _cli("run", "plan", plan, "--core", core)
    lap("drawing and recording the model")
    _cli("run", "start", "--core", core)
    log = (root / "log").open("ab")
    served = subprocess.Popen(_command("core", "serve", core), stdout=log, stderr=log)
    run: subprocess.Popen[bytes] | None = None
    try:
        url = files.wait_for(lambda: operator.serving_url(core), timeout_s=60)
        _cli("member", "init", member, "--name", "one")
        _cli("node", "init", node, "--member", member, "--name", "one", "--corpus", corpus, "--threads", 2,
             "--residency", HERE)  # fmt: skip
        give_card(node, corpus)
        toml = node / "node.toml"
        toml.write_text(toml.read_text().replace("checkpoint_s = 60.0", "checkpoint_s = 100000.0"))
        token = operator.invite(core, "one")
        _cli("node", "join", node, "--core", url, "--invitation", token, "--member", member)
        run = subprocess.Popen(_command("node", "run", node, "--once"), stdout=log, stderr=log)
        with peaks(lambda: _roles(root, served.pid), every_s=0.1) as found:
            phase = ""
            while run.poll() is None:
                now = _phase(node)
                if now != phase and now:
                    if phase:
                        lap(f"trainer: {phase}")
                    phase = now
                time.sleep(0.2)
            lap("the rest: merge, repeated merge, score of the new base")
        if run.returncode:
            sys.exit(f"the node ended with {run.returncode}: {(root / 'log').read_text()[-2000:]}")
        view = operator.view(core, "large")
        with Core.open(core) as opened:
            plan_now = Plan.from_bytes(opened.store.read(view.plan))
        return dict(found), seconds, view, plan_now.parameters
    finally:
        for process in (run, served):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)
        log.close()


def _roles(root: Path, core: int) -> Mapping[str, int]:
    """Processes of this run by name."""
    found = {"core": core}
    marks = {"tapestry.node.agent": "agent", "tapestry.node.gate": "gate", "tapestry.training": "trainer"}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) not in command or "distributed.run" in command or "host.exec" in command:
            continue
        if "tapestry.replay" in command:
            owner = "core" if str(root / "core") in command else "node"
            found[f"replay worker of the {owner}"] = int(entry.name)
        for mark, name in marks.items():
            if mark in command:
                found[name] = int(entry.name)
    return found


def _phase(node: Path) -> str:
    try:
        value: dict[str, Any] = json.loads((node / "status" / "trainer.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(value.get("phase", ""))


def _command(*arguments: object) -> list[str]:
    tapestry = shutil.which("tapestry", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tapestry is not None
    return [tapestry, *map(str, arguments)]


def _cli(*arguments: object) -> None:
    subprocess.run(_command(*arguments), check=True, stdout=subprocess.DEVNULL)
