"""`tapestry serve` and `tapestry chat` as a person calls them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import chat
from tapestry.cli.main import call
from tapestry.cli.serve import llama_cpp, told, vllm
from tapestry.sovereign.serve.engine import Engine, TooLong
from tapestry.sovereign.serve.loading import load
from tests import warm
from tests.sovereign.served import TEMPLATE, adapter, make

warm.PRELOAD.extend(["tapestry.cli.main", "tapestry.sovereign.serve.server"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make(folder / "base")
    make(folder / "talks", template=TEMPLATE)
    return folder


def test_one_prompt_is_answered(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", "The ", "--max-tokens", "12", "--seed", "3", "--device", "cpu"]
    assert call(["chat", str(models / "base"), *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["chat"], found["prompt"]) == ("base", False, "The ")
    assert found["completion_tokens"] <= 12
    assert call(["chat", str(models / "base"), *words]) == 0
    assert capsys.readouterr().out == found["answer"] + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json"], "--json needs --prompt"),
        (["--prompt", "a", "--system", "b"], "has no chat template"),
        (["--prompt", "a" * 300], "context length is 256 tokens"),
        (["--prompt", "a", "--adapter", "nowhere"], "cannot read nowhere"),
    ],
)
def test_what_cannot_be_is_said(
    models: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert call(["chat", str(models / "base"), "--device", "cpu", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err


def test_serve_refuses_an_open_address_before_it_loads_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "nowhere", "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "can be reached from other machines" in said
    assert "--token-file" in said


def test_a_conversation_forgets_its_oldest_turns(models: Path) -> None:
    engine = Engine(load(models / "talks", device="cpu"))
    talk = chat.Talk(engine, "Be brief.", max_tokens=20, temperature=0.0, top_p=1.0, seed=1)
    forgotten = []
    for number in range(9):
        assert "".join(talk.say(f"Question {number} of nine", lambda: False)) is not None
        forgotten.append(talk.forgotten)
        assert talk.numbers["prompt_tokens"] < 256
    assert forgotten[0] == 0
    assert sum(forgotten) > 0
    with pytest.raises(TooLong):
        list(talk.say("x" * 300, lambda: False))
    talk.forget()
    list(talk.say("Hello", lambda: False))
    assert talk.forgotten == 0


def test_ctrl_c_stops_the_answer_and_again_the_program() -> None:
    with chat._interruptible() as cancelled:
        assert not cancelled()
        os.kill(os.getpid(), signal.SIGINT)
        assert cancelled()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(models: Path) -> None:
    engine = Engine(load(models / "talks", device="cpu"))
    talk = chat.Talk(engine, None, max_tokens=50, temperature=0.0, top_p=1.0, seed=1)
    pieces: list[str] = []
    for piece in talk.say("Hello", lambda: len(pieces) > 4):
        pieces.append(piece)
    assert talk.numbers["finish_reason"] == "interrupted"
    assert talk._turns[-1]["content"] == "".join(pieces)


def test_it_names_programs_for_load(models: Path, tmp_path: Path) -> None:
    served = load(models / "base", device="cpu")
    assert vllm(served).startswith(f"vllm serve {models / 'base'} --served-model-name base --host 127.0.0.1")
    assert llama_cpp(served) is None
    folder = adapter(tmp_path / "adapter", models / "base", rank=4)
    adapted = load(models / "base", folder, device="cpu")
    assert f"--enable-lora --lora-modules base-adapted={folder} --max-lora-rank 8" in vllm(adapted)
    (tmp_path / "build" / "export").mkdir(parents=True)
    (tmp_path / "build" / "export" / "model.gguf").touch()
    built = load(make(tmp_path / "build" / "model"), device="cpu")
    assert f"llama-server -m {tmp_path / 'build' / 'export' / 'model.gguf'}" in (llama_cpp(built) or "")
    assert any("curl" in line for line in told(served, "http://127.0.0.1:1", protected=True))


def started(folder: Path, *words: str, prepare: Sequence[str] = ()) -> warm.Warm:
    """A process of its own that writes errors to a file in the folder."""
    command = [sys.executable, "-P", "-m", *words]
    return warm.start(
        command, log=folder / "log", environment=dict(os.environ), prepare=prepare, pipes=True, bound=True
    )


def test_served_from_the_command_line(models: Path, tmp_path: Path) -> None:
    """Asked as `curl` would, then told to stop."""
    import openai

    words = ("serve", str(models / "talks"), "--port", "0", "--device", "cpu", "--json")
    process = started(tmp_path, "tapestry.cli.main", *words)
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            text = b""
            while not text.endswith(b"}\n") and (line := process.stdout.readline()):
                text += line
            found = json.loads(text)
            assert found["base_url"] == found["url"] + "/v1"
            with openai.OpenAI(base_url=found["base_url"], api_key="none") as client:
                hello: Any = [{"role": "user", "content": "a secret of ours"}]
                said = client.chat.completions.create(model=found["model"], messages=hello, max_tokens=5)
                assert said.usage is not None
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stdout.read() == b""
        finally:
            process.kill()
    err = (tmp_path / "log").read_text()
    assert "outcome=whole" in err
    assert "secret" not in err


def test_it_works_on_an_island(models: Path, tmp_path: Path) -> None:
    """Endpoint and chat in a network namespace with nothing in it but its own loopback."""
    process = started(tmp_path, "tests.cli.island", str(models / "base"), prepare=["--isolate"])
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        said = process.stdout.read().decode()
        assert process.wait(30) == 0, (tmp_path / "log").read_text()
    level, status, *_, code = said.split()
    if level != "netns":
        pytest.skip("this kernel gives no network namespaces")
    assert (status, code) == ("200", "0")
