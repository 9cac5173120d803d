"""Checks of this machine, whatever is to live on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from tapestry.cli.checkup.finding import Finding
from tapestry.cli.failures import OWNER_HINT
from tapestry.cli.output import human_bytes

MIN_PYTHON: Final = (3, 11)
MIN_FREE_BYTES: Final = 2 * 10**9
GOOD_FREE_BYTES: Final = 20 * 10**9
SLOW_SYNC_S: Final = 0.05
FILES_WANTED: Final = 1024
EARLIEST: Final = 1_750_000_000
"""No clock of a machine that runs this release is before June 2025."""

EXTRA_MODULES: Final = {
    "arithmetic": ("torch", "numpy", "safetensors"),
    "core": ("fastapi", "uvicorn", "sqlalchemy", "alembic", "obstore", "structlog", "uvloop"),
    "node": ("httpx", "transformers", "tokenizers", "obstore", "structlog"),
    "demo": ("matplotlib",),
    "web": ("fastapi", "httpx", "jinja2", "uvicorn"),
    "metrics": ("prometheus_client",),
}


def check_python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform(terse=True)}"
    if sys.version_info < MIN_PYTHON:
        return Finding(check="python", verdict="fail", found=found, mend="install Python 3.11 or newer")
    if sys.platform != "linux":
        mend = "run nodes and core on Linux: elsewhere processes cannot be cut off from the network"
        return Finding(check="python", verdict="warn", found=found, mend=mend)
    return Finding(check="python", verdict="ok", found=found)


def check_packages() -> Finding:
    """Which extras are whole; a light install is fit for auditing."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from tapestry import __version__

    missing = {
        extra: [module for module in modules if find_spec(module) is None]
        for extra, modules in EXTRA_MODULES.items()
    }
    lacking = {extra: modules for extra, modules in missing.items() if modules}
    try:
        installed = version("tapestry")
    except PackageNotFoundError:
        installed = __version__
    found = f"tapestry {installed}; extras " + (
        ", ".join(e for e in EXTRA_MODULES if e not in lacking) or "none"
    )
    if lacking:
        what = "; ".join(f"{extra} lacks {', '.join(modules)}" for extra, modules in lacking.items())
        return Finding(
            check="packages",
            verdict="warn",
            found=f"{found} ({what})",
            mend=f"install what is to be used here: pip install 'tapestry[{','.join(lacking)}]'",
        )
    return Finding(check="packages", verdict="ok", found=found)


def check_torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as e:
        reason = "not installed" if isinstance(e, ModuleNotFoundError) else str(e)[:120]
        mend = "install it first and exactly: pip install torch==2.13.0"
        return Finding(check="torch", verdict="fail", found=reason, mend=mend)
    devices = f"{torch.get_num_threads()} threads" + (
        f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    )
    found = f"torch {torch.__version__}, {devices}"
    if not torch.distributed.is_available():
        return Finding(
            check="torch", verdict="fail", found=found, mend="install a build with torch.distributed"
        )
    return Finding(check="torch", verdict="ok", found=found)


def check_disk(folder: Path) -> Finding:
    """Free space, and how long a durable write takes."""
    try:
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
    except OSError as e:  # a folder above it is shut to this user
        return Finding(check="disk", verdict="fail", found=f"{folder}: {e.strerror}", mend=OWNER_HINT)
    probe = existing / f".tapestry-doctor-{os.getpid()}"
    try:
        began = time.perf_counter()
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, b"x" * 4096)
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()
        sync_s = time.perf_counter() - began
    except OSError as e:
        mend = f"give a folder this user may write to: --home, instead of {existing}"
        return Finding(check="disk", verdict="fail", found=f"{existing}: {e.strerror}", mend=mend)
    found = f"{human_bytes(free)} free at {existing}, a durable write takes {sync_s * 1000:.1f} ms"
    if free < MIN_FREE_BYTES:
        return Finding(
            check="disk", verdict="fail", found=found, mend="free at least 2 GB, or choose another --home"
        )
    if free < GOOD_FREE_BYTES:
        mend = "enough for the demo; a real run keeps many contributions"
        return Finding(check="disk", verdict="warn", found=found, mend=mend)
    if sync_s > SLOW_SYNC_S:
        mend = "put the home on a local disk; every acknowledged contribution waits for it"
        return Finding(check="disk", verdict="warn", found=found, mend=mend)
    return Finding(check="disk", verdict="ok", found=found)


def check_clock() -> Finding:
    """Certificates have dates, so a clock that is years off locks a node out."""
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < EARLIEST:
        mend = "set the clock: timedatectl set-ntp true"
        return Finding(check="clock", verdict="fail", found=f"{found} is in the past", mend=mend)
    return Finding(check="clock", verdict="ok", found=found)


def check_isolation() -> Finding:
    """Whether a child without a network can be had, found by making one."""
    import subprocess

    code = "import os; print(os.environ.get('TAPESTRY_ISOLATION', 'process'))"
    command = [sys.executable, "-m", "tapestry.host.isolation", "--", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return Finding(
            check="network namespace", verdict="warn", found=str(e)[:120], mend="nodes run at level process"
        )
    level = done.stdout.strip()
    if level == "netns":
        return Finding(check="network namespace", verdict="ok", found="the trainer runs without a network")
    return Finding(
        check="network namespace",
        verdict="warn",
        found=f"none to be had; nodes run at level {level or 'process'}",
        mend="allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or run the container with "
        "--security-opt seccomp=unconfined)",
    )


def check_landlock() -> Finding:
    """Whether the agent can be kept from files, found by asking the kernel."""
    from tapestry.host import landlock

    found = landlock.version()
    if found >= 2:
        return Finding(
            check="landlock", verdict="ok", found="the agent reads no text, nor the trainer's folders"
        )
    return Finding(
        check="landlock",
        verdict="warn",
        found="none to be had; the agent could read text, and nodes run at level none",
        mend="take a kernel from 5.19 on with landlock among /sys/kernel/security/lsm, or run the node as "
        "root with agent_user",
    )


def check_port(port: int) -> Finding:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as e:
            mend = "stop what listens there, or give core init another --port"
            return Finding(check="port", verdict="warn", found=f"{port}: {e.strerror}", mend=mend)
    return Finding(check="port", verdict="ok", found=f"{port} on loopback is free")


def check_limits() -> Finding:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{cores} cores, {soft} open files"
    if 0 <= soft < FILES_WANTED:
        return Finding(check="limits", verdict="warn", found=found, mend=f"ulimit -n {FILES_WANTED}")
    return Finding(check="limits", verdict="ok", found=found)
