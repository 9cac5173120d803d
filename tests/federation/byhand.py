"""Types what a guide says: its commands, as they stand there, in the folders of those who type them.

A block of a page marked ```sh PLACE is run by a shell in that place's folder. What keeps a terminal
(`core serve`, `node run`) is left running. Only what must differ in a test is exchanged: the port, what an
earlier command printed, and some numbers for smaller ones.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests import warm
from tests.federation.support import free_port

BLOCK = re.compile(r"^```sh (\w+)( refused)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
KEEPS_THE_TERMINAL = re.compile(r"^tapestry (?:core serve|node run) .*$", re.MULTILINE)
PRINTS = re.compile(r"^(.*?\S)\s+# prints ([A-Z][A-Z-]+)$", re.MULTILINE)
WAIT_S = 300.0


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
    """A page, and whoever types it.

    Args:
        root: the folder in which the places are.
        smaller: lines of the page, and what stands for them here.
        forked: `tapestry` is forked from a warm process instead of started.
    """

    wait_s = WAIT_S
    """How long a command may take, and what it brings about."""

    def __init__(self, root: Path, smaller: Mapping[str, str], *, forked: bool = False) -> None:
        self.root = root
        self.smaller = smaller
        self.port = str(free_port())
        self.running: list[Running] = []
        self.names: dict[str, str] = {}
        """What words in capitals stand for: what the commands printed that say so."""
        self._told: set[str] = set()
        self.output: dict[str, str] = {}
        """What each block printed on stdout, by its text in the guide."""
        programs = root / "bin"
        programs.mkdir()
        command = (
            f"{sys.executable} -IS {warm.COMMAND}" if forked else f"{sys.executable} -P -m tapestry.cli.main"
        )
        (programs / "tapestry").write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        (programs / "tapestry").chmod(0o755)
        (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
        (programs / "python3").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "HF_HUB_OFFLINE": "1",
            **({warm.ADDRESS: warm.address()} if forked else {}),
        }

    def type(self, place: str, block: str, *, refused: bool = False) -> None:
        """One block. It begins in the common folder if it changes into its place itself."""
        text = block.replace("8440", self.port)
        printed = [name for _, name in PRINTS.findall(block)]
        for name in printed:  # what stands behind it in the same block
            text = re.sub(
                rf"(?<!# prints )(?<![-\w]){name}(?![-\w])", f"$(head -n 1 '{self.root}/{name}')", text
            )
        text = PRINTS.sub(rf'\1 | tee "{self.root}/\2"', text)
        wanted = set(re.findall(r"\b[A-Z]+(?:-[A-Z]+)+\b|\b[A-Z]{4,}\b", block)) - {*printed}
        wanted &= self._told | self.names.keys()
        self.until(lambda: wanted <= self.names.keys())  # what somebody else hands over
        for name in sorted(wanted, key=len, reverse=True):
            text = re.sub(rf"(?<![-\w]){name}(?![-\w])", self.names[name], text)
        for line, smaller in self.smaller.items():
            text = re.sub(rf"^{re.escape(line)}$", smaller, text, flags=re.MULTILINE)
        if "tapestry doctor" in text:  # a small disk is worth saying, and no reason to stop here
            text = text.replace("tapestry doctor", "tapestry doctor || test $? -eq 6")
        if "tapestry node leave" in text:  # Ctrl-C in the other terminal comes first, as the page says
            self.end(place)
        begins_outside = re.search(rf"\bcd {place}$", text, re.MULTILINE)
        folder = self.root if begins_outside else self.root / place
        kept = KEEPS_THE_TERMINAL.findall(text)
        self.output[block] = self.run(KEEPS_THE_TERMINAL.sub("", text), folder, refused=refused)
        for name in printed:
            self.names[name] = (self.root / name).read_text().split()[0]
        for command in kept:
            self.keep(place, command)

    def type_all(self, page: str, *, together: bool = True) -> None:
        """Every block of a part of a page: each place's in the order of the page, the places at the same
        time, as people in different buildings would; or, not `together`, one after another."""
        found = [(place, block, bool(refused)) for place, refused, block in BLOCK.findall(page)]
        self._told |= {name for _, block, _ in found for _, name in PRINTS.findall(block)}
        if not together:
            for place, block, refused in found:
                self.type(place, block, refused=refused)
            return
        places = dict.fromkeys(place for place, _, _ in found)

        def one_after_another(place: str) -> None:
            for at, block, refused in found:
                if at == place:
                    self.type(place, block, refused=refused)

        with ThreadPoolExecutor(len(places)) as pool:
            for done in [pool.submit(one_after_another, place) for place in places]:
                done.result()

    def run(self, text: str, folder: Path, *, refused: bool = False) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=self.wait_s, check=False,
        )  # fmt: skip
        said = f"{done.stdout}\n{done.stderr}\n{self.tails()}"
        assert (done.returncode != 0) == refused, f"in {folder.name}:\n{text}\n{said}"
        return done.stdout if not refused else done.stderr

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

    def end(self, place: str) -> None:
        one = self.process(place)
        self.running.remove(one)
        one.process.send_signal(signal.SIGINT)
        one.process.wait(30)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition; nothing that was started may end meanwhile."""
        deadline = time.monotonic() + self.wait_s
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
