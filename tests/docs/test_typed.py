"""Every shell block of a page is typed by a test, or has a reason; and every command is invoked by one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_commands import LEAVES
from tests.guides import pages
from tests.guides.pages import EARLIER, REASONS, ROOT, blocks, declared, read, untyped

Words = tuple[str, ...]
MAIN = "tapestry.cli.main"
RUNS = ("call", "ask", "answer")
"""Functions of tests that run a command, whose words are what they are given."""


def test_every_block_is_typed_or_says_why_not() -> None:
    left = untyped(read(), declared(), EARLIER)
    assert not left, [f"{block.page}, {block.heading}: {block.text.splitlines()[0]}" for block in left]


def test_a_block_that_nobody_types_is_found() -> None:
    """The control: of a page in no table, below a heading in no table, and on a page that grows."""
    told = read()
    (where, table) = next((module, table) for module, table in declared().items() if len(table) > 1)
    page = next(page for page in table if not table[page])
    without = {**declared(), where: {name: table[name] for name in table if name != page}}
    assert {block.page for block in untyped(told, without, EARLIER)} >= {page}
    narrower = {**declared(), where: {**table, page: ("No such heading",)}}
    assert {block.page for block in untyped(told, narrower, EARLIER)} >= {page}
    new = "# New\n```sh\ntapestry doctor\n```\n```\ntapestry demo --seed 1\n```\n```\nnothing to type\n```\n"
    found = untyped({"docs/guides/new.md": new}, declared(), EARLIER)
    assert [block.text for block in found] == ["tapestry doctor\n", "tapestry demo --seed 1\n"]
    (first, *_) = EARLIER
    assert first in {block.page for block in untyped(told, declared(), {})}


def test_each_reason_is_of_one_block() -> None:
    every = [block for page, text in read().items() for block in blocks(page, text)]
    for page, start in REASONS:
        found = [block for block in every if block.page == page and block.text.startswith(start)]
        assert len(found) == 1, (page, start)


def test_each_table_is_of_headings_that_have_blocks() -> None:
    told = read()
    for module, table in declared().items():
        for page, headings in table.items():
            known = {block.heading for block in blocks(page, told[page])}
            assert known and set(headings) <= known, (module, page)


def test_whoever_says_what_is_typed_opens_a_scene_with_it() -> None:
    """The scene looks that all of it was typed; a table that nobody opens says nothing."""
    for module in declared():
        assert re.search(r"\bscene\([^)]*\bTYPES\b", (ROOT / module).read_text(encoding="utf-8")), module
    for page, module in EARLIER.items():
        source = (ROOT / module).read_text(encoding="utf-8")
        assert Path(page).name in source and re.search(r"type_all\(|BLOCK\.findall\(", source), module


# -- commands ---------------------------------------------------------------------------------------


def spoken(source: str) -> Iterator[Words]:
    """What a test runs, in this process or another: words beside each other in a call, a list or a tuple, and
    lines of text that begin with tapestry. A word alone counts where it is clear whose it is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            words = text_of(node.args)
            yield words if ast.unparse(node.func).split(".")[-1] in RUNS else ("", *words)
        elif isinstance(node, ast.List | ast.Tuple):
            words = text_of(node.elts)
            yield words[words.index(MAIN) + 1 :] if MAIN in words else ("", *words)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from in_shell(node.value)


def text_of(parts: Iterable[ast.expr]) -> Words:
    return tuple(
        each.value if isinstance(each, ast.Constant) and isinstance(each.value, str) else "" for each in parts
    )


def in_shell(text: str) -> Iterator[Words]:
    for match in re.finditer(r"^ *tapestry +((?:[a-z]+ *)+)", text.replace("\\\n", " "), re.MULTILINE):
        yield tuple(match[1].split())


def invoked(names: Iterable[str]) -> dict[str, str]:
    """By command where it is invoked, of those that are."""
    found: dict[str, str] = {}
    wanted = {tuple(name.split()[1:]): name for name in names}
    told = read()
    for module in declared():
        for page, table in declared()[module].items():
            for block in pages.chosen(page, told[page], {page: table}):
                note(found, wanted, in_shell(block.text), f"{module} ({page})")
    for page, module in EARLIER.items():
        for block in blocks(page, told[page]):
            note(found, wanted, in_shell(block.text), f"{module} ({page})")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "docs" not in path.relative_to(ROOT).parts:
            source = path.read_text(encoding="utf-8")
            note(found, wanted, spoken(source), str(path.relative_to(ROOT)))
    return found


def note(found: dict[str, str], wanted: dict[Words, str], said: Iterable[Words], where: str) -> None:
    for words in said:
        for start in range(len(words)):
            for length in (1, 2, 3):
                name = wanted.get(words[start : start + length])
                if name is not None and (start == 0 or length > 1):
                    found.setdefault(name, where)


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    return invoked([*LEAVES, "tapestry core weave", "tapestry weave"])


def test_every_command_is_invoked_by_a_test(known: dict[str, str]) -> None:
    missing = set(LEAVES) - known.keys()
    assert not missing, f"no test invokes {sorted(missing)}"


def test_a_command_that_no_test_invokes_is_found(known: dict[str, str]) -> None:
    """The control."""
    assert not {"tapestry core weave", "tapestry weave"} & known.keys()
