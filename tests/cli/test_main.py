"""What every command keeps to: fast, lazy, clear errors, data apart from messages."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry import __version__
from tapestry.cli import main
from tests.cli.conftest import Call

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "examples" / "plan.toml"
HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "httpx",
    "sqlalchemy",
    "fastapi",
    "uvicorn",
    "matplotlib",
    "obstore",
)
HELP_S = 0.5


def tapestry(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tapestry.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, tapestry.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_is_fast() -> None:
    """In processor time, which others on the machine change little; benchmarks/cli.py takes wall time."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = tapestry("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        assert "tapestry demo" in done.stdout
    assert min(times) < HELP_S


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"tapestry {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["nothing"], 2, "no such command 'nothing'"),
        (["core", "init"], 2, "missing argument 'HOME'"),
        (["core", "init", "x", "--port", "70000"], 2, "less than or equal to 65535"),
        (["core", "init", "x", "--tls-key", "k.pem"], 2, "a certificate needs its key"),
        (["core", "status", "nowhere"], 2, "nowhere is not a core's home"),
        (["core", "invite", "nowhere", "acme"], 2, "nowhere is not a core's home"),
        (["core", "serve", "nowhere"], 2, "nowhere is not a core's home"),
        (["member", "init", "m", "--name", "A B"], 2, "cannot be a member's name"),
        (["member", "key", "list", "nowhere"], 2, "nowhere is not a node's home"),
        (["member", "key", "rotate", "nowhere", "--member", "m"], 2, "nowhere is not a node's home"),
        (
            ["member", "key", "revoke", "nowhere", "--member", "m", "--reason", "bored"],
            2,
            "'bored' is no reason",
        ),
        (
            ["node", "init", "n", "--member", "m", "--name", "a", "--corpus", "none"],
            2,
            "none is not a folder",
        ),
        (
            ["node", "init", "n", "--member", "m", "--name", "a", "--corpus", ".", "--publish", "x"],
            2,
            "--publish 'x'",
        ),
        (
            ["node", "init", "n", "--member", "m", "--name", "a", "--corpus", "."],
            2,
            "m is not a member's folder",
        ),
        (["node", "run", "nowhere"], 2, "nowhere is not a node's home"),
        (["node", "status", "nowhere"], 2, "nowhere is not a node's home"),
        (["node", "egress", "nowhere"], 2, "nowhere is not a node's home"),
        (["run", "plan", "none.toml", "--core", "nowhere"], 2, "cannot read none.toml"),
        (["run", "plan", str(PLAN), "--core", "nowhere"], 2, "nowhere is not a core's home"),
        (["run", "revise", str(PLAN), "--core", "nowhere"], 2, "nowhere is not a core's home"),
        (["run", "start", "--core", "nowhere"], 2, "nowhere is not a core's home"),
        (["run", "status", "--core", "nowhere"], 2, "nowhere is not a core's home"),
        (["run", "withdraw", "a", "--core", "nowhere"], 2, "nowhere is not a core's home"),
        (["run", "recompute"], 2, "give either --core HOME or --node HOME"),
        (["run", "recompute", "--core", "a", "--node", "b"], 2, "give either --core HOME or --node HOME"),
        (["run", "recompute", "--core", "a", "--round", "0"], 2, "neither a number from 1 on nor all"),
        (["run", "recompute", "--node", "nowhere"], 2, "nowhere is not a node's home"),
        (["run", "export", "--out", "x"], 2, "give either --core HOME or --node HOME"),
        (["demo", "--nodes", "0"], 2, "greater than or equal to 1"),
        (["demo", "--corpora", "none"], 2, "none is not a folder"),
        (["demo", "--out", "."], 2, ". exists and holds no demo"),
    ],
    ids=lambda value: " ".join(Path(v).name for v in value) if isinstance(value, list) else None,
)
def test_bad_input_has_one_clear_error(
    arguments: list[str],
    exit_code: int,
    said: str,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "something").write_text("mine")
    monkeypatch.chdir(folder)
    code, out, err = call(*arguments)
    assert code == exit_code, err
    assert out == ""
    first, *rest = err.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert all(line.startswith("hint: ") for line in rest)
    assert sorted(p.name for p in folder.iterdir()) == ["something"], (
        "a refused command left something behind"
    )


def test_no_command_shows_the_help(call: Call) -> None:
    code, out, err = call()
    assert code == 2
    assert "demo" in out + err


def test_an_error_of_a_real_process(tmp_path: Path) -> None:
    done = tapestry("core", "status", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} is not a core's home")
    assert "\nhint: make one with: tapestry core init\n" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """As after `pip install .` alone."""
    code = (
        "import sys\n"
        "for name in ('httpx', 'sqlalchemy', 'torch'): sys.modules[name] = None\n"
        "from tapestry.cli import main\n"
        f"sys.exit(main.call(['core', 'init', {str(tmp_path / 'c')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: this command needs the package sqlalchemy, which is not installed" in done.stderr
    assert "pip install 'tapestry[core]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_exception_is_no_traceback(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapestry.core import operator

    def broken(_: Path) -> dict[str, Any]:
        raise ZeroDivisionError("so it goes")

    monkeypatch.setattr(operator, "status", broken)
    code, out, err = call("core", "status", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: unexpected ZeroDivisionError: so it goes\nhint: the traceback is in ")
    assert "Traceback" not in err
    (log,) = (tmp_path / "state" / "tapestry").iterdir()
    assert "in broken" in log.read_text()


def test_interrupted_is_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapestry.core import operator

    def interrupted(_: Path) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(operator, "status", interrupted)
    code, out, err = call("core", "status", "x")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_colour_only_where_it_is_wanted() -> None:
    assert "\x1b[" in tapestry("nothing", FORCE_COLOR="1", NO_COLOR="", TERM="xterm").stderr
    assert "\x1b[3" not in tapestry("nothing", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm").stderr


def test_data_goes_to_stdout_and_words_to_stderr(call: Call, tmp_path: Path) -> None:
    code, out, err = call("core", "init", tmp_path / "c", "--title", "First")
    assert code == 0
    assert len(out) == 65
    assert "next: tapestry core serve" in err
    code, out, _ = call("core", "status", tmp_path / "c")
    assert "First" in out
    code, out, _ = call("core", "status", tmp_path / "c", "--json")
    assert json.loads(out)["title"] == "First"
    assert call("core", "init", tmp_path / "c")[0] == 2
    code, token, _ = call("core", "invite", tmp_path / "c", "acme")
    assert len(token.strip()) >= 16
    assert call("core", "invite", tmp_path / "c", "Not A Name")[0] == 2
    assert "acme" in call("core", "status", tmp_path / "c")[1]
    assert call("run", "status", "--core", tmp_path / "c")[0] == 5


def test_a_node_that_has_joined_nothing(call: Call, tmp_path: Path) -> None:
    member, node = tmp_path / "m", tmp_path / "n"
    (tmp_path / "text").mkdir()
    assert call("member", "init", member, "--name", "acme")[0] == 0
    assert call("member", "init", member, "--name", "acme")[0] == 5
    init = ("node", "init", node, "--member", member, "--name", "acme-1", "--corpus", tmp_path / "text")
    assert call(*init)[0] == 0
    assert call(*init)[0] == 5
    code, out, _ = call("node", "status", node)
    assert code == 0
    assert "none; join one with: tapestry node join" in out
    assert "not running" in out
    assert json.loads(call("node", "status", node, "--json")[1])["running"] is False
    assert json.loads(call("node", "egress", node, "--json")[1]) == {"egress": []}
    for command in (["node", "run", node], ["member", "key", "list", node]):
        code, out, err = call(*command)
        assert (code, out) == (2, "")
        assert "has not joined a consortium" in err
    code, _, err = call("run", "export", "--node", node, "--out", tmp_path / "x")
    assert code == 5
    assert "tapestry node join" in err
    join = ("node", "join", node, "--member", member, "--core")
    assert call(*join, "http://127.0.0.1:1", "--invitation", "a" * 32)[0] == 7
    assert call(*join, "not a url", "--invitation", "a" * 32)[0] == 2
    assert call(*join, "http://127.0.0.1:1", "--invitation", "short")[0] == 4


def test_a_port_in_use(call: Call, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert call("core", "init", tmp_path / "c", "--port", port)[0] == 0
        done = tapestry("core", "serve", tmp_path / "c")
    assert done.returncode == 6
    assert f"{port}" in done.stderr.splitlines()[0]
    assert done.stderr.startswith("error: ")


def test_a_core_stops_when_it_is_asked(call: Call, tmp_path: Path) -> None:
    call("core", "init", tmp_path / "c", "--port", 0)
    command = [sys.executable, "-P", "-m", "tapestry.cli.main", "core", "serve", str(tmp_path / "c")]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
            assert serving.stdout is not None and serving.stderr is not None
            assert "http://127.0.0.1:" in serving.stdout.readline()
            busy, _, err = call("core", "serve", tmp_path / "c")
            assert busy == 6, err
            serving.send_signal(number)
            assert serving.wait(20) in (0, main.INTERRUPTED)
            assert "Traceback" not in serving.stderr.read()


def test_settings_in_examples_are_what_init_writes() -> None:
    """But for the mirrors of the ledger, which the examples show."""
    from tapestry.core import settings as core_settings
    from tapestry.node import settings as node_settings

    core = ROOT / "examples" / "core.toml"
    tls = {"certificate": "server.pem", "key": "server.key"}
    given = core_settings.parse(core.read_text(), core)
    usual = core_settings.make(tls=tls)
    assert given.ledger.mirror and given.model_copy(update={"ledger": usual.ledger}) == usual
    assert core.read_text().partition("\n[ledger]")[0].rstrip() == core_settings.render(usual).rstrip()
    node = ROOT / "examples" / "node.toml"
    ours = node_settings.parse(node.read_text(), node)
    made = node_settings.make(member="acme", name="acme-1", corpus="text", threads=2)
    assert ours.ledger.mirrors and ours.model_copy(update={"ledger": made.ledger}) == made
    assert node.read_text().partition("\n[ledger]")[0].rstrip() == node_settings.render(made).rstrip()
