"""What is submitted: shell that is shell, directives as sbatch reads them, and nothing a value can add."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import main
from tapestry.errors import SettingsError
from tapestry.training.clusters import settings
from tapestry.training.clusters.opening import describe

from . import fake_slurm
from .support import opened, write_settings

SITE = """
[slurm]
partition = "gpu,long"
account = "proj-1"
qos = "normal"
constraint = "[rack1|rack2]&a100"
time_limit = "1-00:00:00"
memory = "200G"
cpus_per_process = 6
interface = "ib0"
max_restarts = 3
port = 29777
python = "/opt/venv/bin/python"
extra = ["--exclusive", "--mail-type=END"]
setup = ["module load cuda", "export X='a b'"]
"""


def well_formed(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_script_for_many_hosts(tmp_path: Path) -> None:
    training = 'hosts = 4\nmin_hosts = 3\nprocesses = 8\ndevice = "cuda"'
    home = write_settings(tmp_path / "home", "slurm", SITE, training=training)
    text = opened(home).text()
    well_formed(text)
    found = fake_slurm.directives(text)
    assert found.pop("job-name").startswith("tapestry-acme-1-")
    assert found.pop("comment") == f"tapestry:{opened(home).digest}"
    assert found == {
        "nodes": "4",
        "ntasks-per-node": "1",
        "cpus-per-task": "48",
        "gpus-per-node": "8",
        "mem": "200G",
        "time": "1-00:00:00",
        "partition": "gpu,long",
        "account": "proj-1",
        "qos": "normal",
        "constraint": "[rack1|rack2]&a100",
        "signal": "TERM@120",
        "no-requeue": "",
        "no-kill": "",
        "export": "NONE",
        "chdir": str(home),
        "output": f"{home}/logs/job-%j.log",
        "open-mode": "append",
        "exclusive": "",
        "mail-type": "END",
    }
    lines = text.splitlines()
    assert lines.index("module load cuda") < lines.index("export X='a b'")
    assert "export NCCL_SOCKET_IFNAME=ib0" in lines and "unset TORCHELASTIC_ERROR_FILE" in lines
    assert 'export TAPESTRY_MEET="$first_host:29777"' in lines
    command = shlex.split(lines[-1])
    assert command[3:] == [
        *("/opt/venv/bin/python", "-P", "-m", "torch.distributed.run", "--nnodes=3:4", "--rdzv-backend=c10d"),
        *("--nproc-per-node=8", "--max-restarts=3", "-m", "tapestry.training", "--home", str(home)),
    ]
    assert {"--no-kill", "--kill-on-bad-exit=0", "--cpus-per-task=48"} <= set(
        shlex.split(lines[-2].rstrip("\\"))
    )


def test_the_ranks_of_one_host_have_no_network(tmp_path: Path) -> None:
    text = opened(write_settings(tmp_path / "home", "slurm")).text()
    well_formed(text)
    command = shlex.split(text.splitlines()[-1])
    python = [sys.executable, "-P", "-m"]
    assert command[:9] == [*python, "tapestry.host.isolation", "--", *python, "torch.distributed.run"]
    assert "--standalone" in command and "export GLOO_SOCKET_IFNAME=lo" in text
    assert "no-kill" not in fake_slurm.directives(text) and "--kill-on-bad-exit=1" in text


def test_a_home_with_hostile_characters_is_one_word(tmp_path: Path) -> None:
    home = write_settings(tmp_path / "a $(touch pwned) ; `touch pwned` && b", "slurm")
    text = opened(home).text()
    well_formed(text)
    assert fake_slurm.directives(text)["chdir"] == str(home)
    assert shlex.split(text.splitlines()[-1])[-1] == str(home)
    folder = tmp_path / "run"
    folder.mkdir()
    own = folder / "bin"
    own.mkdir()
    (own / "srun").write_text('#!/bin/sh\nfor last; do :; done; printf %s "$last" > home\n')
    (own / "srun").chmod(0o755)
    env = {"PATH": f"{own}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-s"], input=text, text=True, cwd=folder, env=env, check=True)
    assert (folder / "home").read_text() == str(home)
    assert {path.name for path in folder.iterdir()} == {"bin", "home"}


@pytest.mark.parametrize(
    "part", ["new\nline", 'quo"te', "apos'trophe", "back\\slash", "per%cent", "ha#sh", "t\tab"]
)
def test_a_home_that_slurm_cannot_carry_is_refused(tmp_path: Path, part: str) -> None:
    for launcher in ("slurm", "submitit"):
        home = write_settings(tmp_path / f"a{part}b", launcher, '[slurm]\ntime_limit = "60"')
        with pytest.raises(SettingsError, match="cannot be given the node's home"):
            opened(home)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[slurm]\npartition = "a\\n#SBATCH --wrap=x"', "partition"),
        ('[slurm]\npartition = "a b"', "partition"),
        ('[slurm]\naccount = "$(id)"', "account"),
        ('[slurm]\nqos = "`id`"', "qos"),
        ('[slurm]\nconstraint = "a;b\\""', "constraint"),
        ('[slurm]\nmemory = "lots"', "memory"),
        ('[slurm]\ntime_limit = "1 day"', "time_limit"),
        ('[slurm]\nextra = ["--comment=x"]', "--comment is set by tapestry itself"),
        ('[slurm]\nextra = ["--wrap=rm"]', "--wrap is set"),
        ('[slurm]\nextra = ["-p gpu"]', "not of the form"),
        ('[slurm]\nextra = ["--mail-user=a b"]', "not of the form"),
        ('[slurm]\nextra = ["--x\\n"]', "not of the form"),
        ('[slurm]\nsetup = ["a\\nb"]', "one line"),
        ('[slurm]\npython = "a\\nb"', "one line"),
        ('[slurm]\ninterface = "ib0; id"', "interface"),
        ("[slurm]\npoll_s = 0", "poll_s"),
        ('[slurm]\ncolour = "red"', "colour"),
        ("slurm = 3", "slurm"),
        ('[kubernetes]\nimage = "a b"\nclaim = "c"', "image"),
        ('[kubernetes]\nimage = "a"\nclaim = "C_"', "claim"),
        ('[kubernetes]\nclaim = "c"', "image"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\nmount_path = "/a\\"; id"', "mount_path"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\npython = "sh -c id"', "python"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\nnamespace = "--all"', "namespace"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\ncontext = "x y"', "context"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\nmemory_limit = "much"', "memory_limit"),
        ('[kubernetes]\nimage = "a"\nclaim = "c"\nrun_as_user = 0', "run_as_user"),
    ],
)
def test_values_that_are_more_than_a_value_are_refused(tmp_path: Path, table: str, said: str) -> None:
    home = write_settings(tmp_path / "home", "slurm")
    text = (home / "node.toml").read_text()
    top, rest = ("", table) if table.startswith("[") else (table, "")
    (home / "node.toml").write_text(f"{top}\n{text}\n{rest}\n")
    with pytest.raises(SettingsError, match=r"node\.toml.*" + re.escape(said)):
        settings.load(home)


def manifest(tmp_path: Path, more: str = "", training: str = "") -> list[Any]:
    table = f'[kubernetes]\nimage = "i"\nclaim = "c"\nrun_as_user = 1000\n{more}'
    home = write_settings(tmp_path / "home", "kubernetes", table, training=training)
    return list(json.loads(opened(home).text())["items"])


def test_pods_have_no_rights_and_no_network_but_each_other(tmp_path: Path) -> None:
    policy, job = manifest(tmp_path, training="hosts = 2")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    pod = job["spec"]["template"]
    only_them = {"podSelector": {"matchLabels": pod["metadata"]["labels"]}}
    assert policy["spec"]["podSelector"] == only_them["podSelector"]
    assert policy["spec"]["egress"] == [{"to": [only_them]}]
    assert policy["spec"]["ingress"] == [{"from": [only_them]}]
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 1000
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/node/keys"]["name"] == "no-keys", "the pods could read the node's key"
    subprocess.run(["sh", "-n", "-c", container["command"][2]], check=True)


def test_the_pod_of_one_host_talks_to_nobody(tmp_path: Path) -> None:
    policy, job = manifest(tmp_path)
    assert (policy["spec"]["ingress"], policy["spec"]["egress"]) == ([], [])
    command = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    assert command.startswith(
        "exec python3 -P -m tapestry.host.isolation -- python3 -P -m torch.distributed.run"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="the default is another for another user")
def test_pods_never_run_as_root(tmp_path: Path) -> None:
    table = '[kubernetes]\nimage = "i"\nclaim = "c"\n'
    with pytest.raises(SettingsError, match="run_as_user"):
        opened(write_settings(tmp_path / "home", "kubernetes", table))


def test_mounts_that_hide_each_other_are_refused(tmp_path: Path) -> None:
    for path in ("/node", "/node/keys", "/tmp", "/a/../node"):
        with pytest.raises(SettingsError, match="mount paths"):
            manifest(tmp_path, f'volumes = [{{claim = "t", mount_path = "{path}"}}]\n')


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs the table \[kubernetes\]"):
        opened(write_settings(tmp_path / "home", "kubernetes"))
    with pytest.raises(SettingsError, match="needs time_limit"):
        opened(write_settings(tmp_path / "home", "submitit"))


def test_names_are_labels_and_differ_by_home(tmp_path: Path) -> None:
    names = set()
    for folder in ("one", "two"):
        home = write_settings(tmp_path / folder, "slurm")
        text = (home / "node.toml").read_text()
        (home / "node.toml").write_text(text.replace('"acme-1"', '"a.b_c' + "x" * 50 + '-1"'))
        names.add(opened(home).launch.name)
    assert len(names) == 2
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?", name) for name in names)


def test_the_digest_is_of_all_that_the_ranks_read(tmp_path: Path) -> None:
    digests = set()
    for training in ("", "processes = 2", 'precision = "bf16"', "checkpoint_s = 5.0"):
        digests.add(opened(write_settings(tmp_path / "home", "slurm", training=training)).digest)
    digests.add(opened(write_settings(tmp_path / "home", "slurm", '[slurm]\nqos = "x"')).digest)
    assert len(digests) == 5
    assert opened(write_settings(tmp_path / "home", "slurm")).digest in digests


@pytest.mark.parametrize("launcher", ["local", "slurm", "submitit", "kubernetes"])
def test_the_command_prints_what_is_submitted(
    tmp_path: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = '[slurm]\ntime_limit = "60"\n[kubernetes]\nimage = "i"\nclaim = "c"\nrun_as_user = 1000'
    home = write_settings(tmp_path / "home", launcher, table, training="processes = 2")
    assert main.call(["node", "script", str(home)]) == 0
    out, err = capsys.readouterr()
    expected = describe(home)
    assert out == expected["text"] and "submit it with" in err
    if launcher == "local":
        assert "--nproc-per-node=2" in out and shlex.split(out)[0] == sys.executable
    elif launcher == "kubernetes":
        assert json.loads(out)["kind"] == "List"
    else:
        well_formed(out)
    assert main.call(["node", "script", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert not (home / "launch").exists()
