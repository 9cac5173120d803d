"""Types what pages say, whose blocks do not say where: a test tells in which folder, and in which order.

Whoever opens a scene says which pages it types (`TYPES` of its module). When it ends well, every block of
them has been typed, or the scene fails: so a block that is added to a page is typed too, or found here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.federation.byhand import Hand, Running
from tests.guides import pages
from tests.guides.pages import ROOT, Block, Table

KEEPS: Final = re.compile(r"^tapestry (core serve|node run|serve|web)(?! login)\b[^\n]*\n", re.MULTILINE)
"""Commands that keep their terminal."""
UP: Final = {"core serve": "://", "serve": "/v1", "web": "://", "node run": ""}
"""What they say once they are up."""
DOCTOR: Final = re.compile(r"^tapestry doctor\b([^\n|]*)$", re.MULTILINE)


class Typist(Hand):
    """A page, and whoever types it.

    Args:
        root: the folder in which the places are.
        table: by page which headings are typed.
        exchanged: parts of what is typed, and what stands for them here: addresses, mostly.
    """

    def __init__(
        self,
        root: Path,
        table: Table,
        *,
        exchanged: Mapping[str, str] | None = None,
        forked: bool = True,
    ) -> None:
        super().__init__(root, {}, forked=forked)
        self.exchanged = dict(exchanged or {})
        self.pages = {page: (ROOT / page).read_text(encoding="utf-8") for page in table}
        self.left = [block for page, text in self.pages.items() for block in pages.chosen(page, text, table)]
        """What is not typed yet, in the order of the pages."""
        shutil.copy(root / "bin" / "python3", root / "bin" / "python")
        command = f'exec make -f {ROOT}/Makefile -o .venv/.installed BIN={root}/bin "$@"\n'
        (root / "bin" / "make").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{command}")
        (root / "bin" / "make").chmod(0o755)
        self.later = root / "later"
        """Milliseconds by which a core is ahead of this machine; see `wait`."""
        self.environment["TAPESTRY_TEST_LATER"] = str(self.later)
        self.environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )

    def section(self, page: str, heading: str, *, at: str) -> str:
        """Every block below a heading, in the folder `at`; what they printed."""
        found = [block for block in self.left if (block.page, block.heading) == (page, heading)]
        assert found, f"{page} has nothing left to type below {heading!r}"
        return "".join(self.block(block, at=at) for block in found)

    def next(self, page: str, *, at: str, refused: bool = False, begins: str = "") -> str:
        """The next block of a page that is not typed yet, or the one that begins so; what it printed."""
        found = [block for block in self.left if block.page == page and block.text.startswith(begins)]
        assert found, f"{page} has nothing left to type that begins with {begins!r}"
        return self.block(found[0], at=at, refused=refused)

    def block(self, block: Block, *, at: str, refused: bool = False) -> str:
        self.left.remove(block)
        return self.words(block.text, at=at, refused=refused)

    def words(self, text: str, *, at: str, refused: bool = False) -> str:
        """Typed line by line, where a command keeps its terminal: the next of its kind takes its place."""
        for ours, theirs in self.exchanged.items():
            text = text.replace(ours, theirs)
        # A small disk is worth saying, and no reason to stop here.
        text = re.sub(
            r"^tapestry doctor\b([^\n|]*)$", r"tapestry  doctor\1 || test $? -eq 6", text, flags=re.M
        )
        said, begin = "", 0
        (self.root / at).mkdir(parents=True, exist_ok=True)
        for kept in KEEPS.finditer(text):
            said += self._typed(at, text[begin : kept.start()], refused)
            self.keep(at, kept[0].strip())
            begin = kept.end()
        return said + self._typed(at, text[begin:], refused)

    def _typed(self, at: str, text: str, refused: bool) -> str:
        if not text.strip():
            return ""
        self.type(at, text, refused=refused)
        return self.output[text]

    def keep(self, place: str, command: str) -> None:
        """As before, of every such program; another of the same in the same place ends first, if the command
        does not end with `&`."""
        command, beside = command.replace("8440", self.port).removesuffix("&").strip(), command.endswith("&")
        found = KEEPS.match(f"{command}\n")
        assert found is not None
        kind = found[1]
        if not beside:
            self.end_all(place, f"tapestry {kind}")
        log = self.root / f"{place}-{kind.replace(' ', '-')}{len(self.running) if beside else ''}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self._timed(command)}"],
                cwd=self.root / place, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.running.append(Running(command, place, process, log))
        self.until(lambda: UP[kind] in log.read_text(errors="replace"))

    def _timed(self, command: str) -> str:
        """A core's process can be told the time, so it is not forked."""
        core = f"{sys.executable} -P -m tests.guides.later core serve"
        return re.sub("^tapestry core serve", core, command)

    def wait(self, seconds: float) -> None:
        """So much passes for every core, and for nobody else."""
        before = int(self.later.read_text()) if self.later.exists() else 0
        self.later.write_text(str(before + round(seconds * 1000)))

    def end(self, place: str) -> None:
        self.end_all(place, "tapestry node run")

    def end_all(self, place: str = "", begins: str = "") -> None:
        """What runs in a place, or everywhere, and begins so."""
        for one in [*self.running]:
            if place in ("", one.place) and one.command.startswith(begins):
                self.running.remove(one)
                one.process.send_signal(signal.SIGINT)
                one.process.wait(60)

    def said(self, place: str, kind: str) -> str:
        """By a command that keeps its terminal, up to now."""
        return (self.root / f"{place}-{kind.replace(' ', '-')}.log").read_text()


@contextmanager
def scene(
    root: Path,
    table: Table,
    *,
    exchanged: Mapping[str, str] | None = None,
) -> Iterator[Typist]:
    """Fails unless everything was typed by its end."""
    one = Typist(root, table, exchanged=exchanged, forked="TAPESTRY_TEST_COLD" not in os.environ)
    try:
        yield one
        left = [f"{block.page}, {block.heading}:\n{block.text}" for block in one.left]
        assert not left, "nobody has typed:\n" + "\n".join(left)
    finally:
        one.stop()
