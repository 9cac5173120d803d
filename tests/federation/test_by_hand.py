"""The hand-driven path: the commands of docs/guides/first-consortium.md, as they stand there.

A block of the guide marked ```sh PLACE is run by a shell in that place's folder: each place's blocks in the
order of the page, the places at the same time, as people in different buildings would. What keeps a terminal
(`core serve`, `node run`) is left running. Only what must differ here is exchanged: the port, the
invitations, and the plan's numbers for smaller ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapestry.host import landlock
from tests.federation.support import free_port

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "first-consortium.md"
BLOCK = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEEPS_THE_TERMINAL = re.compile(r"^tapestry (?:core serve|node run) .*$", re.MULTILINE)
SMALLER = {
    "hidden_size = 64": "hidden_size = 16",
    "intermediate_size = 168": "intermediate_size = 32",
    "num_hidden_layers = 2": "num_hidden_layers = 1",
    "total = 6": "total = 2",
    "steps = 40": "steps = 4",
    "max_tokens = 8192": "max_tokens = 512",
}
ROUNDS = 2
WAIT_S = 120.0


@dataclass
class Running:
    """A command that keeps its terminal."""

    command: str
    place: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Hand:
    """Types what the guide says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = str(free_port())
        self.running: list[Running] = []
        self.tokens: dict[str, str] = {}
        """Invitations by member, as `core invite` printed them."""
        self.output: dict[str, str] = {}
        """What each block printed on stdout, by its text in the guide."""
        programs = root / "bin"
        programs.mkdir()
        (programs / "tapestry").write_text(
            f'#!/bin/sh\nexec {sys.executable} -P -m tapestry.cli.main "$@"\n', encoding="utf-8"
        )
        (programs / "tapestry").chmod(0o755)
        (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
        (programs / "python3").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def type(self, place: str, block: str) -> None:
        """One block. It begins in the common folder if it changes into its place itself."""
        text = block.replace("8440", self.port)
        if "TOKEN" in text:  # what the operator hands over
            self.until(lambda: place in self.tokens)
            text = text.replace("TOKEN", self.tokens[place])
        for plan_line, smaller in SMALLER.items():
            text = re.sub(rf"^{re.escape(plan_line)}$", smaller, text, flags=re.MULTILINE)
        if "tapestry doctor" in text:  # a small disk is worth saying, and no reason to stop here
            text = text.replace("tapestry doctor", "tapestry doctor || test $? -eq 6")
        begins_outside = re.search(rf"\bcd {place}$", text, re.MULTILINE)
        folder = self.root if begins_outside else self.root / place
        kept = KEEPS_THE_TERMINAL.findall(text)
        self.output[block] = self.run(KEEPS_THE_TERMINAL.sub("", text), folder)
        for member, token in self._invited(text, self.output[block]):
            self.tokens[member] = token
        for command in kept:
            self.keep(place, command)

    def type_all(self, page: str) -> None:
        """Every block of a part of the page."""
        blocks: dict[str, list[str]] = {}
        for place, block in BLOCK.findall(page):
            blocks.setdefault(place, []).append(block)

        def one_after_another(place: str) -> None:
            for block in blocks[place]:
                self.type(place, block)

        with ThreadPoolExecutor(len(blocks)) as pool:
            for done in [pool.submit(one_after_another, place) for place in blocks]:
                done.result()

    def run(self, text: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        said = f"{done.stdout}\n{done.stderr}\n{self.tails()}"
        assert done.returncode == 0, f"in {folder.name}:\n{text}\n{said}"
        return done.stdout

    def keep(self, place: str, command: str) -> None:
        log = self.root / f"{place}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.root / place, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.running.append(Running(command, place, process, log))
        if command.startswith("tapestry core serve"):
            self.until(lambda: f"http://127.0.0.1:{self.port}" in log.read_text(errors="replace"))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; nothing that was started may end meanwhile."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            for one in self.running:
                assert one.process.poll() is None, f"{one.command}: {self.tails()}"
            assert time.monotonic() < deadline, self.tails()
            time.sleep(0.1)

    def json(self, command: str, place: str) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.run(f"{command} --json", self.root / place))
        return value

    def process(self, place: str) -> Running:
        return next(one for one in self.running if one.place == place)

    def tails(self) -> str:
        logs = [*self.root.glob("*.log"), *self.root.glob("*/node/logs/*.log")]
        return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-1500:]}" for p in sorted(logs))

    def stop(self) -> None:
        for one in self.running:
            if one.process.poll() is None:
                one.process.send_signal(signal.SIGINT)
        for one in self.running:
            try:
                one.process.wait(20)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    @staticmethod
    def _invited(text: str, output: str) -> Iterator[tuple[str, str]]:
        members = re.findall(r"^tapestry core invite \S+ (\w+)$", text, re.MULTILINE)
        if members:
            yield from zip(members, output.split(), strict=True)


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    one = Hand(tmp_path)
    yield one
    one.stop()


def finished(hand: Hand) -> bool:
    """By the node's own account, which costs no process to ask."""
    try:
        runs = [
            json.loads((hand.root / place / "node" / "status" / "agent.json").read_bytes())["runs"]["first"]
            for place in ("acme", "birch")
        ]
    except (OSError, ValueError, KeyError):
        return False
    return all(run.get("status") == "finished" for run in runs)


def test_the_guide_as_it_stands(hand: Hand) -> None:
    page = GUIDE.read_text(encoding="utf-8")
    for line in SMALLER:
        assert len(re.findall(rf"^{re.escape(line)}$", page, re.MULTILINE)) == 1, line
    before, after = page.split("## 6. What came out")
    hand.type_all(before)
    hand.until(lambda: finished(hand))
    level = hand.json("tapestry node status ./node", "acme")["level"]
    assert level in (("netns", "process") if landlock.version() >= 2 else ("none",))
    hand.type_all(after)

    printed = {
        name: next(text for block, text in hand.output.items() if name in block)
        for name in ("recompute --core", "recompute --node", "say.py", "key list")
    }

    for name in ("recompute --core", "recompute --node"):
        assert len(re.findall(r"\bsame\b", printed[name])) == ROUNDS, name
    assert len(printed["say.py"].encode()) > len("The ")
    assert "revoked" in printed["key list"]

    assert (hand.root / "hq" / "model" / "model.safetensors").is_file()

    status = hand.json("tapestry run status --core ./core", "hq")
    assert status["status"] == "finished"
    egress = hand.json("tapestry node egress ./node", "acme")["egress"]
    assert isinstance(egress, list)
    kinds = {row["kind"] for row in egress}
    assert {"result", "delta-manifest", "delta-shard", "enrolment", "contribution", "score"} <= kinds, kinds
    assert all(row["sha256"] and row["bytes"] for row in egress if row["kind"].startswith("delta"))

    refused = "tapestry member key list ./node && exit 1 || test $? -eq 4"
    hand.run(refused, hand.root / "birch")
    assert hand.process("acme").process.poll() is None, "the other node is not disturbed"
