"""Text on one side, network on the other: tried with the very rules an agent starts with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tapestry.host import landlock
from tapestry.host.users import User
from tapestry.node import airlock, settings
from tapestry.node.airlock import Level, level
from tapestry.node.home import Home

TRY = """
import json, os, sys
from pathlib import Path
from tapestry.node import airlock, settings
from tapestry.node.home import Home
def refused(path):
    try:
        os.listdir(path) if path.is_dir() else path.read_bytes()
    except PermissionError:
        return True
    return False
home = Home(Path(sys.argv[1]))
print(json.dumps({
    "reads_text": airlock.reads_text(home, settings.load(home)),
    "refused": {path: refused(Path(path)) for path in sys.argv[2:]},
}))
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Of a node with text, and with what its trainer keeps."""
    text = tmp_path / "text"
    text.mkdir()
    for name in ("train", "valid"):
        (text / f"{name}.txt").write_text("In the beginning was the word. " * 50)
    home = Home(tmp_path / "node")
    home.root.mkdir()
    home.make_folders()
    made = settings.NodeSettings.model_validate(
        {"node": {"member": "fr", "name": "fr-1"}, "training": {"corpus": str(text)}}
    )
    home.settings.write_text(settings.render(made))
    (home.cache / "tokens.bin").write_bytes(b"tokens")
    (home.outputs / "run.1").mkdir()
    (home.outputs / "run.1" / "result.json").write_text("{}")
    home.log("trainer").write_text("a line\n")
    (home.blobs / "blob").write_bytes(b"weights")
    home.canaries.write_text("{}")
    airlock.prepare(home)
    return home


def tried(
    home: Home, rules: list[landlock.Rule], *paths: Path, user: User | None = None
) -> tuple[bool, dict[str, bool]]:
    options = [part for rule in rules for part in ("--only", str(rule))]
    options += [] if user is None else ["--user", str(user)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "tapestry.host.exec",
        *options,
        "--",
        sys.executable,
        "-P",
        "-c",
        TRY,
    ]
    done = subprocess.run(
        [*command, str(home.root), *map(str, paths)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["reads_text"], found["refused"]


@pytest.mark.skipif(landlock.version() < 2, reason="the kernel offers no Landlock")
def test_the_agent_reads_no_text_by_any_path(home: Home, tmp_path: Path) -> None:
    text = tmp_path / "text"
    around = home.root / "egress" / "way-in"
    around.symlink_to(text / "train.txt")
    of_data = [text, text / "train.txt", text / "valid.txt", home.cache / "tokens.bin", home.cache, around]
    of_data += [home.outputs / "run.1" / "result.json", home.outputs, home.log("trainer"), home.canaries]
    own = [home.settings, home.blobs / "blob", home.egress, home.state]
    reads, found = tried(home, airlock.agent_files(home), *of_data, *own)
    assert not reads
    assert [path for path in map(str, of_data) if not found[path]] == []
    assert [path for path in map(str, own) if found[path]] == []
    reads, found = tried(home, [], *of_data)  # the control: without rules it reads all of it
    assert reads and not any(found.values())


def test_text_inside_of_what_the_agent_needs_is_noticed(home: Home) -> None:
    """No rule can keep the agent from its own folders: the level says so."""
    inside = home.state / "text"
    inside.mkdir()
    (inside / "train.txt").write_text("word")
    given = settings.load(home)
    moved = given.model_copy(update={"training": given.training.model_copy(update={"corpus": str(inside)})})
    home.settings.write_text(settings.render(moved))
    reads, _ = tried(home, airlock.agent_files(home))
    assert reads


def test_the_level_is_the_weakest_of_its_parts() -> None:
    assert [level(*each) for each in (("netns", False, 1), ("process", False, 1), (None, False, 1))] == [
        "netns",
        "process",
        "process",
    ]
    assert level("netns", False, 2) == level("process", False, 2) == "site"
    assert level("netns", True, 1) == level("process", True, 2) == "none"
    assert set(get_args(Level)) == {"none", "process", "netns", "site"}
