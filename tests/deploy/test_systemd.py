"""The systemd units: systemd takes them, what they start exists, and they let it do little."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.test_commands import check

UNITS = sorted((Path(__file__).parents[2] / "deploy/systemd").glob("*.service"))
BINARY = "/opt/tapestry/bin/tapestry"
HARDENED = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
    "PrivateDevices": "yes", "CapabilityBoundingSet": "", "RestrictSUIDSGID": "yes", "UMask": "0077",
    "ProtectKernelTunables": "yes", "ProtectControlGroups": "yes", "SystemCallArchitectures": "native",
    "StateDirectoryMode": "0700",
}  # fmt: skip
MOST_EXPOSED = 25
"""Tenths, as systemd-analyze counts; a unit without any of these lines is at 9.6."""


def service(unit: Path) -> dict[str, list[str]]:
    """Keys of [Service]; one may stand several times."""
    found: dict[str, list[str]] = {}
    body = unit.read_text().partition("\n[Service]\n")[2].partition("\n[Install]")[0]
    for line in body.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_there_is_one_for_each_program() -> None:
    assert [unit.stem for unit in UNITS] == ["tapestry-core", "tapestry-node", "tapestry-web"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.stem)
def test_what_a_unit_starts_exists(unit: Path) -> None:
    (command,) = service(unit)["ExecStart"]
    assert command.startswith(f"{BINARY} ")
    check("tapestry" + command.removeprefix(BINARY))


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.stem)
def test_a_unit_lets_its_program_do_little(unit: Path) -> None:
    found = service(unit)
    assert {key: found.get(key) for key in HARDENED} == {key: [value] for key, value in HARDENED.items()}
    assert "root" not in found.get("User", []) and ("User" in found or found["DynamicUser"] == ["yes"])
    (state,) = found["StateDirectory"]
    (command,) = found["ExecStart"]
    homes = [word for word in command.split() if word.startswith("/var/lib/")]
    assert homes and all(Path(home).is_relative_to(f"/var/lib/{state}") for home in homes)
    namespaces = found["RestrictNamespaces"]  # without them nothing cuts a trainer off from the network
    assert namespaces == (["yes"] if unit.stem == "tapestry-web" else ["user net"])


def test_the_dashboard_answers_to_the_name_of_its_proxy() -> None:
    """Which passes Host on: under a name it does not know it refuses every request, and every sign-in."""
    unit = next(each for each in UNITS if each.stem == "tapestry-web")
    words = service(unit)["ExecStart"][0].split()
    said = {key: value for key, value in itertools.pairwise(words) if key.startswith("--")}
    assert said["--origin"] == f"https://{said['--name']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.stem)
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    def said(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        copy = tmp_path / unit.name
        copy.write_text(text)
        argv = ["systemd-analyze", *arguments, str(copy)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    text = unit.read_text().replace(BINARY, "/bin/true")  # which is on every machine
    done = said(text, "verify")
    assert (done.returncode, unit.name in done.stderr) == (0, False), done.stderr
    wrong = said(text.replace("ProtectSystem=strict", "ProtectSystem=nonsense"), "verify")
    assert unit.name in wrong.stderr  # the control
    exposed = ("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager")
    assert said(text, *exposed).returncode == 0
    kept = ("[", "Exec", "User", "Type")
    bare = "\n".join(line for line in text.splitlines() if line.startswith(kept))
    assert said(bare, *exposed).returncode != 0  # the control
