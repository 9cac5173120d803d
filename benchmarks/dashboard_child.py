"""A dashboard of `benchmarks.dashboard` in a process of its own: CORE_URL FOLDER CORE_HOME."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tapestry.core.service import Core
from tapestry.identity.keys import KeyPair
from tapestry.transport.connection import Connection
from tapestry.web.serve import serve
from tapestry.web.settings import WebSettings


def main() -> None:
    url, folder, home = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    key = KeyPair.from_pem((home / "viewer.pem").read_bytes())
    with Core.open(home) as core:
        consortium = core.consortium.id
    settings = WebSettings(core_url=url, port=0, opened="member", state=folder)

    def ready(address: str, _mine: str | None) -> None:
        sys.stdout.write(json.dumps({"url": address}) + "\n")
        sys.stdout.flush()

    serve(settings, Connection(url, consortium, key, ca=None, connections=2), ready=ready)


if __name__ == "__main__":
    main()
