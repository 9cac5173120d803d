from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tapestry.errors import Busy, CorpusError, Diverged, FormatError, HashMismatch, ModelError, NotFound
from tapestry.host.files import Lock
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Layout
from tapestry.protocol.messages import Progress
from tapestry.tensors import shards
from tapestry.training import __main__ as entry
from tapestry.training import checkpoint, trainer
from tapestry.training.home import Status, TrainerHome
from tapestry.training.inner import InnerLoop
from tapestry.training.settings import TrainerSettings
from tapestry.training.trainer import Trainer
from tests.cards import give_card

from .support import RUN, Node, Zygote, wait_until

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home")


def make_trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    home.clean()
    return Trainer(home, TrainerSettings.load(node.root), Status(home))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_round_leaves_delta_inner_state_and_result(node: Node) -> None:
    assert make_trainer(node).do(node.job(1))
    result = node.result(1)
    delta = Artifact.from_bytes((node.folder(1) / "delta.json").read_bytes())
    assert delta.digest == result.delta
    delta.check_against(node.layout, kind="delta")
    expected = {"result.json", "delta.json", "inner", *(blob.sha256 for blob in delta.shards)}
    assert set(names(node.folder(1))) == expected
    assert (result.steps, result.tokens) == (6, node.plan.inner.tokens_in(6))
    assert (result.run, result.plan, result.state) == (RUN, node.plan.digest, node.state.digest)
    assert result.loss is not None and 0 < result.loss < 7
    assert result.score is not None and result.score.bits_per_byte == pytest.approx(8, abs=0.1)
    manifest = node.root / "cache" / "manifests" / f"{result.data_manifest}.json"
    assert json.loads(manifest.read_bytes())["files"][0]["path"] == "train.jsonl"
    header = checkpoint.read_header(node.folder(1) / "inner")
    assert (header.round, header.step, header.position) == (1, 6, 12)
    progress = Progress.from_bytes((node.root / "spool/train/progress.json").read_bytes())
    assert (progress.round, progress.step, progress.steps) == (1, 6, 6)
    assert names(node.out) == [f"{RUN}.1"]


def test_the_delta_is_base_minus_local(node: Node) -> None:
    one = make_trainer(node)
    one.do(node.job(1))
    assert one.loaded is not None
    local = {name: p.detach().clone() for name, p in one.loaded.parameters.items()}
    one.loaded.load_base(node.store, node.merged(1, node.state).base)
    for name, parameter in one.loaded.parameters.items():
        assert torch.allclose(parameter, local[name], atol=1e-6), name


def test_rounds_go_on_with_the_inner_state_and_learn(node: Node) -> None:
    one = make_trainer(node)
    state = node.state
    for number in (1, 2, 3):
        one.do(node.job(number, state))
        state = node.merged(number, state)
    one.do(node.job(4, state))
    last = node.result(4)
    assert last.delta is None and last.loss is None and (last.tokens, last.steps) == (0, 0)
    assert names(node.folder(4)) == ["result.json"]
    assert last.score is not None and last.score.bits_per_byte < 6
    assert checkpoint.read_header(node.folder(3) / "inner").optimizer_steps == 18
    assert names(node.out) == [f"{RUN}.2", f"{RUN}.3", f"{RUN}.4"], "retention keeps two"


def test_a_resident_trainer_and_fresh_ones_give_the_same_bytes(node: Node, tmp_path: Path) -> None:
    other = Node.make(tmp_path / "other")
    resident = make_trainer(node)
    state = node.state
    for number in (1, 2, 3):
        resident.do(node.job(number, state))
        make_trainer(other).do(other.job(number, state))
        assert node.fingerprints(number) == other.fingerprints(number)
        state = node.merged(number, state)
        shutil.copytree(node.root / "blobs", other.root / "blobs", dirs_exist_ok=True)


def test_a_round_by_time_ends_after_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is two seconds on at each look."""
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: float(next(now)))
    for seconds, steps in ((9.0, 2), (1e6, 6)):
        inner = node.plan.inner.model_copy(update={"seconds": seconds})
        node.plan = node.plan.model_copy(update={"inner": inner})
        make_trainer(node).do(node.job(1, evaluate=False))
        result = node.result(1)
        assert result.steps <= steps and (seconds < 10 or result.steps == 6)
        assert result.tokens == node.plan.inner.tokens_in(result.steps) > 0
    assert result.steps == 6


def test_a_done_job_is_not_done_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    make_trainer(node).do(node.job(1))
    monkeypatch.setattr(InnerLoop, "step", None)
    assert make_trainer(node).do(node.job(1))


def test_the_same_round_from_another_state_replaces_the_folder(node: Node) -> None:
    one = make_trainer(node)
    one.do(node.job(1))
    first = node.fingerprints(1)
    one.do(node.job(2, node.merged(1, node.state)))
    one.do(node.job(2, node.state))
    assert node.result(2).state == node.state.digest
    one.do(node.job(1, node.merged(1, node.state)))
    assert node.fingerprints(1) != first


def test_a_newer_job_takes_over_in_the_middle_of_a_round(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_trainer(node)
    node.give(node.job(1))
    job = one._next_job()
    assert job == node.job(1)
    real: Callable[..., list[bool]] = InnerLoop.step

    def interrupted(self: InnerLoop, current: Any, *more: Any) -> list[bool]:
        if current.step == 1:
            node.give(node.job(1))  # written again: nothing new
        if current.step == 3:
            node.give(node.job(2))
        return real(self, current, *more)

    monkeypatch.setattr(InnerLoop, "step", interrupted)
    assert not one.do(job)
    assert not node.folder(1).exists()
    assert one._next_job() == node.job(2)


def test_a_broken_inner_state_falls_back_to_the_older_one(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make_trainer(node)
    one.do(node.job(1))
    one.do(node.job(2))
    path = next((node.folder(2) / "inner").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    one.do(node.job(3))
    assert "corrupt" in capsys.readouterr().err
    header = checkpoint.read_header(node.folder(3) / "inner")
    assert header.optimizer_steps == 12, "went on from round 1"


def test_loss_and_delta_must_be_finite(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trainer.make_task

    def broken(*args: Any) -> Any:
        task = real(*args)
        loss = task.loss
        monkeypatch.setattr(task, "loss", lambda model, batch: loss(model, batch) * float("nan"))
        return task

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_task", broken)
        with pytest.raises(Diverged, match="round 1, step 1 is nan") as caught:
            make_trainer(node).do(node.job(1))
        assert "learning_rate" in (caught.value.hint or "")

    stepped: Callable[..., list[bool]] = InnerLoop.step

    def poison(self: InnerLoop, current: Any, loaded: Any, *flags: bool) -> list[bool]:
        found = stepped(self, current, loaded, *flags)
        if current.step == current.plan.inner.steps:
            next(iter(loaded.parameters.values())).data[0] = float("inf")
        return found

    monkeypatch.setattr(InnerLoop, "step", poison)
    with pytest.raises(Diverged, match="not finite"):
        make_trainer(node).do(node.job(1))
    assert not node.folder(1).exists()


def test_what_is_wrong_with_blobs_is_said(node: Node) -> None:
    job = node.job(1)
    with pytest.raises(NotFound):
        make_trainer(node).do(node.job(1, base="0" * 64))
    base = Artifact.from_bytes(node.store.read(node.state.base))
    other = Layout.from_bytes(node.store.read(node.plan.layout)).model_copy(update={"shard_bytes": 1 << 15})
    wrong = base.model_copy(update={"layout": other.digest})
    with pytest.raises(Exception, match="layout"):
        make_trainer(node).do(node.job(1, base=node.store.put(wrong.to_bytes())))
    sha = base.shards[0].sha256
    path = node.root / "blobs" / sha[:2] / sha
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(HashMismatch):
        make_trainer(node).do(job)
    assert path.exists(), "the trainer never writes to blobs/"


def test_what_is_wrong_with_text_and_plan_is_said(node: Node) -> None:
    long = node.plan.model_copy(update={"inner": node.plan.inner.model_copy(update={"sequence_length": 65})})
    with pytest.raises(ModelError, match="max_position_embeddings 64"):
        make_trainer(node).do(node.job(1, plan=long))
    (node.root / "corpus" / "train.jsonl").write_text('{"text": "short"}\n')
    give_card(node.root, node.root / "corpus", replace=True)
    with pytest.raises(CorpusError, match="less than one window"):
        make_trainer(node).do(node.job(1))


def test_a_job_that_does_not_parse(node: Node) -> None:
    one = make_trainer(node)
    node.job_path.parent.mkdir(parents=True, exist_ok=True)
    node.job_path.write_bytes(b"{}")
    with pytest.raises(FormatError):
        one._next_job()


def test_accumulation_is_the_same_as_a_larger_batch(tmp_path: Path) -> None:
    deltas = []
    for name, inner in (("a", {"batch_sequences": 4}), ("b", {"batch_sequences": 2, "accumulation": 2})):
        node = Node.make(tmp_path / name, steps=2, **inner)
        make_trainer(node).do(node.job(1))
        delta = Artifact.from_bytes((node.folder(1) / "delta.json").read_bytes())
        first = (node.folder(1) / delta.shards[0].sha256).read_bytes()
        deltas.append(shards.unpack(node.layout.shards[0], first))
        assert node.result(1).tokens == 2 * 4 * 32
    for name, value in deltas[0].items():
        assert torch.allclose(value, deltas[1][name], atol=2e-3)


def test_leftovers_of_a_dead_trainer_are_removed(node: Node) -> None:
    for name in (f"{RUN}.1.tmp", f"{RUN}.9.old"):
        (node.out / name).mkdir(parents=True)
        (node.out / name / "x").write_text("x")
    make_trainer(node).do(node.job(1))
    assert names(node.out) == [f"{RUN}.1"]


def test_errors_end_the_process_with_their_code_and_are_written_down(node: Node, zygote: Zygote) -> None:
    shutil.rmtree(node.root / "corpus")
    node.give(node.job(1))
    zygote.start(node)
    assert zygote.end(None) == CorpusError.exit_code
    status = node.status()
    assert status["phase"] == "failed" and status["pid"] == zygote.pid
    assert status["error"]["code"] == "corpus" and "does not exist" in status["error"]["message"]
    last = (node.root / "trainer.log").read_text().splitlines()[-1]
    assert json.loads(last) == {"error": status["error"]}


def test_one_home_has_one_trainer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    home = TrainerHome(node.root)
    home.make_folders()
    monkeypatch.setattr(entry, "LOCK_S", 0.1)
    with Lock(home.spool), pytest.raises(Busy, match="in use"):
        entry.held(home)
    entry.held(home).release()


def test_sigterm_writes_a_checkpoint_and_stops(tmp_path: Path, zygote: Zygote) -> None:
    import signal

    node = Node.make(tmp_path / "home", steps=100_000)
    node.give(node.job(1))
    zygote.start(node)
    progress = node.root / "spool/train/progress.json"
    wait_until(lambda: progress.exists() and Progress.from_bytes(progress.read_bytes()).step > 0)
    assert zygote.end(signal.SIGTERM) == 0
    assert node.status()["phase"] == "stopped"
    [folder] = (node.out / f"{RUN}.1.partial").iterdir()
    header = checkpoint.read_header(folder)
    assert header.step == len(header.losses) == int(folder.name) > 0
    zygote.start(node)
    wait_until(lambda: node.status().get("phase") == "training" and node.status()["pid"] == zygote.pid)
    assert node.status()["step"] == header.step
    zygote.end()
