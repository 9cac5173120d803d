from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.errors import SettingsError
from tapestry.node.home import Home
from tapestry.node.memory import HeadMemory, Memory, OwnContribution


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.make_folders()
    return home


def head(merges: int) -> HeadMemory:
    return HeadMemory(merges=merges, state=f"{merges:064x}", round=merges)


def test_what_is_set_is_there_after_a_restart(home: Home) -> None:
    memory = Memory(home)
    memory.set_head("a", head(0))
    memory.set_head("a", head(1), replayed=1)
    own = OwnContribution(round=2, delta="d" * 64, envelope="{}")
    memory.set("a", contribution=own)
    memory.set_head("b", head(5))
    again = Memory(home)
    assert again["a"].head == head(1)
    assert again["a"].older == (head(0).state,)
    assert (again["a"].replayed, again["a"].contribution) == (1, own)
    assert again["b"].head == head(5)
    assert again["c"].head is None


def test_what_is_noted_is_written_with_the_next_set(home: Home) -> None:
    memory = Memory(home)
    memory.note("a", scored=3)
    assert memory["a"].scored == 3
    assert Memory(home)["a"].scored is None
    memory.set("b", finished=True)
    assert Memory(home)["a"].scored == 3


def test_nothing_new_writes_nothing(home: Home) -> None:
    memory = Memory(home)
    memory.set("a", scored=1)
    before = home.agent_state.stat().st_mtime_ns
    memory.set("a", scored=1)
    assert home.agent_state.stat().st_mtime_ns == before


def test_a_file_that_cannot_be_read_is_not_overwritten(home: Home) -> None:
    home.agent_state.write_bytes(b"{}")
    with pytest.raises(SettingsError, match=r"agent\.json"):
        Memory(home)
    assert home.agent_state.read_bytes() == b"{}"
