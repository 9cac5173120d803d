"""A process without a network: a network namespace of its own, with nothing in it but loopback.

`python -m tapestry.host.isolation -- CMD...` drops the network and becomes CMD.

What this closes: every TCP and UDP address outside, services on the machine's own loopback, and
abstract Unix sockets. What it does not close: Unix sockets with a path, which are files and guarded
as such.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final, Literal

Level = Literal["netns", "process"]
"""`netns`: the kernel sees to it. `process`: only the separation of processes and their imports."""

LEVEL_VARIABLE: Final = "TAPESTRY_ISOLATION"

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_OUTSIDE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))  # documentation's own
_NO_WAY: Final = frozenset(
    {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH, errno.ENETDOWN}
)


def drop_network() -> Level:
    """Leave the network for good, and bring up a loopback that only this process and its children share.

    As root in a new network namespace; otherwise, or where root may not, in a user namespace that maps
    the user to itself. All or nothing: it is tried in a forked child first.

    Returns:
        `netns`, or `process` where the kernel or a container's rules refuse; nothing has changed then.

    Raises:
        RuntimeError: this process has several threads; the others would keep the network.
    """
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("drop_network must be called before the process starts threads")
    for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
        if _works(flags):
            _enter(flags)
            return measure()
    return "process"


def measure() -> Level:
    """The level this process has, found by trying: with `netns` no address outside has a route.

    Sends nothing: a datagram socket looks for the route when it is connected. Reports `netns` on a
    machine that has no network at all.
    """
    for family, address in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
        except OSError as e:
            if e.errno in _NO_WAY:
                continue
            raise
        return "process"
    return "netns"


def _works(flags: int) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _enter(flags)
            code = 0 if measure() == "netns" else 1
        except BaseException:  # noqa: BLE001 - the answer is the exit code
            code = 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _enter(flags: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    if flags & _CLONE_NEWUSER:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
        present = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", present | _IFF_UP))


if __name__ == "__main__":
    from tapestry.host.exec import main

    sys.exit(main(["--isolate", *sys.argv[1:]]))
