"""What the pages have people type: their shell blocks, and which of them no test can type."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND: Final = re.compile(
    r"^(?:\w+=\S+ )*(?:sudo )?(?:tapestry|make|python3?|pip|source|mkdir|cp|sed|awk|printf|openssl|vllm"
    r"|llama-server|podman|kubectl|systemctl|useradd|tensorboard|model_signing|createdb|export|cd)\b",
    re.MULTILINE,
)
"""A block that is not marked is one for a shell if a line of it begins so."""

Table = Mapping[str, Sequence[str]]
"""By page the headings whose blocks are typed; none: those of the whole page."""

REASONS: Final = {
    (
        "README.md",
        "make demo ",
    ): "its demo and its rehearsal are typed for ten-minutes.md; `make test` runs this",
    ("docs/guides/run-a-node.md", "useradd "): "makes a user, as root; test_agent_user runs such a node",
    ("docs/guides/use-a-model.md", "vllm serve"): "other programs, which are no part of an installation",
    ("docs/guides/operate.md", "useradd "): "needs root and systemd; tests/deploy reads the units",
    ("docs/guides/operate.md", "podman build"): "needs podman and a network; tests/deploy reads the file",
    ("docs/guides/operate.md", "kubectl -n"): "needs a cluster; tests/deploy reads the manifests",
    ("docs/formats/releases.md", "model_signing "): "another program, in an environment of its own: make oms",
}
"""Page and beginning of each block that is typed by no test, and why."""

EARLIER: Final[Mapping[str, str]] = {
    "docs/guides/first-consortium.md": "tests/federation/test_by_hand.py",
    "docs/guides/life-of-a-consortium.md": "tests/federation/test_life.py",
    "docs/guides/sovereign-build.md": "tests/sovereign/test_guide.py",
}
"""Pages that have a test of their own, which types all blocks that say where (```sh PLACE), or all there are
where none does."""


@dataclass(frozen=True)
class Block:
    """What is typed at once."""

    page: str
    heading: str
    """The nearest above it."""
    place: str
    """Of those that say where they are typed; else empty."""
    text: str

    @property
    def reason(self) -> str | None:
        """Why no test types it."""
        begins = (why for (page, start), why in REASONS.items() if page == self.page and self._begins(start))
        return next(begins, None)

    def _begins(self, start: str) -> bool:
        return self.text.startswith(start)


def blocks(page: str, text: str) -> list[Block]:
    """Those for a shell: marked ```sh, or not marked and with a line that begins like a command."""
    found = []
    headings = [(match.start(), match[1].strip()) for match in HEADING.finditer(_without_code(text))]
    for match in FENCE.finditer(text):
        language, *words = match[1].split() or [""]
        if language != "sh" and (language or not COMMAND.search(match[2])):
            continue
        heading = next((name for at, name in reversed(headings) if at < match.start()), "")
        found.append(Block(page, heading, words[0] if words else "", match[2]))
    return found


def _without_code(text: str) -> str:
    """Of the same length, with nothing where there is code: a comment there is no heading."""
    return FENCE.sub(lambda match: " " * len(match[0]), text)


def read() -> dict[str, str]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def declared() -> dict[str, Table]:
    """What each test module says that it types: its constant TYPES. The scene holds it to that."""
    found: dict[str, Table] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if not re.search(r"^TYPES\b", source, re.MULTILINE):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPES":
                found[str(path.relative_to(ROOT))] = ast.literal_eval(node.value)
    return found


def chosen(page: str, text: str, table: Table) -> list[Block]:
    """What a table says is typed of a page."""
    headings = table[page]
    return [
        block
        for block in blocks(page, text)
        if not block.place and block.reason is None and (not headings or block.heading in headings)
    ]


def untyped(pages: Mapping[str, str], tables: Mapping[str, Table], earlier: Mapping[str, str]) -> list[Block]:
    """Blocks that no test types, and that have no reason."""
    left = []
    for page, text in pages.items():
        typed = [block for table in tables.values() if page in table for block in chosen(page, text, table)]
        every = blocks(page, text)
        marked = any(block.place for block in every)
        for block in every:
            held = block in typed or (page in earlier and bool(block.place) == marked)
            if not held and block.reason is None:
                left.append(block)
    return left
