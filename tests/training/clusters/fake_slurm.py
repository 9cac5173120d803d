"""A Slurm of one machine: the six commands over one folder, jobs that are real processes.

`python fake_slurm.py COMMAND FOLDER ARGUMENTS`. What of Slurm 22.05 the code relies on is done as it does
it: directives with quotes, `--export=NONE`, states, exit codes, messages. Files in the folder steer it:

    hold            no job starts
    away            no command reaches the controller
    refuse          sbatch refuses every job, with this text
    forget          squeue knows no job that ended
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

KILL_WAIT_S = 3.0
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun")
ALIVE = ("PENDING", "RUNNING", "COMPLETING")
Job = dict[str, Any]


def install(folder: Path) -> Path:
    """The commands, as programs in a folder for the PATH."""
    (folder / "jobs").mkdir(parents=True)
    programs = folder / "bin"
    programs.mkdir()
    for name in COMMANDS:
        line = shlex.join([sys.executable, "-S", "-E", str(Path(__file__)), name, str(folder)])
        (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (programs / name).chmod(0o755)
    return programs


@contextmanager
def changed(folder: Path, number: str) -> Iterator[Job]:
    """One job, under a lock."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "jobs" / f"{number}.json"
        job: Job = json.loads(path.read_text())
        yield job
        put(folder, job)


def put(folder: Path, job: Job) -> None:
    path = folder / "jobs" / f"{job['id']}.json"
    path.with_suffix(".new").write_text(json.dumps(job))
    path.with_suffix(".new").replace(path)


def jobs(folder: Path) -> list[Job]:
    found = [json.loads(path.read_text()) for path in (folder / "jobs").glob("*.json")]
    return sorted(found, key=lambda job: int(job["id"]))


def end(folder: Path, number: str, state: str) -> None:
    """Take a job away: SIGTERM to its processes, SIGKILL a while later."""
    with changed(folder, number) as job:
        if job["state"] not in ALIVE:
            return
        job["ends_as"] = state
        if job["state"] == "PENDING":
            job["state"] = state
        else:
            job["state"] = "COMPLETING"
    signal_job(number, signal.SIGTERM)
    own = [sys.executable, "-S", "-E", __file__, "reap", str(folder), number]
    subprocess.run(["setsid", "--fork", *own], check=True)


def processes_of(number: str) -> list[int]:
    """Of a job: Slurm knows them by their control group, this by a variable."""
    mark, found = f"SLURM_JOB_ID={number}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def signal_job(number: str, which: int) -> None:
    for pid in processes_of(number):
        with suppress(ProcessLookupError):
            os.kill(pid, which)


def reap(folder: Path, number: str) -> int:
    deadline = time.monotonic() + KILL_WAIT_S
    while processes_of(number):
        if time.monotonic() > deadline:
            signal_job(number, signal.SIGKILL)
        time.sleep(0.05)
    return 0


def directives(script: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in script.splitlines():
        if line and not line.startswith("#"):
            break  # as sbatch does
        if line.startswith("#SBATCH "):
            for option in shlex.split(line.removeprefix("#SBATCH "), comments=True):
                name, _, value = option.removeprefix("--").partition("=")
                found[name] = value
    return found


def sbatch(folder: Path, arguments: list[str]) -> int:
    if (folder / "refuse").exists():
        sys.stderr.write(f"sbatch: error: {(folder / 'refuse').read_text()}\n")
        return 1
    script = Path(arguments[-1]).read_text()
    number = str(len(list((folder / "jobs").glob("*.json"))) + 101)
    job = {"id": number, "state": "PENDING", "script": script, "options": directives(script)}
    put(folder, job)
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if job["options"].get("export") != "NONE":  # type: ignore[attr-defined]
        environment = dict(os.environ)
    subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, "controller", str(folder), number],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(number if "--parsable" in arguments else f"Submitted batch job {number}")
    return 0


def controller(folder: Path, number: str) -> int:
    """Start one job when it may start, and see how it ends."""
    while (folder / "hold").exists():
        time.sleep(0.02)
    with changed(folder, number) as job:
        if job["state"] != "PENDING":
            return 0
        job["state"] = "RUNNING"
    options = job["options"]
    log = options["output"].replace("%j", number)
    hosts = int(options.get("nodes", "1"))
    script = folder / "jobs" / f"{number}.sh"
    script.write_text(job["script"])
    names = ",".join(f"127.0.0.{n + 1}" for n in range(hosts))
    variables = {
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": names,
        "SLURM_JOB_NUM_NODES": str(hosts),
        "SLURM_EXPORT_ENV": options.get("export", "ALL"),
    }
    with Path(log).open("ab") as out:
        shell = subprocess.Popen(
            ["bash", str(script)],
            cwd=options.get("chdir", "/"),
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        code = shell.wait()
    with changed(folder, number) as job:
        ended = job.get("ends_as")
    if ended:
        reap(folder, number)
    else:
        signal_job(number, signal.SIGKILL)
    with changed(folder, number) as job:
        job["state"] = ended or ("COMPLETED" if code == 0 else "FAILED")
    return 0


def srun(folder: Path, arguments: list[str]) -> int:
    options, files = [], {}
    while arguments[0].startswith("-"):
        options.append(arguments.pop(0))
        if options[-1] in ("--output", "--error"):
            files[options[-1]] = arguments.pop(0).replace("%j", os.environ["SLURM_JOB_ID"])
    assert "--export=ALL" in options, "the tasks would have no environment"
    tasks = []
    for number, name in enumerate(os.environ["SLURM_JOB_NODELIST"].split(",")):
        own = {"SLURM_NODEID": str(number), "SLURMD_NODENAME": name, "SLURM_PROCID": str(number)}
        streams: Job = {"env": {**os.environ, **own}, "start_new_session": True}
        if files:
            log = Path(files["--output"].replace("%t", str(number))).open("ab")  # noqa: SIM115 - the task's
            streams |= {"stdout": log, "stderr": log}
        tasks.append(subprocess.Popen(arguments, **streams))
    signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
    worst = 0
    while tasks:
        for task in list(tasks):
            if task.poll() is not None:
                tasks.remove(task)
                worst = max(worst, abs(task.returncode))
                if task.returncode and "--kill-on-bad-exit=1" in options:
                    for other in tasks:
                        other.terminate()
        time.sleep(0.02)
    return worst


def squeue(folder: Path, arguments: list[str]) -> int:
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    found = jobs(folder)
    if (folder / "forget").exists():
        found = [job for job in found if job["state"] in ALIVE]
    if "name" in given:
        found = [job for job in found if job["options"].get("job-name") == given["name"]]
    if "jobs" in given:
        found = [job for job in found if job["id"] == given["jobs"]]
        if not found:
            sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
            return 1
    if "states" not in given:
        found = [job for job in found if job["state"] in ALIVE]
    for job in found:
        reason = "Priority" if job["state"] == "PENDING" else "None"
        if job["state"] == "FAILED":
            reason = "NonZeroExitCode"
        fields = {"%i": job["id"], "%T": job["state"], "%r": reason, "%k": job["options"].get("comment", "")}
        line = given["format"]
        for name, value in fields.items():
            line = line.replace(name, value)
        print(line)
    return 0


def sacct(folder: Path, arguments: list[str]) -> int:
    given = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    for job in jobs(folder):
        if job["id"] == given["jobs"]:
            print(job["state"] + (" by 0" if job["state"] == "CANCELLED" else ""))
    return 0


def scancel(folder: Path, arguments: list[str]) -> int:
    if any(job["id"] == arguments[0] for job in jobs(folder)):
        end(folder, arguments[0], "CANCELLED")
    return 0


def scontrol(folder: Path, arguments: list[str]) -> int:
    assert arguments[:2] == ["show", "hostnames"]
    print("\n".join(arguments[2].split(",")))
    return 0


def main(name: str, folder: Path, arguments: list[str]) -> int:
    if name == "controller":
        return controller(folder, arguments[0])
    if name == "reap":
        return reap(folder, arguments[0])
    if name in ("sbatch", "squeue", "sacct", "scancel") and (folder / "away").exists():
        sys.stderr.write(f"{name}: error: Unable to contact slurm controller (connect failure)\n")
        return 1
    with (folder / "calls").open("a") as calls:
        calls.write(shlex.join([name, *arguments]) + "\n")
    return int(globals()[name](folder, arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
