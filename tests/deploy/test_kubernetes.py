"""The manifests, as far as they can be held without a cluster: well-formed, each reference leads somewhere,
commands exist, probes ask what is answered, and containers may do little. The core's set-up is run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapestry.core import settings
from tapestry.core.home import Home
from tests.docs.test_commands import ROOT_COMMAND, check

FILES = sorted((Path(__file__).parents[2] / "deploy/kubernetes").glob("*.yaml"))
API = {
    "Service": "v1", "StatefulSet": "apps/v1", "Deployment": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}  # fmt: skip
WORKLOADS = ("StatefulSet", "Deployment")


def documents() -> list[dict[str, Any]]:
    return [each for path in FILES for each in yaml.safe_load_all(path.read_text())]


def workloads() -> list[dict[str, Any]]:
    return [each for each in documents() if each["kind"] in WORKLOADS]


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each with the pod it is in."""
    for each in workloads():
        pod = each["spec"]["template"]["spec"]
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            yield container, pod


def test_what_there_is() -> None:
    assert [path.stem for path in FILES] == ["core", "node", "web"]
    assert [each["metadata"]["name"] for each in workloads()] == [
        "tapestry-core", "tapestry-node", "tapestry-web"
    ]  # fmt: skip
    for each in documents():
        assert each["apiVersion"] == API[each["kind"]]
        assert each["metadata"]["namespace"] == "tapestry"


def test_names_lead_somewhere() -> None:
    pods = {}
    for each in workloads():
        spec = each["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        pods[labels["app.kubernetes.io/name"]] = spec["template"]["spec"]
        claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())}
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]} | claims
        for container in [*pods[labels["app.kubernetes.io/name"]].get("initContainers", ()),
                          *pods[labels["app.kubernetes.io/name"]]["containers"]]:  # fmt: skip
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for each in documents():
        if each["kind"] == "NetworkPolicy":
            assert each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] in pods
        if each["kind"] == "Service":
            pod = pods[each["spec"]["selector"]["app.kubernetes.io/name"]]
            named = {port["name"] for c in pod["containers"] for port in c["ports"]}
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= named


def test_containers_may_do_little() -> None:
    for container, pod in containers():
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            assert name not in pod
        held = container["securityContext"]
        assert held["allowPrivilegeEscalation"] is False and held["readOnlyRootFilesystem"] is True
        assert held["capabilities"] == {"drop": ["ALL"]} and "privileged" not in held
        assert "env" not in container  # a secret is a file
        assert "/" not in container["image"] and "limits" in container.get("resources", {"limits": 0})
        for volume in pod["volumes"]:
            assert "hostPath" not in volume


def test_commands_exist() -> None:
    for container, _ in containers():
        if container["command"] != ["tapestry"]:
            continue
        words = container["args"]
        if words[0] not in ROOT_COMMAND.commands:
            continue  # the dashboard, where this tree has none
        check(" ".join(["tapestry", *words]))


def test_probes_ask_what_is_answered() -> None:
    from tapestry.core.api import Api

    source = Path(Api.app.__code__.co_filename).read_text()
    for container, _ in containers():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(name)
            if probe is None:
                continue
            asked = probe.get("httpGet") or probe["tcpSocket"]
            assert asked["port"] in ports
            if path := asked.get("path"):
                assert path == "/healthz" or f'("GET", "{path}"' in source


def test_the_cores_set_up_makes_a_core(tmp_path: Path) -> None:
    """The init container's own script, run twice: as at the first start of the pod, and at each later one."""
    core = next(each for each in workloads() if each["metadata"]["name"] == "tapestry-core")
    pod = core["spec"]["template"]["spec"]
    (init,) = pod["initContainers"]
    script = init["args"][0].replace("/var/lib/tapestry", str(tmp_path))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    tapestry = bin_folder / "tapestry"
    tapestry.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m tapestry.cli.main "$@"\n')
    tapestry.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    for _ in range(2):
        argv = [*init["command"], script]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    made = settings.load(Home(tmp_path / "core"))
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert (made.host, made.port) == ("0.0.0.0", ports["https"])
    assert (made.metrics.host, made.metrics.port) == ("0.0.0.0", ports["metrics"])
    assert made.tls is not None
    mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert str(Path(made.tls.certificate).parent) in mounted
    annotations = core["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_the_dashboard_answers_to_the_name_of_its_ingress() -> None:
    web = next(each for each in workloads() if each["metadata"]["name"] == "tapestry-web")
    words = web["spec"]["template"]["spec"]["containers"][0]["args"]
    said = {key: value for key, value in itertools.pairwise(words) if key.startswith("--")}
    assert said["--origin"] == f"https://{said['--name']}"


def test_keys_on_a_volume_stay_their_owners(tmp_path: Path) -> None:
    """A volume that is given to a group has every file of it made readable and writable for that group; the
    core's at its first start, when it is empty, the node's when it has been filled."""
    for each in workloads():
        pod = each["spec"]["template"]["spec"]["securityContext"]
        if "fsGroup" in pod:
            assert pod["fsGroupChangePolicy"] == "OnRootMismatch", each["metadata"]["name"]
    node = next(each for each in workloads() if each["metadata"]["name"] == "tapestry-node")
    (init,) = node["spec"]["template"]["spec"]["initContainers"]
    key = tmp_path / "node" / "keys" / "node.key"
    key.parent.mkdir(parents=True)
    key.touch()
    key.chmod(0o660)
    given = {"/var/lib/tapestry": str(tmp_path), "10001": str(os.getuid())}
    argv = [*init["command"], *init["args"]]
    for there, here in given.items():
        argv = [word.replace(there, here) for word in argv]
    subprocess.run(argv, timeout=60, check=True)
    assert key.stat().st_mode & 0o777 == 0o600 and not key.parent.stat().st_mode & 0o077


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_says_how_it_is_used(path: Path) -> None:
    assert path.read_text().startswith("# ")
