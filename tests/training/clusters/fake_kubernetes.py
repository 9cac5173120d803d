"""A Kubernetes of one machine: kubectl over one folder, pods that are real processes.

`python fake_kubernetes.py kubectl FOLDER ARGUMENTS`. A container's command runs as it stands in the manifest,
with its environment and nothing else; volumes are not mounted, so a claim's mount path must be the home
itself. Pods have the addresses 127.0.0.1, 127.0.0.2 and so on. Files in the folder steer it:

    hold      pods stay Pending, unschedulable
    away      the server does not answer
    refuse    the server takes nothing, with this text
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KILL_WAIT_S = 3.0
Object = dict[str, Any]


def install(folder: Path) -> Path:
    """kubectl, as a program in a folder for the PATH."""
    (folder / "objects").mkdir(parents=True)
    programs = folder / "bin"
    programs.mkdir()
    line = shlex.join([sys.executable, "-S", "-E", str(Path(__file__)), "kubectl", str(folder)])
    (programs / "kubectl").write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    (programs / "kubectl").chmod(0o755)
    return programs


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put(folder: Path, thing: Object) -> None:
    path = folder / "objects" / f"{thing['kind']}.{thing['metadata']['name']}.json"
    path.with_suffix(".new").write_text(json.dumps(thing))
    path.with_suffix(".new").replace(path)


def get(folder: Path, kind: str, name: str) -> Object | None:
    with suppress(FileNotFoundError):
        found: Object = json.loads((folder / "objects" / f"{kind}.{name}.json").read_text())
        return found
    return None


def objects(folder: Path, *kinds: str) -> list[Object]:
    found = []
    for path in sorted((folder / "objects").glob("*.json")):
        with suppress(FileNotFoundError):
            found.append(json.loads(path.read_text()))
    return [thing for thing in found if thing["kind"] in kinds]


def remove(folder: Path, kind: str, name: str) -> None:
    (folder / "objects" / f"{kind}.{name}.json").unlink(missing_ok=True)


def main(folder: Path, arguments: list[str]) -> int:
    if (folder / "away").exists():
        sys.stderr.write("Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout\n")
        return 1
    with (folder / "calls").open("a") as calls:
        calls.write(shlex.join(arguments) + "\n")
    words = [word for word in arguments if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    with locked(folder):
        if words[0] == "apply":
            return apply(folder, sys.stdin.read())
        if words[0] == "get":
            return show(folder, options)
    return delete(folder, words[1:], wait=options.get("wait", "true") == "true")


def apply(folder: Path, text: str) -> int:
    if (folder / "refuse").exists():
        sys.stderr.write((folder / "refuse").read_text() + "\n")
        return 1
    for thing in json.loads(text)["items"]:
        if thing["kind"] == "Job" and get(folder, "Job", thing["metadata"]["name"]) is None:
            thing["metadata"]["uid"] = str(uuid.uuid4())
            thing["status"] = {}
            put(folder, thing)
            start(folder, thing)
        put(folder, thing)
        print(f"{thing['kind']}/{thing['metadata']['name']} created")
    return 0


def start(folder: Path, job: Object) -> None:
    own = [sys.executable, "-S", "-E", __file__, "controller", str(folder), job["metadata"]["name"]]
    subprocess.run(
        ["setsid", "--fork", *own],
        check=True,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def show(folder: Path, options: dict[str, str]) -> int:
    label, _, value = options["selector"].partition("=")
    items = [
        thing
        for thing in objects(folder, "Job", "Pod")
        if thing["metadata"].get("labels", {}).get(label) == value
    ]
    print(json.dumps({"kind": "List", "items": items}))
    return 0


def delete(folder: Path, names: list[str], *, wait: bool) -> int:
    for word in names:
        kind, _, name = word.partition("/")
        if kind == "networkpolicy":
            remove(folder, "NetworkPolicy", name)
            continue
        with locked(folder):
            job = get(folder, "Job", name)
            if job is not None:
                job["metadata"]["deletionTimestamp"] = "now"
                put(folder, job)
        while wait and get(folder, "Job", name) is not None:
            time.sleep(0.02)
    return 0


class Controller:
    """Starts the pods of one Job, starts failed ones again, and removes all when it is deleted."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        job = get(folder, "Job", name)
        assert job is not None
        self.uid, self.spec = job["metadata"]["uid"], job["spec"]
        self.pods: dict[int, subprocess.Popen[bytes]] = {}
        self.failures = self.made = 0
        self.done: set[int] = set()

    def run(self) -> None:
        while True:
            with locked(self.folder):
                job = get(self.folder, "Job", self.name)
                if job is None or job["metadata"].get("deletionTimestamp"):
                    return self.end(job)
                if self.ended(job):
                    self.end(None)
                    job = get(self.folder, "Job", self.name) or job
                    put(self.folder, job)
                self.tend()
            time.sleep(0.03)

    def ended(self, job: Object) -> bool:
        if job["status"].get("conditions"):
            return False
        condition = None
        if self.failures > self.spec["backoffLimit"]:
            condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
            condition["message"] = "Job has reached the specified backoff limit"
        elif len(self.done) == self.spec["completions"]:
            condition = {"type": "Complete", "status": "True"}
        if condition:
            job["status"]["conditions"] = [condition]
            put(self.folder, job)
        return condition is not None

    def tend(self) -> None:
        job = get(self.folder, "Job", self.name)
        if job is None or job["status"].get("conditions"):
            return
        for index in range(self.spec["completions"]):
            pod = self.pods.get(index)
            if index in self.done:
                continue
            if pod is None:
                self.begin(index)
            elif pod.poll() is not None:
                del self.pods[index]
                self.show(index, "Succeeded" if pod.returncode == 0 else "Failed")
                self.failures += pod.returncode != 0
                if pod.returncode == 0:
                    self.done.add(index)

    def begin(self, index: int) -> None:
        if (self.folder / "hold").exists():
            return self.show(index, "Pending")
        container = self.spec["template"]["spec"]["containers"][0]
        address = f"127.0.0.{index + 1}"
        fields = {
            "status.podIP": address,
            "metadata.labels['batch.kubernetes.io/controller-uid']": self.uid,
        }
        environment = {"PATH": os.environ["PATH"], "JOB_COMPLETION_INDEX": str(index)}
        for variable in container["env"]:
            source = variable.get("valueFrom")
            environment[variable["name"]] = (
                fields[source["fieldRef"]["fieldPath"]] if source else variable["value"]
            )
        self.made += 1
        with (self.folder / f"pod-{index}.log").open("ab") as log:
            self.pods[index] = subprocess.Popen(
                container["command"],
                env=environment,
                cwd=container["workingDir"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.show(index, "Running")

    def show(self, index: int, phase: str) -> None:
        status: Object = {"phase": phase}
        if phase == "Pending":
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            status["conditions"] = [{**condition, "message": message}]
        name = f"{self.name}-{index}"
        labels = self.spec["template"]["metadata"]["labels"]
        owners = [{"kind": "Job", "name": self.name, "uid": self.uid}]
        metadata = {"name": name, "labels": labels, "ownerReferences": owners}
        put(self.folder, {"kind": "Pod", "metadata": metadata, "status": status})

    def end(self, job: Object | None) -> None:
        """All pods: SIGTERM to the first process of each, SIGKILL a while later."""
        for pod in self.pods.values():
            if pod.poll() is None:
                pod.terminate()
        deadline = time.monotonic() + KILL_WAIT_S
        for pod in self.pods.values():
            with suppress(subprocess.TimeoutExpired):
                pod.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)
            pod.wait()
        for index in range(self.spec["completions"]):
            remove(self.folder, "Pod", f"{self.name}-{index}")
        self.pods.clear()
        if job is not None:
            remove(self.folder, "Job", self.name)


if __name__ == "__main__":
    if sys.argv[1] == "controller":
        Controller(Path(sys.argv[2]), sys.argv[3]).run()
    else:
        sys.exit(main(Path(sys.argv[2]), sys.argv[3:]))
