"""The agent under a user of its own: tried with real processes, and once in a whole run, without Landlock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tapestry
from tapestry.errors import SettingsError
from tapestry.host import landlock, processes
from tapestry.host.users import User, ask
from tapestry.identity.envelope import Envelope
from tapestry.node import agent_user, airlock, keys, member, settings, setup
from tapestry.node.home import Home
from tapestry.node.status import node_status
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Merge
from tests.federation.support import Federation
from tests.node.test_airlock import tried

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: nobody else can start a process as another user"
)
NOBODY = User(54321, 54321)
"""A number without a name, as containers have them."""


@pytest.fixture(autouse=True)
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that every user may start, which this one is not if it lies in root's own folder."""
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    found = [each for each in (sys.executable, system) if ask(NOBODY, partial(os.access, each, os.X_OK))]
    if not found:
        pytest.skip("no Python of this version lies where another user may start it")
    near = [str(Path(tapestry.__file__).parents[1]), *(each for each in sys.path if "site-packages" in each)]
    monkeypatch.setattr(sys, "executable", found[0])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(near))
    monkeypatch.chdir("/")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder which, unlike pytest's own, every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="tapestry-user-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def made(place: Path, user: str | None = str(NOBODY.uid)) -> Home:
    """A node as `tapestry node init` makes it, with text that root alone reads."""
    text = place / "text"
    text.mkdir(exist_ok=True)
    for name in ("train", "valid"):
        (text / f"{name}.txt").write_text("In the beginning was the word. " * 50)
    text.chmod(0o700)
    member.member_init(place / "member", "fr")
    return setup.init(place / "node", place / "member", "fr-1", text, agent_user=user)


def test_that_user_reads_no_text_and_all_that_is_its_own(place: Path) -> None:
    """Without Landlock. Root is the control."""
    home, text = made(place), place / "text"
    (home.cache / "tokens.bin").write_bytes(b"tokens")
    (home.outputs / "run.1").mkdir()
    (home.outputs / "run.1" / "result.json").write_text("{}")
    home.log("trainer").touch(mode=0o600)
    around = home.egress / "way-in"
    around.symlink_to(text / "train.txt")
    of_data = [text, text / "train.txt", home.cache, home.cache / "tokens.bin", home.outputs, home.approvals]
    of_data += [home.outputs / "run.1" / "result.json", home.log("trainer"), around]
    own = [home.settings, home.keys / "node.key", home.keys / "node.cert.json", home.blobs, home.state]
    reads, found = tried(home, [], *of_data, *own, user=NOBODY)
    assert not reads
    assert [path for path in map(str, of_data) if not found[path]] == []
    assert [path for path in map(str, own) if found[path]] == []
    reads, found = tried(home, [], *of_data)
    assert reads and not any(found.values())
    assert stat.S_IMODE((home.keys / "node.key").stat().st_mode) == 0o600


@pytest.mark.skipif(landlock.version() < 2, reason="the kernel offers no Landlock")
def test_landlock_holds_beside_it(place: Path) -> None:
    home, everybody = made(place), place / "everybody"
    everybody.write_text("may read this")
    assert tried(home, [], everybody, user=NOBODY) == (False, {str(everybody): False})
    rules = airlock.agent_files(home)
    assert tried(home, rules, everybody, home.keys / "node.key", user=NOBODY)[1] == {
        str(everybody): True,
        str(home.keys / "node.key"): False,
    }


def test_a_new_key_is_that_users_from_the_start(place: Path) -> None:
    home = made(place)
    owner = member.load_member(place / "member")
    keys.issue(home, owner, node="fr-1", role="node", now=member.local_now(), suffix=keys.NEXT)
    found = (home.keys / f"node{keys.NEXT}.key").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY.uid, NOBODY.gid, 0o600)


def test_what_root_made_meanwhile_is_given_at_start_and_nothing_by_a_link(place: Path) -> None:
    """Names that an agent could have left in its folders do not make root give it text."""
    home, text = made(place), place / "text"
    for name in ("train.txt", "valid.txt"):
        (text / name).chmod(0o600)
    (home.state / "of-root").write_text("{}")
    (home.state / "soft").symlink_to(text / "train.txt")
    (home.state / "folder").symlink_to(text)
    (home.state / "hard").hardlink_to(text / "valid.txt")
    assert agent_user.prepare(home, settings.load(home)) == NOBODY
    assert (home.state / "of-root").stat().st_uid == NOBODY.uid
    assert [path.stat().st_uid for path in (text, text / "train.txt", text / "valid.txt")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("user", "says"), [("no-such-user", "has no user"), ("root", "is root"), ("4294967295", "has no user")]
)
def test_a_user_that_cannot_be(place: Path, user: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        made(place, user)
    assert caught.value.hint and not (place / "node").exists()
    assert [each.name for each in place.iterdir() if each.name.startswith(".")] == []


def test_not_beside_a_cluster(place: Path) -> None:
    text = made(place).settings.read_text()
    with pytest.raises(SettingsError, match="needs launcher local"):
        settings.parse(text.replace('launcher = "local"', 'launcher = "slurm"'), place)


def test_text_that_the_user_reads_is_refused(place: Path) -> None:
    home, text = made(place), place / "text"
    given = settings.load(home)
    (text / "train.txt").chmod(0o600)
    text.chmod(0o755)
    with pytest.raises(SettingsError, match="can read the text") as caught:
        agent_user.prepare(home, given)
    assert str(text) in str(caught.value.hint)
    text.chmod(0o711)  # the name of a file is no secret
    with pytest.raises(SettingsError, match="can read the text"):
        agent_user.prepare(home, given)
    (text / "valid.txt").chmod(0o600)
    assert agent_user.prepare(home, given) == NOBODY
    (text / "train").mkdir()
    (text / "train" / "more.txt").write_text("word")
    with pytest.raises(SettingsError, match="can read the text"):
        agent_user.prepare(home, given)
    (text / "train").chmod(0o700)
    text.chmod(0o755)
    assert agent_user.prepare(home, given) == NOBODY
    inside = home.state / "text"
    shutil.move(text, inside)
    moved = given.model_copy(update={"training": given.training.model_copy(update={"corpus": str(inside)})})
    with pytest.raises(SettingsError, match="can read the text"):
        agent_user.prepare(home, moved)
    assert inside.stat().st_uid == 0, "it was not given away before"


def test_a_home_that_the_user_cannot_reach_and_a_start_without_root(place: Path) -> None:
    home = made(place)
    given = settings.load(home)

    def refused() -> int:
        try:
            agent_user.prepare(home, given)
        except SettingsError as e:
            return 7 if "only root" in e.message and e.hint else 8
        return 0

    assert ask(NOBODY, refused) == 7
    home.settings.chmod(0o600)
    with pytest.raises(SettingsError, match=r"cannot reach .*node\.toml,"):
        agent_user.prepare(home, given)
    place.chmod(0o700)
    with pytest.raises(SettingsError, match=f"cannot reach {place},"):
        agent_user.prepare(home, given)


def test_it_dies_with_its_parent_and_has_no_way_back(place: Path) -> None:
    """The change of user clears the death signal, so it is set after."""
    code = (
        "import sys, time; from pathlib import Path; from tapestry.host.processes import spawn\n"
        "from tapestry.host.users import User\n"
        "child = spawn('agent', ['sleep', '600'], log_path=Path(sys.argv[1]), user=User(54321, 54321))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, place / "log"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    for _ in range(500):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep":
            break
        time.sleep(0.02)
    lines = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "\t" in line
    )
    assert lines["Uid"].split() == lines["Gid"].split() == ["54321"] * 4
    assert lines["Groups"].strip() == "" and int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0
    assert lines["NoNewPrivs"] == "1"
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(500):
        if not processes.pid_alive(pid):
            break
        time.sleep(0.02)
    assert not processes.pid_alive(pid)


WITHOUT_LANDLOCK = """
import sys
from pathlib import Path
from tapestry.node import airlock
from tapestry.node.supervisor import run_node
airlock.agent_files = lambda *_: []
run_node(Path(sys.argv[1]), once=True)
"""


class WithoutLandlock(Federation):
    cold = True

    def _spawn(self, name: str) -> None:
        if name in self._cores:
            super()._spawn(name)
            return
        with (self.root / "logs" / f"{name}.log").open("ab") as out:
            words = [sys.executable, "-P", "-c", WITHOUT_LANDLOCK, str(self.node(name))]
            self._processes[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def test_a_whole_run_without_landlock(place: Path) -> None:
    """Of a home that root has made without that user: it is given what it needs at the start."""
    merge = Merge(outer_rate=0.7, outer_momentum=0.6, influence_cap=1.0)
    run = WithoutLandlock(place, seed_blobs=place / "seed", rounds=1, steps=2, nodes=1, merge=merge)
    home = Home(run.node("a"))
    home.settings.write_text(
        home.settings.read_text().replace('# agent_user = "tapestry-agent"', 'agent_user = "54321"')
    )
    (place / "texts" / "a").chmod(0o700)
    seen: dict[str, set[Any]] = {"level": set(), "uid": set()}

    def look() -> None:
        found = node_status(home.root)
        seen["level"].add(found["level"])
        if found["reads_text"] is not None and (pid := found["processes"]["agent"]["pid"]):
            with suppress(OSError):
                seen["uid"].add(Path(f"/proc/{pid}").stat().st_uid)

    try:
        run.start()
        run.keep_going(timeout_s=120, between=look)
        assert [number for number, *_ in run.history()] == [1]
    finally:
        run.stop()
    assert seen["uid"] == {NOBODY.uid} and seen["level"] & {"netns", "process"}
    both = json.loads((home.receipts / "run.1.json").read_bytes())
    key = member.read_key(home.keys / "node.key").public_key
    said = Envelope.from_json(both["contribution"]).open_as(Contribution, key)
    assert said.environment["airlock"] in ("netns", "process")
