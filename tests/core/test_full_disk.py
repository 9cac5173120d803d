"""What the operator is told while the core's disk is full."""

from __future__ import annotations

from pathlib import Path

from tests.full_disk import FILL, run_on_small_disk

CODE = (
    FILL
    + """
from tapestry.core import operator
from tapestry.host.files import wait_for
from tests.core.support import CoreUnderTest, make_plan, shards

def told(): return operator.view(core.root, 'run').waiting_for

plan = make_plan(disk.with_name('made'))
core = CoreUnderTest(disk / 'core').start()
ada, bob = core.running(plan, disk.with_name('made'), 'ada', 'bob')
ada.hand_in(plan, 0.5)
print(told())
fill()
print(bob.put(shards(0.25)[0]).status_code, told())
seen = (bob.view().waiting_for, operator.status(core.root)['runs'][0]['waiting_for'])
print(*(text.startswith('the core: no space left') for text in seen))  # what was last written may change
free()
again = bob.put(shards(0.25)[0]).status_code
wait_for(lambda: told().startswith('contributions'), timeout_s=30)  # what failed before is tried again soon
print(again, told())
bob.hand_in(plan, 0.25)
print(bob.wait(lambda v: v.head.merges == 1).head.merges)
core.close()
"""
)


def test_the_operator_is_told_of_a_full_disk(tmp_path: Path) -> None:
    before, full, same, after, merges = run_on_small_disk(tmp_path, CODE, kib=2048).splitlines()
    assert before == "contributions of bob-1"
    assert full.startswith("507 the core: no space left")
    assert same == "True True"
    assert after == "200 contributions of bob-1"
    assert merges == "1"
