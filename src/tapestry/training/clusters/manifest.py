"""The manifest of a node's ranks on Kubernetes: an indexed Job and the network policy that holds it.

The pods find each other through a file in the home that all of them mount, not through a Service: names
would need DNS, and a DNS server that forwards is a way out for whoever may ask it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import PurePosixPath
from typing import Any, Final

from tapestry.errors import SettingsError
from tapestry.training import launcher
from tapestry.training.clusters.contract import Launch
from tapestry.training.clusters.settings import HINT, Kubernetes

ISLAND: Final = "tapestry/island"
"""Label of the Job, its pods and its policy: the launch's name."""
DIGEST: Final = "tapestry/digest"
PORT: Final = 29400
GRACE_S: Final = 60
"""Between SIGTERM, at which the trainer writes a checkpoint, and SIGKILL."""
KEEP_S: Final = 86400
"""A Job that ended stays so long for people to look at, unless another takes its name."""

Object = dict[str, Any]


def render(launch: Launch, given: Kubernetes, digest: str) -> Object:
    """A List: first the policy, so that no pod is there before it."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [_policy(launch, given, digest), _job(launch, given, digest)],
    }


def _metadata(launch: Launch, given: Kubernetes, digest: str) -> Object:
    return {
        "name": launch.name,
        "namespace": given.namespace,
        "labels": {**given.labels, ISLAND: launch.name},
        "annotations": {DIGEST: digest},
    }


def _policy(launch: Launch, given: Kubernetes, digest: str) -> Object:
    """The pods of the job talk to each other, and to nobody else: not even to DNS."""
    selector = {"matchLabels": {ISLAND: launch.name}}
    peers = [{"podSelector": selector}] if launch.hosts > 1 else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(launch, given, digest),
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers}] if peers else [],
            "egress": [{"to": peers}] if peers else [],
        },
    }


def _job(launch: Launch, given: Kubernetes, digest: str) -> Object:
    spec: Object = {
        "completionMode": "Indexed",
        "completions": launch.hosts,
        "parallelism": launch.hosts,
        "backoffLimit": given.max_restarts * launch.hosts,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
            ]
        },
        "ttlSecondsAfterFinished": KEEP_S,
        "template": {
            "metadata": {"labels": {ISLAND: launch.name}},
            "spec": _pod(launch, given),
        },
    }
    if given.time_limit_s is not None:
        spec["activeDeadlineSeconds"] = given.time_limit_s
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(launch, given, digest),
        "spec": spec,
    }


def _pod(launch: Launch, given: Kubernetes) -> Object:
    user = given.run_as_user or os.getuid()
    if user == 0:
        raise SettingsError(
            "the pods do not run as root: run_as_user in [kubernetes] is needed where root runs the node",
            hint="give the number of the user that owns the node's folder",
        )
    group = given.run_as_group or (0 if given.run_as_user else os.getgid()) or user
    mounts, volumes = _volumes(given)
    pod: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": group,
            "fsGroup": group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(launch, given, mounts)],
        "volumes": volumes,
        "nodeSelector": given.node_selector,
        "tolerations": [each.model_dump(exclude_none=True) for each in given.tolerations],
        "serviceAccountName": given.service_account,
        "priorityClassName": given.priority_class,
        "runtimeClassName": given.runtime_class,
        "imagePullSecrets": [{"name": given.pull_secret}] if given.pull_secret else None,
    }
    return {name: value for name, value in pod.items() if value not in (None, {}, [])}


def _container(launch: Launch, given: Kubernetes, mounts: list[Object]) -> Object:
    variables = {
        **{name: value for name, value in launch.environment(given.interface).items() if value is not None},
        "HOME": "/tmp",  # noqa: S108 - the pod's own
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {
        "name": "ranks",
        "image": given.image,
        "command": ["/bin/sh", "-c", script(launch, given)],
        "workingDir": given.mount_path,
        "env": [
            *({"name": name, "value": value} for name, value in variables.items()),
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "JOB_UID", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{CONTROLLER}']"}}},
        ],
        "resources": _resources(launch, given),
        "volumeMounts": mounts,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


CONTROLLER: Final = "batch.kubernetes.io/controller-uid"
"""Which Job a pod is of, also after another took its name (Kubernetes 1.27)."""


def script(launch: Launch, given: Kubernetes) -> str:
    """What each pod runs. The first tells the others its address."""
    one_host = launch.hosts == 1
    torchrun = launcher.torchrun(
        given.mount_path,
        launch.training.processes,
        meet=launcher.ONE_HOST if one_host else launch.meet,
        max_restarts=given.max_restarts,
    )
    if one_host:
        alone = [given.python, "-P", "-m", "tapestry.host.isolation", "--", given.python, *torchrun]
        return f"exec {shlex.join(alone)}"
    folder = shlex.quote(str(PurePosixPath(given.mount_path) / "launch" / "meet"))
    return f"""\
set -eu
case "$POD_IP" in *:*) address="[$POD_IP]" ;; *) address="$POD_IP" ;; esac
meet={folder}/"$JOB_UID"
first=0
if [ "$JOB_COMPLETION_INDEX" = 0 ]; then
  first=1
  mkdir -p {folder}
  printf %s "$address" >"$meet.new"
  mv "$meet.new" "$meet"
fi
until [ -s "$meet" ]; do sleep 1; done
exec {shlex.join([given.python, *torchrun[:3]])} --rdzv-id="$JOB_UID" \\
  --rdzv-endpoint="$(cat "$meet"):{PORT}" --rdzv-conf=is_host="$first" --local-addr="$POD_IP" \\
  {shlex.join(torchrun[3:])}"""


def _resources(launch: Launch, given: Kubernetes) -> Object:
    training = launch.training
    requests: dict[str, str] = {"cpu": given.cpu_request or str(training.processes * training.threads)}
    limits: dict[str, str] = {}
    if given.memory_request:
        requests["memory"] = given.memory_request
    if given.cpu_limit:
        limits["cpu"] = given.cpu_limit
    if given.memory_limit:
        limits["memory"] = given.memory_limit
    if gpus := launch.gpus(given.gpus_per_host):
        limits[given.gpu_resource] = str(gpus)
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _volumes(given: Kubernetes) -> tuple[list[Object], list[Object]]:
    """Mounts and volumes. Over the node's keys lies an empty folder: the ranks sign nothing."""
    keys = str(PurePosixPath(given.mount_path) / "keys")
    mounts: list[Object] = [
        _mount("home", given.mount_path, given.sub_path, read_only=False),
        _mount("no-keys", keys, None, read_only=True),
        _mount("tmp", "/tmp", None, read_only=False),  # noqa: S108 - the pod's own
        _mount("shm", "/dev/shm", None, read_only=False),  # noqa: S108
    ]
    memory = {"medium": "Memory", "sizeLimit": given.shared_memory}
    volumes: list[Object] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": given.claim}},
        {"name": "no-keys", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": memory},
    ]
    for number, more in enumerate(given.volumes):
        name = f"data-{number}"
        mounts.append(_mount(name, more.mount_path, more.sub_path, read_only=more.read_only))
        claim = {"claimName": more.claim, "readOnly": more.read_only}
        volumes.append({"name": name, "persistentVolumeClaim": claim})
    paths = [PurePosixPath(mount["mountPath"]) for mount in mounts]
    if any(".." in path.parts for path in paths) or len(set(paths)) != len(paths):
        raise SettingsError("mount paths in [kubernetes] must differ, and have no ..", hint=HINT)
    return mounts, volumes


def _mount(name: str, path: str, sub_path: str | None, *, read_only: bool) -> Object:
    mount: Object = {"name": name, "mountPath": path}
    if sub_path is not None:
        mount["subPath"] = sub_path
    if read_only:
        mount["readOnly"] = True
    return mount
