"""A core that was restored from a backup of the middle of a round lacks what it has receipted since."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tapestry.cli import replicas
from tapestry.core import backup as backups
from tapestry.core import operator, settings
from tapestry.core.recover import recover
from tapestry.core.service import Core
from tapestry.node.kept import Verified
from tapestry.training.spool import TrainJob
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest, wait_until


def test_what_the_core_has_lost_its_nodes_give_back(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    """Neither is it trained again, nor is the round stuck for want of it."""
    toml = core.root / "core.toml"  # at the same address again
    toml.write_text(toml.read_text().replace("port = 0", f"port = {core.url.rsplit(':', 1)[1]}"))
    plan = make_plan(tmp_path / "seed", total=1, min_nodes=2, quorum=2)
    operator.plan(core.root, plan, tmp_path / "seed")
    operator.start(core.root, "run")
    copied: list[bool] = []
    restored: list[bool] = []

    def after(happened: list[bool], value: float) -> Callable[[TrainJob], list[bytes]]:
        def make(job: TrainJob) -> list[bytes]:
            wait_until(lambda: happened)
            return shards(value)

        return make

    quick = make_node("fr").start(make=after(copied, 1.0))
    slow = make_node("de").start(make=after(restored, 2.0))
    wait_until(lambda: operator.view(core.root, "run").current)
    backups.backup(core.root, tmp_path / "copy")
    copied.append(True)
    wait_until(lambda: "contribution-receipted" in quick.log())
    core.kill()
    shutil.rmtree(core.root)
    backups.restore(tmp_path / "copy", core.root)
    core.start()
    wait_until(lambda: '"behind"' in quick.log())
    if _ledger_ahead(quick, core):
        core.kill()
        recover(core.root, [replicas.of_node(quick.home.root)], settings.make(port=0))
        core.start()
    restored.append(True)
    assert quick.wait() == 0 and slow.wait() == 0, quick.log()
    assert operator.view(core.root, "run").head.merges == 1
    assert quick.trainer is not None
    assert [job.round for job in quick.trainer.jobs if job.train] == [1]


def _ledger_ahead(node: NodeUnderTest, core: CoreUnderTest) -> bool:
    """Whether the node holds what the core has lost; else it has but the receipt, and sends it again."""
    kept = Verified.from_bytes((node.home.ledger / "verified.json").read_bytes())
    with Core.open(core.root) as opened:
        return kept.entries > opened.journal.tree_head()[0]
