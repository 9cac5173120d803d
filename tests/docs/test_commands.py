"""Every command that a page, an example or a hint names exists, with the options it gives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tapestry.cli.main import app

ROOT = Path(__file__).parents[2]
ROOT_COMMAND: Any = typer.main.get_command(app)
LINE = re.compile(r"^\s*(?:\$ )?((?:[A-Z_]+=\S+ )*tapestry [a-z-].*)$")
INLINE = re.compile(r"`(tapestry [a-z][^`]*)`")
NOT_A_COMMAND = re.compile(r"[|…]|\.\.\.$")


def pages() -> list[Path]:
    found = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").rglob("*")),
    ]
    return [p for p in found if p.is_file()]


def commands(text: str) -> Iterator[str]:
    """Shell lines that begin with tapestry (continued ones joined), and such words in backquotes."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if (match := LINE.match(line.lstrip("#"))) and not NOT_A_COMMAND.search(match[1]):
            yield match[1]
    for match in INLINE.finditer(joined):
        if not NOT_A_COMMAND.search(match[1]):
            yield match[1]


def check(line: str) -> None:
    """Fails unless the commands exist and each option is one of theirs."""
    words = shlex.split(line.split(" | ")[0].split(" > ")[0].split(" & ")[0].removesuffix("&"), comments=True)
    words = words[words.index("tapestry") + 1 :]
    command = ROOT_COMMAND
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        default = getattr(command, "default", None)
        assert words[0] in command.commands or default, f"{line!r}: no command {words[0]!r}"
        command = command.commands[words.pop(0) if words[0] in command.commands else default]
    options = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)} | {
        "--help",
        "-h",
    }
    for word in words:
        if word.startswith("-") and word != "-":
            name = word.split("=")[0]
            assert name in options, f"{line!r}: {command.name} has no option {name}"


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_on_a_page_exists(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        check(line)


def test_every_command_in_a_hint_exists() -> None:
    for path in sorted((ROOT / "src").rglob("*.py")):
        for match in re.finditer(
            r"(?:with|run|:) ?:? (tapestry [a-z]+(?: [a-z]+)*)", path.read_text(encoding="utf-8")
        ):
            if match[1].split()[1] in ROOT_COMMAND.commands:
                check(" ".join(match[1].split()[:3]))


def leaves(command: Any, path: tuple[str, ...] = ("tapestry",)) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield " ".join(path), command


LEAVES = dict(leaves(ROOT_COMMAND))


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_an_example_that_is_right(name: str) -> None:
    text = LEAVES[name].help or ""
    examples = re.findall(r"^(?:Examples?: )?(tapestry .*)$", text, re.MULTILINE)
    assert examples, f"{name} has no example in its help"
    assert "Example" in text
    for example in examples:
        assert example.startswith(name), f"{name} shows {example}"
        check(example)


@pytest.mark.parametrize("name", LEAVES)
def test_no_word_of_a_help_is_taken_for_a_style(name: str) -> None:
    """The help is rich markup, in which `[rounds]` is a style and shows nothing."""
    assert not re.search(r"(?<!\\)\[[a-z]", LEAVES[name].help or "")


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_is_explained(name: str) -> None:
    for param in LEAVES[name].params:
        if param.name != "help":
            assert getattr(param, "help", None), f"{name} {param.name}"


def test_the_commands_are_those_of_the_design() -> None:
    assert set(LEAVES) == {
        f"tapestry {name}"
        for name in (
            "demo", "rehearse", "chat", "serve", "web login", "doctor", "ledger export", "ledger verify",
            "core init", "core serve", "core status", "core invite", "core backup",
            "core restore", "core recover",
            "member init", "member key rotate", "member key revoke", "member key list",
            "node init", "node join", "node run", "node status", "node script", "node endorse",
            "node egress list", "node egress pending", "node egress approve", "node egress refuse",
            "node canaries plant", "node canaries search", "node leakage",
            "node export", "node leave", "node evidence", "bundle verify",
            "run plan", "run start", "run status", "run revise", "run export", "run recompute",
            "run withdraw", "run estimate", "run watch", "run tensorboard",
            "catalog add", "catalog list", "catalog search", "catalog show", "catalog check",
            "catalog coverage", "catalog publish", "catalog revoke", "catalog curate",
            "charter check", "charter explain", "charter sign", "charter adopt",
            "pledge new", "pledge list", "pledge confirm", "phase status",
            "account show", "account statement", "account dispute",
            "entitlement list", "entitlement make", "entitlement sign", "entitlement verify",
            "member key vote", "member key release", "proposal new", "proposal list", "proposal show", "vote",
            "build init", "build run", "build resume", "build status",
            "eval", "build constitution init", "build constitution check", "build constitution pairs",
            "build export", "build port", "build rebase", "build gain",
            "build publish", "build list", "build show", "build tree",
            "release propose", "release sign", "release publish", "release renew", "release fetch",
        )
    }  # fmt: skip


def test_machines_can_read_what_they_would_want() -> None:
    without = {"tapestry core serve", "tapestry node run"}
    for name, command in LEAVES.items():
        has = any("--json" in param.opts for param in command.params)
        assert has != (name in without), name
