"""An endpoint that is asked, and a chat: what there is where there is no network. Says how it went."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from pathlib import Path

from tapestry.cli.main import call
from tapestry.host.isolation import measure
from tapestry.sovereign.serve import server
from tapestry.sovereign.serve.engine import Engine
from tapestry.sovereign.serve.loading import load


def main(arguments: list[str]) -> int:
    (folder,) = arguments
    print(measure())
    stop = threading.Event()

    def ask(url: str) -> None:
        body = json.dumps({"model": "base", "prompt": "The ", "max_tokens": 4}).encode()
        asked = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                print(answer.status)
        finally:
            stop.set()

    server.serve(
        Engine(load(Path(folder), device="cpu")),
        server.Where(port=0),
        waiting=1,
        ready=lambda url: threading.Thread(target=ask, args=[url]).start(),
        tell=lambda *_: None,
        stop=stop,
    )
    chat = ["chat", folder, "--prompt", "The ", "--max-tokens", "3", "--device", "cpu", "--json"]
    print(call(chat))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
