"""Isolation, tried with real sockets; each denial has a control that shows it would have worked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.host import isolation
from tapestry.host.processes import spawn

PROBE = """
import json, os, socket, sys
from tapestry.host.isolation import measure

def tcp(address, port):
    try:
        with socket.create_connection((address, port), timeout=5) as s:
            return s.recv(2).decode()
    except OSError as e:
        return e.__class__.__name__

def abstract(name):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(name)
            return "ok"
    except OSError as e:
        return e.__class__.__name__

def inside(family, address):
    try:
        with socket.socket(family) as server:
            server.bind((address, 0)); server.listen()
            with socket.socket(family) as client:
                client.connect(server.getsockname()[:2]); connection, _ = server.accept()
                connection.sendall(b"ok"); connection.close()
                return client.recv(2).decode()
    except OSError as e:
        return e.__class__.__name__

port, outside, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
print(json.dumps({
    "level": os.environ.get("TAPESTRY_ISOLATION"), "measured": measure(), "uid": os.getuid(),
    "loopback": tcp("127.0.0.1", port), "outside": tcp(outside, port), "abstract": abstract(chr(0) + name),
    "inside": inside(socket.AF_INET, "127.0.0.1"),
}))
"""


@pytest.fixture(scope="module")
def netns() -> None:
    """Skips where the kernel refuses."""
    done = subprocess.run(
        [sys.executable, "-m", "tapestry.host.isolation", "--", "printenv", isolation.LEVEL_VARIABLE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() != "netns":
        pytest.skip("the kernel or container refuses a network namespace to this user: level 'process'")


def own_address() -> str:
    """An address of this machine that is not loopback, if it has one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture
def server() -> Iterator[tuple[str, ...]]:
    """A listener on every address of this machine and one on an abstract Unix socket: arguments of PROBE."""
    name = f"tapestry-test-{os.getpid()}"
    with (
        socket.create_server(("0.0.0.0", 0)) as listener,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind("\0" + name)
        unix.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"ok")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(listener.getsockname()[1]), own_address(), name
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def probe(server: tuple[str, ...], *prefix: str, python: str = sys.executable) -> dict[str, object]:
    done = subprocess.run(
        [*prefix, python, "-c", PROBE, *server],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_without_isolation_everything_is_reached(server: tuple[str, ...]) -> None:
    told = probe(server)
    assert (told["loopback"], told["outside"], told["abstract"], told["inside"]) == ("ok", "ok", "ok", "ok")
    assert told["level"] is None
    assert told["measured"] == isolation.measure()


@pytest.mark.usefixtures("netns")
def test_with_isolation_only_its_own_loopback_is_left(server: tuple[str, ...]) -> None:
    told = probe(server, sys.executable, "-m", "tapestry.host.isolation", "--")
    assert (told["level"], told["measured"]) == ("netns", "netns")
    assert told["loopback"] == "ConnectionRefusedError"
    assert told["outside"] in ("OSError", "ConnectionRefusedError")  # ENETUNREACH; refused if it has none
    assert told["abstract"] == "ConnectionRefusedError"
    assert told["inside"] == "ok"
    assert told["uid"] == os.getuid()


def ordinary_user() -> tuple[list[str], str]:
    """What to put before a command to run it without privilege, and a Python that such a user can run."""
    if os.getuid() != 0:
        return [], sys.executable
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv to become an ordinary user with")
    source = Path(isolation.__file__).parents[2]
    prefix = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", f"PYTHONPATH={source}"]
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*prefix, python, "-c", "import tapestry.host.exec"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return prefix, python
    pytest.skip("an ordinary user can run no Python here that imports tapestry.host")


PARENT = """
import os, subprocess, sys
code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
shim = [sys.executable, "-m", "tapestry.host.exec", "--parent", str(os.getpid()), "--isolate", "--"]
sys.exit(subprocess.run([*shim, sys.executable, "-c", code]).returncode)
"""


@pytest.mark.usefixtures("netns")
def test_an_ordinary_user_is_isolated_too_and_still_dies_with_its_parent(server: tuple[str, ...]) -> None:
    prefix, python = ordinary_user()
    uid = 1000 if os.getuid() == 0 else os.getuid()
    control = probe(server, *prefix, python=python)
    assert (control["loopback"], control["uid"]) == ("ok", uid)
    told = probe(server, *prefix, python, "-m", "tapestry.host.isolation", "--", python=python)
    allowed = subprocess.run(
        [*prefix, "unshare", "--user", "--net", "true"], capture_output=True, check=False
    )
    if allowed.returncode:
        assert (told["level"], told["loopback"]) == ("process", "ok")
        pytest.skip("this kernel refuses user namespaces to ordinary users")
    assert told["level"] == "netns"
    assert (told["loopback"], told["abstract"], told["inside"]) == (
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "ok",
    )
    assert told["uid"] == uid
    done = subprocess.run([*prefix, python, "-c", PARENT], capture_output=True, text=True, check=False)
    assert done.stdout == "9\n", done.stderr  # PR_GET_PDEATHSIG answers SIGKILL


@pytest.mark.usefixtures("netns")
def test_spawn_isolates(server: tuple[str, ...], tmp_path: Path) -> None:
    child = spawn(
        "probe",
        [sys.executable, "-c", PROBE, *server],
        log_path=tmp_path / "log",
        isolate_network=True,
    )
    assert child.wait(60) == 0
    told = json.loads((tmp_path / "log").read_text())
    assert (told["level"], told["loopback"], told["inside"]) == ("netns", "ConnectionRefusedError", "ok")


@pytest.mark.usefixtures("netns")
def test_children_of_an_isolated_process_are_isolated(server: tuple[str, ...]) -> None:
    told = probe(server, sys.executable, "-m", "tapestry.host.isolation", "--", "sh", "-c", '"$@"', "sh")
    assert told["loopback"] == "ConnectionRefusedError"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare command")
def test_where_the_kernel_refuses_nothing_changes_and_the_level_says_so(server: tuple[str, ...]) -> None:
    """Refused for real: a user namespace that may hold no others, without privilege over the network."""
    limit = "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_net_namespaces; exec"
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{limit} "$@"', "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel refuses a user namespace to limit")
    told = probe(server, *prefix, sys.executable, "-m", "tapestry.host.isolation", "--")
    assert told["level"] == "process"
    assert told["loopback"] == "ok"


def test_a_process_with_threads_is_told_off() -> None:
    code = (
        "import threading; from tapestry.host.isolation import drop_network\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "try: drop_network()\n"
        "except RuntimeError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "before the process starts threads" in done.stdout


def test_gloo_works_inside(netns: None) -> None:
    """torch.distributed finds its peers over the loopback that is left."""
    pytest.importorskip("torch")
    code = (
        "import torch, torch.distributed as d\n"
        "d.init_process_group('gloo', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)\n"
        "t = torch.ones(2); d.all_reduce(t); print(t.sum().item()); d.destroy_process_group()"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tapestry.host.isolation", "--", sys.executable, "-c", code],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.endswith("2.0\n"), done.stderr
