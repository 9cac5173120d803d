"""Kubernetes by kubectl: apply, get, delete."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

from tapestry.errors import SettingsError, Unreachable
from tapestry.host import files
from tapestry.training.clusters import commands, manifest
from tapestry.training.clusters.contract import Launch, Seen
from tapestry.training.clusters.manifest import DIGEST, ISLAND
from tapestry.training.clusters.settings import Kubernetes

_AWAY: Final = re.compile(
    r"unable to connect|connection|timed out|timeout|TLS handshake|i/o|EOF|no such host|server is currently|"
    r"too many requests|internal error|etcd|object is being deleted|AlreadyExists|object has been modified",
    re.IGNORECASE,
)
"""What kubectl says when the server, not the job, is the trouble."""
_QUOTA: Final = "exceeded quota"

Object = dict[str, Any]


class KubernetesCluster:
    """See `Cluster`. A job's name is the launch's: there is one at a time."""

    name = "kubernetes"
    by_hand = "kubectl apply -f -"

    def __init__(self, launch: Launch, settings: Kubernetes) -> None:
        self.launch = launch
        self.settings = settings
        self.poll_s = settings.poll_s
        self.digest = launch.digest(self._render(""))

    def text(self) -> str:
        return self._render(self.digest)

    def submit(self, folder: Path) -> str:
        text = self.text()
        files.write_atomic(folder / "manifest.json", text.encode())
        shutil.rmtree(folder / "meet", ignore_errors=True)
        if (left := self._look()) is not None and left.phase != "gone":
            raise Unreachable(f"the job {left.job} of an earlier start is still there")
        job = f"job/{self.launch.name}"
        self._kubectl("delete", job, "--ignore-not-found", "--cascade=foreground", "--timeout=30s")
        try:
            commands.run(self._argv("apply", "-f", "-"), given=text)
        except commands.Failed as e:
            if _AWAY.search(e.said) or _QUOTA in e.said:
                raise Unreachable(e.message) from e
            raise SettingsError(
                f"Kubernetes does not take the job: {e.said or e.message}",
                hint="correct [kubernetes] in node.toml; tapestry node script HOME shows what is submitted",
            ) from e
        return self.launch.name

    def live(self) -> list[Seen]:
        seen = self._look()
        return [] if seen is None or seen.phase == "gone" else [seen]

    def state(self, job: str) -> Seen:
        return self._look() or Seen(job=job, phase="gone", reason="deleted", lost=True)

    def cancel(self, job: str) -> None:
        self._kubectl("delete", f"job/{job}", "--ignore-not-found", "--cascade=foreground", "--wait=false")

    def tidy(self, job: str) -> None:
        """The policy goes last: pods that are about to end still read text."""
        self._kubectl("delete", f"networkpolicy/{job}", "--ignore-not-found")

    def output(self, job: str) -> str:
        return f"kubectl --namespace={self.settings.namespace} logs --prefix --selector={ISLAND}={job}"

    def _look(self) -> Seen | None:
        """The Job and its pods; None where there is no Job."""
        said = self._kubectl("get", "jobs,pods", f"--selector={ISLAND}={self.launch.name}", "--output=json")
        try:
            items = json.loads(said)["items"]
            jobs = [item for item in items if item["kind"] == "Job"]
            pods = [item for item in items if item["kind"] == "Pod"]
            if not jobs:
                return None
            return _seen(jobs[0], [pod for pod in pods if _owned(pod, jobs[0]["metadata"]["uid"])])
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Unreachable(f"kubectl answered {commands.brief(said)!r}") from e

    def _kubectl(self, *arguments: str) -> str:
        return commands.ask(self._argv(*arguments))

    def _argv(self, *arguments: str) -> list[str]:
        context = [f"--context={self.settings.context}"] if self.settings.context else []
        return ["kubectl", *context, f"--namespace={self.settings.namespace}", *arguments]

    def _render(self, digest: str) -> str:
        return json.dumps(manifest.render(self.launch, self.settings, digest), indent=2) + "\n"


def _seen(job: Object, pods: list[Object]) -> Seen:
    metadata, status = job["metadata"], job.get("status") or {}
    name, digest = str(metadata["name"]), (metadata.get("annotations") or {}).get(DIGEST)
    for condition in status.get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in ("Failed", "Complete"):
            said = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            reason = commands.brief(said) or str(condition["type"])
            return Seen(job=name, phase="gone", reason=reason, digest=digest)
    if metadata.get("deletionTimestamp"):
        return Seen(job=name, phase="ending", reason="being deleted", digest=digest)
    if any((pod.get("status") or {}).get("phase") == "Running" for pod in pods):
        return Seen(job=name, phase="running", digest=digest)
    if (job.get("spec") or {}).get("suspend"):
        return Seen(job=name, phase="queued", reason="suspended by its queue", digest=digest)
    reasons = [why for pod in pods if (why := _waits_for(pod))]
    return Seen(job=name, phase="queued", reason=reasons[0] if reasons else None, digest=digest)


def _owned(pod: Object, job: str) -> bool:
    """Whether it is a pod of this very Job, not of an earlier one with the name."""
    return any(owner["uid"] == job for owner in pod["metadata"].get("ownerReferences") or [])


def _waits_for(pod: Object) -> str | None:
    """Why a pod does not run, in words of the scheduler or of the host."""
    status = pod.get("status") or {}
    if status.get("phase") != "Pending":
        return None
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return commands.brief(": ".join(filter(None, (waiting["reason"], waiting.get("message")))))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            said = ": ".join(filter(None, (condition.get("reason"), condition.get("message"))))
            return commands.brief(said) or None
    return "starting"
