"""What holds of every command: errors with hints, listed exit codes, colour that can be switched off,
completion. Examples, options and `--json` are held in tests/docs/test_commands.py."""

from __future__ import annotations

import ast
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry import errors
from tapestry.cli import failures
from tests.cli.conftest import Call

ROOT = Path(__file__).parents[2]
CLI = ROOT / "src/tapestry/cli"
TYPED = {name for name, value in vars(errors).items() if isinstance(value, type)}
ARGV = [sys.executable, "-P", "-m", "tapestry.cli.main"]
PLAN = ROOT / "examples" / "plan.toml"


def every(error: type[errors.TapestryError]) -> set[type[errors.TapestryError]]:
    return {error}.union(*(every(child) for child in error.__subclasses__()))


def without_hint(text: str) -> list[int]:
    """Lines that raise an error of the tree and say nothing of what to do."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            if name in TYPED and not any(each.arg == "hint" for each in node.exc.keywords):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(CLI.rglob("*.py")), ids=lambda p: str(p.relative_to(CLI)))
def test_every_error_of_the_command_line_has_a_hint(path: Path) -> None:
    assert without_hint(path.read_text(encoding="utf-8")) == []


def test_an_error_without_a_hint_would_be_found() -> None:
    assert without_hint('raise InputError("x")\n') == [1]
    assert without_hint('raise InputError("x", hint="y")\nraise ValueError("x")\n') == []


@pytest.mark.parametrize(
    "error", sorted(every(errors.TapestryError), key=lambda e: e.code), ids=lambda e: e.code
)
def test_every_kind_of_error_ends_with_a_hint_and_a_listed_code(
    error: type[errors.TapestryError], capsys: pytest.CaptureFixture[str]
) -> None:
    code = failures.report(error("something"))
    err = capsys.readouterr().err.splitlines()
    assert code in failures.EXIT_CODES and err[0] == "error: something"
    if error is not errors.TapestryError:  # never raised itself
        assert len(err) == 2 and err[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("core status nowhere", 2),
        ("core invite nowhere acme", 2),
        ("core init x --tls-key k.pem", 2),
        ("member init m --name A_B!", 2),
        ("member key list nowhere", 2),
        ("node init n --member m --name a --corpus none", 2),
        ("node init n --member m --name a --corpus . --publish x", 2),
        ("node run nowhere", 2),
        ("node join nowhere --member m --core x --invitation y", 4),
        ("run plan none.toml --core nowhere", 2),
        (f"run plan {PLAN} --core nowhere", 2),
        ("run recompute", 2),
        ("run recompute --core a --round 0", 2),
        ("run watch --core a --node b", 2),
        ("run tensorboard --out x", 2),
        ("run export --out x", 2),
        ("ledger verify none", 2),
        ("catalog show none --home nowhere", 2),
        ("charter check none", 2),
        ("bundle verify none", 2),
        ("entitlement verify none", 2),
        ("release fetch none out", 2),
        ("nothing", 2),
        ("run nothing", 2),
    ],
)
def test_typical_mistakes_end_with_a_hint(
    arguments: str, code: int, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = call(*arguments.split())
    assert out == "" and "Traceback" not in err
    lines = err.splitlines()
    assert lines[0].startswith("error: ") and lines[-1].startswith("hint: "), err
    assert got == code, err


def test_the_codes_are_those_of_the_tree_and_of_the_page(call: Call) -> None:
    used = {each.exit_code for each in every(errors.TapestryError)}
    assert set(failures.EXIT_CODES) == {0, 1, 130} | used
    assert set(failures.LAST_HINTS) == used - {1}
    page = (ROOT / "docs/guides/operate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert {int(code): what for code, what in rows} == failures.EXIT_CODES
    _, out, _ = call("--help")
    flat = re.sub(r"\s+", " ", out)
    for number in failures.EXIT_CODES:
        assert re.search(rf"(: |; ){number} [a-z]", flat), number


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    env = {**kept, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen([*ARGV, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    process.wait(30)
    os.close(ours)
    return said.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def test_colour_can_be_switched_off() -> None:
    assert COLOUR.search(on_a_terminal("core", "status", "nowhere"))  # the control
    plain = on_a_terminal("core", "status", "nowhere", NO_COLOR="1")
    assert "error:" in plain and not COLOUR.search(plain)


def test_words_are_completed() -> None:
    environment = {
        **os.environ,
        "_TAPESTRY_COMPLETE": "complete_bash",
        "COMP_WORDS": "tapestry run wa",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(ARGV, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.stdout.split() == ["watch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_for_each_shell(shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    argv = [*ARGV, "--show-completion", shell]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0 and f"_TAPESTRY_COMPLETE=complete_{shell}" in done.stdout
