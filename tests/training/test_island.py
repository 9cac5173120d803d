"""One node's model on several ranks: real processes under torchrun, real collectives."""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tapestry.errors import HashMismatch, OutOfMemory
from tapestry.host.processes import pid_alive
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.messages import Progress
from tapestry.tensors import shards
from tapestry.training import checkpoint, launcher

from .ranks import main as ranks_main
from .support import RUN, Node, wait_until
from .test_trainer import make_trainer

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.training.ranks"])


class Forked:
    """Ranks as torchrun starts them, but forked from a process that has imported torch."""

    def __init__(self, ranks: int, log: Path, *argv: str) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = str(sock.getsockname()[1])
        self.processes = []
        for rank in range(ranks):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
            told = {name: str(value) for name, value in place.items()}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}
            told |= {name: value for name, value in launcher.environment(1).items() if value is not None}
            process = FORKS.Process(target=ranks_main, args=(told, log, argv), daemon=True)
            process.start()
            self.processes.append(process)

    def wait(self, timeout_s: float = 90.0) -> list[int | None]:
        """Exit codes, in the order of ranks."""
        for process in self.processes:
            process.join(timeout_s)
        return [process.exitcode for process in self.processes]

    def terminate(self) -> list[int | None]:
        for process in self.processes:
            process.terminate()
        return self.wait()


def run_ranks(ranks: int, *argv: str, root: Path) -> None:
    """Run `tests.training.ranks` on so many ranks; its output goes to `root`."""
    log = root / "ranks.log"
    assert set(Forked(ranks, log, *argv).wait()) == {0}, log.read_text()[-3000:]


def environment(**more: str) -> dict[str, str]:
    variables = {
        **os.environ,
        **launcher.environment(1),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **more,
    }
    variables.pop("PYTHONSAFEPATH", None)
    return {name: value for name, value in variables.items() if value is not None}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `tests.training.ranks` has measured on one, two and three ranks, the larger ones last."""
    root = tmp_path_factory.mktemp("ranks")
    Node.make(root / "home", batch_sequences=5)
    run_ranks(1, "measure", str(root), root=root)
    run_ranks(2, "measure", str(root), root=root)
    run_ranks(3, "reload", str(root), "2", root=root)
    run_ranks(1, "reload", str(root), "2", root=root)
    return root


@pytest.fixture(scope="module")
def measured(root: Path) -> dict[int, dict[str, Any]]:
    return {ranks: torch.load(root / f"measured-{ranks}.pt", weights_only=True) for ranks in (1, 2)}


@pytest.mark.parametrize("case", ["plain", "few-at-once", "recomputed", "tied", "untied", "accumulated"])
def test_gradients_on_many_ranks_are_those_on_one(measured: dict[int, dict[str, Any]], case: str) -> None:
    one, many = measured[1]["gradients"][case], measured[2]["gradients"][case]
    assert one.keys() == many.keys() and len(one) > 10
    for name, gradient in one.items():
        assert torch.allclose(many[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max())), name


def test_the_comparison_would_see_a_wrong_gradient(measured: dict[int, dict[str, Any]]) -> None:
    one, wrong = measured[1]["gradients"]["plain"], measured[2]["gradients"]["one rank's rows only"]
    assert not any(torch.allclose(wrong[name], one[name], rtol=1e-3) for name in one)


def test_scores_deltas_and_steps_are_those_of_one_rank(measured: dict[int, dict[str, Any]]) -> None:
    one, many = measured[1], measured[2]
    assert many["score"] == pytest.approx(one["score"], rel=1e-6)
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for name, change in one["delta"].items():
        assert torch.allclose(many["delta"][name], change, rtol=2e-2, atol=2e-4), name


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_a_state_is_read_by_another_number_of_ranks(
    root: Path, measured: dict[int, dict[str, Any]], readers: int
) -> None:
    """Every row of every moment, bit by bit; two ranks read what one wrote, and the others what two did."""
    writers = 1 if readers == 2 else 2
    again = torch.load(root / f"reloaded-{writers}-{readers}.pt", weights_only=True)
    for name, value in measured[writers]["moments"].items():
        assert torch.equal(again[name], value), name
    assert any(float(value.abs().max()) > 0 for value in again.values())


def test_bf16_passes_keep_fp32_parameters(measured: dict[int, dict[str, Any]]) -> None:
    for ranks in (1, 2):
        found = measured[ranks]["bf16"]
        assert found["types"] == ["torch.float32"]
        assert found["loss"] == pytest.approx(measured[1]["losses"][0], rel=2e-2)
        assert found["loss"] != measured[1]["losses"][0], "the passes were not in bf16"


def start(node: Node, ranks: int, **env: str) -> subprocess.Popen[bytes]:
    with (node.root / "trainer.log").open("ab") as log:
        command = launcher.command(node.root, ranks)
        return subprocess.Popen(
            command, env=environment(**env), stdout=log, stderr=log, start_new_session=True
        )


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(40) is not None


def done(node: Node, number: int) -> bool:
    return (node.folder(number) / "result.json").exists()


def deltas(node: Node, number: int) -> dict[str, torch.Tensor]:
    delta = Artifact.from_bytes((node.folder(number) / "delta.json").read_bytes())
    found: dict[str, list[torch.Tensor]] = {}
    for shard, blob in zip(node.layout.shards, delta.shards, strict=True):
        for name, rows in shards.unpack(shard, (node.folder(number) / blob.sha256).read_bytes()).items():
            found.setdefault(name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in found.items()}


def workers(node: Node) -> list[int]:
    """The ranks of the trainer that runs, by their log lines."""
    lead = node.status().get("worker")
    if not lead or not pid_alive(lead):
        return []
    parent = Path(f"/proc/{lead}/stat").read_text().rpartition(")")[2].split()[1]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children]


@pytest.mark.usefixtures("one_thread")
def test_a_dead_rank_does_not_lose_the_round(tmp_path: Path) -> None:
    """Killed in the middle of a round, started on two ranks again and later on one."""
    node = Node.make(tmp_path / "home", steps=30, checkpoint_s=0.05)
    node.give(node.job(1))
    died = {"TAPESTRY_FAILPOINT": "trainer.step:15", "TAPESTRY_FAILPOINT_ONCE": str(tmp_path / "died")}
    process = start(node, 2, **died)
    assert process.wait(60) != 0, "torchrun ends when a rank is killed"
    [folder] = [path for path in (node.out / f"{RUN}.1.partial").iterdir() if path.suffix != ".tmp"]
    header = checkpoint.read_header(folder)
    assert header.ranks == 2 and 0 < header.step <= 15
    assert "exitcode  : -9" in (node.root / "trainer.log").read_text()
    process = start(node, 2)
    wait_until(lambda: done(node, 1))
    assert "checkpoint passed over" not in (node.root / "trainer.log").read_text()
    assert node.result(1).environment["ranks"] == "2"
    whole = Node.make(tmp_path / "whole", steps=30)
    whole.give(whole.job(1))
    end(process)
    forked = Forked(2, whole.root / "trainer.log", "train", str(whole.root))
    wait_until(lambda: done(whole, 1))
    assert (
        node.fingerprints(1).items()
        >= {name: value for name, value in whole.fingerprints(1).items() if name != "state.json"}.items()
    )
    forked.terminate()
    node.give(node.job(2, node.merged(1, node.state)))
    one = make_trainer(node)
    assert (job := one._next_job()) is not None
    assert one.do(job), "on one rank"
    assert checkpoint.read_header(node.folder(2) / "inner").optimizer_steps == 60


def test_a_rank_that_fails_says_why_and_sigterm_stops_all(tmp_path: Path) -> None:
    node = Node.make(tmp_path / "home", steps=100_000)
    node.give(node.job(1))
    process = start(node, 2)
    progress = node.root / "spool/train/progress.json"
    wait_until(lambda: progress.exists() and Progress.from_bytes(progress.read_bytes()).step > 0)
    ranks = workers(node)
    assert len(ranks) == 2
    end(process)
    assert node.status()["phase"] == "stopped"
    [folder] = (node.out / f"{RUN}.1.partial").iterdir()
    assert checkpoint.read_header(folder).ranks == 2
    wait_until(lambda: not any(pid_alive(pid) for pid in ranks))
    # A blob that the second rank reads is damaged: it says so, and the node's status has it.
    base = Artifact.from_bytes(node.store.read(node.state.base))
    sha = base.shards[1].sha256
    path = node.root / "blobs" / sha[:2] / sha
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    codes = Forked(2, node.root / "trainer.log", "train", str(node.root)).wait()
    assert codes == [HashMismatch.exit_code] * 2
    assert node.status()["error"]["code"] == HashMismatch.code, node.status()
    assert sha in node.status()["error"]["message"]


def test_too_little_memory_on_a_rank_is_a_clear_error(tmp_path: Path) -> None:
    node = Node.make(tmp_path / "home", batch_sequences=512, sequence_length=64)
    forked = Forked(2, node.root / "trainer.log", "train", str(node.root))
    wait_until(lambda: node.status().get("phase") == "waiting")
    second = forked.processes[1].pid
    assert second is not None
    text = Path(f"/proc/{second}/status").read_text()
    limit = (int(text.split("VmData:")[1].split()[0]) << 10) + (24 << 20)
    resource.prlimit(second, resource.RLIMIT_DATA, (limit, limit))
    node.give(node.job(1))
    assert forked.wait() == [OutOfMemory.exit_code] * 2
    error = node.status()["error"]
    assert (error["code"], error["message"]) == ("out-of-memory", "rank 1 ran out of memory")
    assert "sequences_at_once" in error["hint"]
