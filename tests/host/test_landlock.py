"""Files kept from a process, tried with real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.host import landlock
from tapestry.host.landlock import Rule

pytestmark = pytest.mark.skipif(landlock.version() < 2, reason="the kernel offers no Landlock")

TRY = """
import errno, json, os, sys
def tried(what):
    try:
        what()
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.EXDEV), error  # a link says the second
        return "refused"
    return "done"
folder = sys.argv[1]
found = {}
for name in ("open", "shut", "in"):
    path = f"{folder}/{name}"
    found[name] = [
        tried(lambda: open(f"{path}/file").close()),
        tried(lambda: os.listdir(path)),
        tried(lambda: open(f"{path}/new", "w").close()),
        tried(lambda: os.link(f"{path}/file", f"{folder}/in/link-{name}")),
    ]
print(json.dumps(found))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("open", "shut", "in"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    return tmp_path


def tried(folder: Path, *rules: Rule) -> dict[str, list[str]]:
    """What a process can do that is started with these rules; without any it may do all."""
    options = [part for rule in rules for part in ("--only", str(rule))]
    command = [sys.executable, "-P", "-m", "tapestry.host.exec", *options, "--", sys.executable, "-c", TRY]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_process_touches_what_its_rules_name_and_nothing_else(folder: Path) -> None:
    programs = [
        Rule(Path(each), "r") for each in ("/usr", "/lib", "/lib64", "/etc", sys.prefix, sys.base_prefix)
    ]
    programs += [Rule(Path(each), "r") for each in sys.path if each]
    found = tried(folder, *programs, Rule(folder / "open", "r"), Rule(folder / "in", "rw"))
    assert found["open"] == ["done", "done", "refused", "refused"]
    assert found["shut"] == ["refused"] * 4
    assert found["in"] == ["done"] * 4
    (folder / "in" / "link-in").unlink()
    free = tried(folder)  # the control
    assert all(each == ["done"] * 4 for each in free.values())


def test_rules_are_written_and_read() -> None:
    for rule in (Rule(Path("/usr"), "r"), Rule(Path("/a:b"), "rw"), Rule(Path("x"), "w")):
        assert Rule.parse(str(rule)) == rule
    for text in ("", "r", "x:/usr", "r:"):
        with pytest.raises(ValueError, match="is not r:PATH"):
            Rule.parse(text)
