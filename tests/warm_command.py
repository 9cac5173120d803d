"""`tapestry` for a guide's shell, forked warm: run as a program, with the standard library alone.

Takes the place of itself in a terminal: the same input and output, its signals passed on, the same exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main() -> int:
    words = [sys.executable, "-P", "-m", "tapestry.cli.main", *sys.argv[1:]]
    said = json.dumps([words, [], dict(os.environ), os.getcwd(), True]).encode()  # noqa: PTH109
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["TAPESTRY_TEST_WARM"])
    socket.send_fds(connection, [len(said).to_bytes(4, "big") + said[:4096]], [0, 1, 2])
    connection.sendall(said[4096:])
    pid = int(connection.recv(32))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _frame: os.kill(pid, which))
    code = int(connection.recv(32))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
