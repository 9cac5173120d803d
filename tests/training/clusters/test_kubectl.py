"""The manifest and the commands as the real kubectl understands them; the API server is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.training.clusters.contract import Cluster

from . import api_server
from .support import opened, write_settings

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")

FULL = """
[kubernetes]
image = "registry.example.org/tapestry:1"
claim = "node-home"
sub_path = "acme/node-1"
run_as_user = 1000
namespace = "tapestry"
cpu_limit = "16"
memory_request = "64Gi"
memory_limit = "128Gi"
time_limit_s = 86400
node_selector = {"example.org/pool" = "gpu"}
labels = {"example.org/queue" = "research"}
service_account = "trainer"
priority_class = "low"
runtime_class = "nvidia"
pull_secret = "registry"
tolerations = [{key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule"}]
volumes = [{claim = "text", mount_path = "/text"}]
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    training = 'hosts = 4\nmin_hosts = 2\nprocesses = 8\ndevice = "cuda"'
    return opened(write_settings(tmp_path / "home", "kubernetes", FULL, training=training))


def losses(given: Any, read: Any, where: str = "") -> list[str]:
    """What of `given` is not in `read`."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [
            each for key, value in given.items() for each in losses(value, read.get(key), f"{where}.{key}")
        ]
    if isinstance(given, list) and isinstance(read, list) and len(given) <= len(read):
        return [each for n, value in enumerate(given) for each in losses(value, read[n], f"{where}[{n}]")]
    return [] if given == read else [where]


def typed(thing: Any, tmp_path: Path, *more: str) -> Any:
    """As kubectl's own types have it: a field that it does not know is lost."""
    assert KUBECTL
    path = tmp_path / "thing.json"
    path.write_text(json.dumps(thing))
    argv = [KUBECTL, *more, "--local", "-f", str(path), "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kubectl_knows_every_field_of_the_job(cluster: Cluster, tmp_path: Path) -> None:
    policy, job = json.loads(cluster.text())["items"]
    assert losses(job, typed(job, tmp_path, "set", "env", "ADDED=1")) == []
    assert losses(policy, typed(policy, tmp_path, "patch", "-p", "{}")) == []
    job["spec"]["template"]["spec"]["enableServiceLink"] = False
    assert losses(job, typed(job, tmp_path, "set", "env", "ADDED=1")) == [
        ".spec.template.spec.enableServiceLink"
    ]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[api_server.Server]:
    """A server for the kubectl on the PATH, which skips the validation that this server does not do."""
    with api_server.serving() as server:
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "kubectl").write_text(
            f'#!/bin/sh\ncase "$*" in *apply*) set -- "$@" --validate=false ;; esac\n'
            f'exec {KUBECTL} --server={server.url} --cache-dir={tmp_path} "$@"\n'
        )
        (programs / "kubectl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        yield server


def test_a_job_through_the_real_kubectl(cluster: Cluster, server: api_server.Server, tmp_path: Path) -> None:
    assert cluster.live() == []
    job = cluster.submit(tmp_path)
    assert {kind for kind, _ in server.things} == {"networkpolicies", "jobs"}
    created = [line for line in server.asked if line.startswith("POST")]
    assert "networkpolicies" in created[0], "a pod could start before its policy"
    assert (cluster.state(job).phase, cluster.state(job).digest) == ("queued", cluster.digest)
    [seen] = cluster.live()
    assert seen.job == job
    thing = server.things["jobs", job]
    owners = [{"kind": "Job", "name": job, "uid": thing["metadata"]["uid"]}]
    labels = thing["spec"]["template"]["metadata"]["labels"]
    pod = {"kind": "Pod", "apiVersion": "v1", "status": {"phase": "Running"}}
    pod["metadata"] = {"name": "p", "namespace": "tapestry", "labels": labels, "ownerReferences": owners}
    server.things["pods", "p"] = pod
    assert cluster.state(job).phase == "running"
    cluster.cancel(job)
    deleted = [line for line in server.asked if line.startswith("DELETE")]
    assert '"propagationPolicy": "Foreground"' in next(line for line in deleted if "/jobs/" in line)
    assert cluster.state(job).phase == "gone"
    assert ("networkpolicies", job) in server.things, "pods that end would have had the network again"
    cluster.tidy(job)
    assert ("networkpolicies", job) not in server.things
    cluster.cancel(job)  # of what is gone
    cluster.tidy(job)
