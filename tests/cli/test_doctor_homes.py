"""The doctor at a core and at a node: each finding is brought about for real, and says what mends it."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tapestry.cli import doctor
from tapestry.cli.checkup import machine
from tapestry.cli.checkup.secrets import check_modes
from tapestry.cli.failures import OWNER_HINT
from tapestry.core import operator, settings
from tapestry.core.clock import now_ms
from tapestry.core.home import Home as CoreHome
from tapestry.core.service import Core
from tapestry.node import keys
from tapestry.node.member import load_member
from tests.cards import HERE
from tests.cli.conftest import Call
from tests.core import support
from tests.core.support import CoreUnderTest, make_plan, time_at
from tests.core.test_clock_skew import _serve_ahead
from tests.full_disk import run_on_small_disk
from tests.node.support import NodeUnderTest

DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def _only_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found of the machine is `test_doctor`'s; it starts processes, and takes long."""
    monkeypatch.setattr(doctor, "of_machine", lambda *_: iter(()))


@pytest.fixture
def serving(core: CoreUnderTest) -> CoreUnderTest:
    return core.start()


@pytest.fixture
def own(serving: CoreUnderTest, tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Joined to a core of its own, not started."""
    node = with_text(tmp_path, serving)
    yield node
    node.stop()


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    folder = tmp_path_factory.mktemp("joined")
    core = CoreUnderTest(folder / "core").start()
    try:
        yield with_text(folder, core)
    finally:
        core.close()


@pytest.fixture
def node(joined: NodeUnderTest, tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Joined, not started; what a test does to its folder is undone."""
    as_it_was, root = tmp_path / "as-it-was", joined.home.root
    shutil.copytree(root, as_it_was)
    yield joined
    shutil.rmtree(root)
    shutil.copytree(as_it_was, root)


def with_text(folder: Path, core: CoreUnderTest) -> NodeUnderTest:
    node = NodeUnderTest(folder, core, "fr", residency=HERE)
    for name in ("train.txt", "valid.txt"):
        (folder / "text" / name).write_text("a line\n")
    return node


def look(call: Call, *arguments: object) -> dict[str, dict[str, Any]]:
    """Findings by check, the worst of each."""
    code, out, _ = call("doctor", *arguments, "--json")
    value = json.loads(out)
    assert (code == doctor.EXIT_UNFIT) == (not value["fit"])
    found: dict[str, dict[str, Any]] = {}
    for each in value["findings"]:
        assert (each["mend"] is None) == (each["verdict"] == "ok"), each
        worse = each["check"] not in found or each["verdict"] == "fail"
        if worse:
            found[each["check"]] = each
    return found


def set_core(root: Path, old: str, new: str) -> None:
    path = CoreHome(root).settings
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("at", ["core", "node"])
def test_metrics_that_cannot_be_or_that_others_read(
    at: str, core: CoreUnderTest, node: NodeUnderTest, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = core.root if at == "core" else node.home.root
    path = root / f"{at}.toml"
    assert "metrics" not in look(call, f"--{at}", root)
    was = path.read_text()
    path.write_text(was + '\n[metrics]\nport = 9464\nhost = "0.0.0.0"\n')
    found = look(call, f"--{at}", root)["metrics"]
    assert found["verdict"] == "warn" and "firewall" in found["mend"]
    path.write_text(was + "\n[metrics]\nport = 9464\n")
    assert look(call, f"--{at}", root)["metrics"]["verdict"] == "ok"
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    found = look(call, f"--{at}", root)["metrics"]
    assert found["verdict"] == "fail" and "pip install 'tapestry[metrics]'" in found["mend"]


# -- a core -------------------------------------------------------------------------------------


def test_a_core_that_serves_is_fit(serving: CoreUnderTest, call: Call) -> None:
    found = look(call, "--core", serving.root)
    assert {name: each["verdict"] for name, each in found.items()} == dict.fromkeys(
        ["core settings", "core's keys", "core", "release", "database", "store of blobs", "core's clock",
         "room for rounds"],
        "ok",
    )  # fmt: skip
    assert serving.url in found["core"]["found"]


def test_a_folder_is_recognised_by_its_settings(core: CoreUnderTest, call: Call) -> None:
    assert look(call, "--home", core.root)["core settings"]["verdict"] == "ok"


@pytest.mark.parametrize("name", ["core.key", "database.password"])
def test_a_key_that_others_may_read(name: str, core: CoreUnderTest, call: Call) -> None:
    path = core.root / "keys" / name
    path.touch()
    path.chmod(0o644)
    found = look(call, "--core", core.root)["core's keys"]
    assert (found["verdict"], found["mend"]) == ("fail", f"run: chmod 600 {path}")
    path.chmod(0o600)
    assert look(call, "--core", core.root)["core's keys"]["verdict"] == "ok"


def test_a_port_that_another_has(core: CoreUnderTest, call: Call) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        set_core(core.root, "port = 0", f"port = {port}")
        found = look(call, "--core", core.root)["port"]
        assert found["verdict"] == "fail" and str(port) in found["mend"]
    assert look(call, "--core", core.root)["port"]["verdict"] == "ok"


def test_settings_that_are_wrong(core: CoreUnderTest, call: Call) -> None:
    set_core(core.root, "port = 0", "port = -1")
    assert look(call, "--core", core.root)["core settings"]["verdict"] == "fail"


def test_a_key_of_another_core(core: CoreUnderTest, tmp_path: Path, call: Call) -> None:
    operator.init(tmp_path / "other", settings.make(port=0))
    (core.root / "keys/core.key").write_bytes((tmp_path / "other/keys/core.key").read_bytes())
    found = look(call, "--core", core.root)["database"]
    assert found["verdict"] == "fail" and "same backup" in found["mend"]


def test_a_database_that_is_gone(core: CoreUnderTest, call: Call) -> None:
    (core.root / "core.sqlite").unlink()
    assert look(call, "--core", core.root)["database"]["verdict"] == "fail"


def test_an_object_store_without_credentials_that_can_be_read(core: CoreUnderTest, call: Call) -> None:
    set_core(core.root, 'blobs = "blobs"', 'blobs = "s3://bucket/x"')
    path = core.root / "keys" / "object_store.toml"
    path.write_text("AWS_ACCESS_KEY_ID = 1\n")
    path.chmod(0o600)
    found = look(call, "--core", core.root)
    assert found["store of blobs"]["verdict"] == "fail" and "database" not in found


def test_a_folder_of_blobs_that_is_none(core: CoreUnderTest, call: Call) -> None:
    (core.root / "blobs").rename(core.root / "away")
    (core.root / "blobs").write_text("a file")
    assert look(call, "--core", core.root)["store of blobs"]["verdict"] == "fail"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_core_whose_process_hangs(core: CoreUnderTest, call: Call, free_port: int) -> None:
    import os

    status = {"pid": os.getpid(), "url": f"http://127.0.0.1:{free_port}", "trouble": {}}
    core.root.joinpath("status/core.json").write_text(json.dumps(status))
    found = look(call, "--core", core.root)["core"]
    assert found["verdict"] == "fail" and "does not answer" in found["found"]


def test_trouble_is_told(serving: CoreUnderTest, call: Call) -> None:
    path = serving.root / "status/core.json"
    value = json.loads(path.read_bytes()) | {"trouble": {"run": "the core: no space left"}}
    path.write_text(json.dumps(value))
    assert "no space left" in look(call, "--core", serving.root)["trouble"]["found"]


def test_a_clock_that_was_set_back(core: CoreUnderTest, call: Call) -> None:
    """The newest entry is of the future, by the machine's clock."""
    with Core.open(core.root, clock=lambda: now_ms() + 3_600_000) as ahead:
        plan = make_plan(core.root.parent / "seed")
        for blob in (store := support.BlobStore.open(core.root.parent / "seed")).iterate():
            ahead.store.adopt(store.path(blob.sha256), blob.sha256)
        ahead.runs.plan(plan)
    found = look(call, "--core", core.root)["core's clock"]
    assert found["verdict"] == "fail" and "in the future" in found["found"]


def write_tls(folder: Path, *, days: tuple[float, float], names: bool = True) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "core")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    (folder / "tls.pem").write_bytes(made.sign(key, None).public_bytes(Encoding.PEM))
    path = folder / "tls.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("days", "names", "verdict", "said"),
    [
        ((-1, 400), True, "ok", "127.0.0.1"),
        ((-1, 10), True, "warn", "10 days"),
        ((-10, -1), True, "fail", "expired"),
        ((2, 10), True, "fail", "holds only in"),
        ((-1, 400), False, "fail", "names no host"),
    ],
)
def test_certificates(
    days: tuple[float, float], names: bool, verdict: str, said: str, tmp_path: Path, call: Call
) -> None:
    root = tmp_path / "tls"
    operator.init(root, settings.make(port=0, tls={"certificate": "tls.pem", "key": "tls.key"}))
    assert look(call, "--core", root)["certificate"]["verdict"] == "fail"  # there is none yet
    write_tls(root, days=days, names=names)
    found = look(call, "--core", root)["certificate"]
    assert (found["verdict"], said in found["found"]) == (verdict, True), found


def test_a_certificate_with_another_ones_key(tmp_path: Path, call: Call) -> None:
    root = tmp_path / "tls"
    operator.init(root, settings.make(port=0, tls={"certificate": "tls.pem", "key": "tls.key"}))
    write_tls(root, days=(-1, 400))
    before = (root / "tls.pem").read_bytes()
    write_tls(root, days=(-1, 400))
    (root / "tls.pem").write_bytes(before)
    assert "is not the key of" in look(call, "--core", root)["certificate"]["found"]
    write_tls(root, days=(-1, 400))
    (root / "tls.key").chmod(0o640)
    assert look(call, "--core", root)["certificate's key"]["verdict"] == "fail"


def test_a_home_of_another_user_is_a_finding(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever calls the doctor by hand at a service's folder, which systemd makes with mode 0700."""
    real = os.stat

    def shut(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(tmp_path / "home")):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", shut)
    home = tmp_path / "home"
    for option, check in (("--core", "core settings"), ("--node", "node settings")):
        found = look(call, option, home)[check]
        assert (found["verdict"], found["mend"]) == ("fail", OWNER_HINT)
    assert call("doctor", "--home", home, "--json")[0] == 0  # whose machine is looked at elsewhere
    assert machine.check_disk(home).mend == OWNER_HINT


def test_a_key_that_is_handed_to_a_service_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a secret volume of Kubernetes does: a file of root, that the service's group may only read."""
    key = tmp_path / "tls.key"
    key.touch()
    real = Path.stat

    def verdict(mode: int, owner: int, who: int) -> str:
        key.chmod(mode)

        def owned(path: Path, **options: Any) -> os.stat_result:
            found = list(real(path, **options))
            found[4] = owner
            return os.stat_result(found)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", owned)
            patch.setattr(os, "geteuid", lambda: who)
            return next(check_modes(tmp_path, ("tls.key",), "key")).verdict

    assert verdict(0o440, owner=0, who=10001) == "ok"
    assert verdict(0o444, owner=0, who=10001) == "fail"
    assert verdict(0o460, owner=0, who=10001) == "fail"
    assert verdict(0o440, owner=10001, who=10001) == "fail"
    assert verdict(0o440, owner=0, who=0) == "fail"


def test_no_certificate_where_others_can_listen(core: CoreUnderTest, call: Call) -> None:
    set_core(core.root, 'host = "127.0.0.1"', 'host = "0.0.0.0"')
    assert look(call, "--core", core.root)["certificate"]["verdict"] == "warn"


def test_keys_of_nodes_that_end(serving: CoreUnderTest, call: Call) -> None:
    soon, late = serving.member("soon", join=False), serving.member("late", join=False)
    for member, ends_s in ((soon, 10 * DAY_S), (late, 400 * DAY_S)):
        certificate = member.certificate(expires_s=ends_s)
        assert member.join(operator.invite(serving.root, member.name), certificate).status_code == 200
    found = look(call, "--core", serving.root)["nodes' keys"]
    assert found["verdict"] == "warn" and "soon-1" in found["found"] and "late-1" not in found["found"]


def test_no_room_for_the_rounds_to_come(core: CoreUnderTest, call: Call, tmp_path: Path) -> None:
    """On a real disk, of 600 KiB; and fit for fewer rounds."""
    code = """
import json, shutil, sys
from pathlib import Path
from tapestry.cli import doctor, main
from tapestry.core import operator, settings
from tests.core.support import make_plan
disk = Path(sys.argv[1])
doctor.of_machine = lambda *_: iter(())
operator.init(disk / "core", settings.make(port=0))
operator.plan(disk / "core", make_plan(disk / "seed", total=100_000), disk / "seed")
shutil.rmtree(disk / "seed")
for rounds in ("1", "100000"):
    print(main.call(["doctor", "--core", str(disk / "core"), "--rounds", rounds, "--json"]))
"""
    out = run_on_small_disk(tmp_path, code, kib=600)
    decoder, values = json.JSONDecoder(), []
    while out := out.lstrip():
        value, end = decoder.raw_decode(out)
        values.append(value)
        out = out[end:]
    few, fit, many, unfit = values
    assert (fit, unfit) == (0, doctor.EXIT_UNFIT)
    verdicts = [
        next(f for f in found["findings"] if f["check"] == "room for rounds") for found in (few, many)
    ]
    assert [each["verdict"] for each in verdicts] == ["ok", "fail"]
    assert "100000 rounds of run take" in verdicts[1]["found"]


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tapestry.cli.checkup import machine
print(machine.check_disk(Path(sys.argv[1])).verdict)
"""
    assert run_on_small_disk(tmp_path, code, kib=256) == "fail\n"
    assert machine.MIN_FREE_BYTES > 256 << 10


# -- a node -------------------------------------------------------------------------------------


def test_a_node_that_is_set_up(node: NodeUnderTest, call: Call) -> None:
    found = look(call, "--node", node.home.root)
    verdicts = {name: each["verdict"] for name, each in found.items()}
    assert verdicts == {
        "node settings": "ok", "node's keys": "ok", "text": "ok", "device": "ok", "core": "ok",
        "clock": "ok", "release": "ok", "admission": "ok", "node key": "ok", "witness key": "ok",
        "room for rounds": "ok", "node": "warn",
    }  # fmt: skip
    assert "tapestry node run" in found["node"]["mend"]


def test_a_nodes_key_that_others_may_read(node: NodeUnderTest, call: Call) -> None:
    path = node.home.keys / "node.key"
    path.chmod(0o604)
    found = look(call, "--node", node.home.root)["node's keys"]
    assert (found["verdict"], found["mend"]) == ("fail", f"run: chmod 600 {path}")


def test_a_core_that_is_gone(own: NodeUnderTest, serving: CoreUnderTest, call: Call) -> None:
    serving.stop()
    found = look(call, "--node", own.home.root)
    assert found["core"]["verdict"] == "fail" and "cannot be reached" in found["core"]["found"]
    assert "core serve" in found["core"]["mend"]
    assert found["node key"]["verdict"] == "ok"  # judged by this machine's clock then


def test_a_core_of_another_consortium(node: NodeUnderTest, call: Call, tmp_path: Path) -> None:
    other = CoreUnderTest(tmp_path / "other").start()
    try:
        path = node.home.consortium
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps(value | {"core_url": other.url}, separators=(",", ":"), sort_keys=True))
        found = look(call, "--node", node.home.root)["core"]
        assert found["verdict"] == "fail" and "is the core of consortium" in found["found"]
    finally:
        other.close()


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_clock_that_is_off(
    ahead_s: float, core: CoreUnderTest, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "_serve", functools.partial(_serve_ahead, ahead_s))
    core.start()
    node = with_text(tmp_path, core)
    found = look(call, "--node", node.home.root)["clock"]
    assert found["verdict"] == "warn"
    assert ("behind" if ahead_s > 0 else "ahead of") in found["found"] and "3,6" in found["found"]


@pytest.mark.parametrize(
    ("ends_s", "verdict", "said"), [(-DAY_S, "fail", "expired"), (10 * DAY_S, "warn", "days")]
)
def test_a_nodes_key_that_ends(
    ends_s: float, verdict: str, said: str, node: NodeUnderTest, call: Call
) -> None:
    key = keys.load(node.home)
    from tapestry.identity.keyring import make_certificate
    from tapestry.protocol.messages import KeyCertificate

    named = key.certificate.unverified(KeyCertificate)
    made = make_certificate(
        load_member(node.member_dir).root,
        member=named.member,
        node=named.node,
        role="node",
        public_key=named.public_key,
        not_before=time_at(-20 * DAY_S),
        expires=time_at(ends_s),
    )
    (node.home.keys / "node.cert.json").write_bytes(made.to_bytes())
    found = look(call, "--node", node.home.root)["node key"]
    assert (found["verdict"], said in found["found"]) == (verdict, True), found
    assert "key rotate" in found["mend"]


def test_a_key_that_the_core_ended(own: NodeUnderTest, call: Call) -> None:
    from tapestry.node import setup

    setup.revoke(own.home.root, own.member_dir)
    found = look(call, "--node", own.home.root)["admission"]
    assert found["verdict"] == "fail" and "refuses this node" in found["found"]


def test_a_core_that_speaks_something_else(
    node: NodeUnderTest, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node of a release to come: the core is asked for real, and does not know its format."""
    from tapestry.protocol.messages import Contribution

    monkeypatch.setattr(Contribution, "format_version", classmethod(lambda cls: 99))
    found = look(call, "--node", node.home.root)["release"]
    assert found["verdict"] == "fail" and "tapestry.contribution" in found["found"]


def test_another_release_that_speaks_the_same(
    node: NodeUnderTest, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapestry.cli.checkup import node as of_node

    monkeypatch.setattr(of_node, "__version__", "0.0.0")
    assert look(call, "--node", node.home.root)["release"]["verdict"] == "warn"


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ('device = "cpu"', 'device = "cuda"', "device", "torch finds none"),
        ('launcher = "local"', 'launcher = "slurm"', "launcher", "sbatch"),
        ("corpus = ", 'corpus = "nowhere" #', "text", "nowhere"),
        ("residency = ", "#", "text", "no residency"),
        ("threads = ", "threads = -1 #", "node settings", "threads"),
    ],
)
def test_settings_of_a_node(
    old: str,
    new: str,
    check: str,
    said: str,
    node: NodeUnderTest,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    if new.endswith('"cuda"') and torch.cuda.is_available():
        pytest.skip("this machine has an accelerator")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    path = node.home.settings
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = look(call, "--node", node.home.root)[check]
    assert found["verdict"] == "fail" and said in found["found"], found


def test_a_node_that_has_not_joined(node: NodeUnderTest, call: Call) -> None:
    node.home.consortium.unlink()
    found = look(call, "--node", node.home.root)["core"]
    assert found["verdict"] == "fail" and "node join" in found["mend"]


def test_text_that_is_not_there(node: NodeUnderTest, call: Call) -> None:
    from tapestry.node import settings as node_settings

    corpus = node_settings.load(node.home).corpus_path(node.home)
    for path in corpus.glob("valid*"):
        path.unlink()
    found = look(call, "--node", node.home.root)["text"]
    assert found["verdict"] == "fail" and "no valid.*" in found["found"]
