"""A fetch that breaks off goes on where it was, and a wrong beginning is not gone on with."""

from __future__ import annotations

import contextlib
import http.server
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ReleaseError, Unreachable
from tapestry.host.files import wait_for
from tapestry.release import client, sources
from tests.file_server import serving
from tests.release.support import BASE, Forge

WEIGHTS = "model.safetensors"


class Breaking(http.server.SimpleHTTPRequestHandler):
    """Understands `Range`; ends the weights early as long as it is to."""

    repository: Path
    stop_at: int | None = None
    step: int = 0
    """Bytes at once, where they come slowly."""
    pause_s = 0.02
    endless: str = ""
    """End of the name of a file that goes on for ever."""
    sent = 0
    asked: list[tuple[str, str]] = []  # noqa: RUF012 - one server at a time

    def do_GET(self) -> None:
        path = self.repository / self.path.lstrip("/")
        wanted = self.headers.get("Range", "")
        self.asked.append((path.name, wanted))
        if not path.is_file():
            self.send_error(404)
            return
        if self.endless and path.name.endswith(self.endless):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    Breaking.sent += self.wfile.write(b" " * 65_536)
            return
        data = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        whole = self.stop_at is None or not path.name.endswith(WEIGHTS)
        for at in range(start, len(data), self.step) if self.step else ():
            self.wfile.write(data[at : at + self.step])
            time.sleep(self.pause_s)
        if not self.step:
            self.wfile.write(data[start:] if whole else data[start : self.stop_at])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def url(repo: Forge) -> Iterator[str]:
    Breaking.repository, Breaking.stop_at, Breaking.step = repo.folder, None, 0
    Breaking.endless, Breaking.sent = "", 0
    Breaking.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    with serving(server) as url:
        yield url


def test_it_goes_on_where_it_was(url: str, repo: Forge, tmp_path: Path) -> None:
    def fetch() -> client.Fetched:
        return client.fetch(url, tmp_path / "out", root=repo.root, trust=tmp_path / "trust", name=BASE)

    Breaking.stop_at = 100
    with pytest.raises(Unreachable, match="cannot be read"):
        fetch()
    assert not (tmp_path / "out").exists()
    (part,) = tmp_path.glob(f".out.*/{WEIGHTS}")
    assert part.stat().st_size == 100
    Breaking.stop_at = None
    Breaking.asked.clear()
    fetch()
    assert [wanted for name, wanted in Breaking.asked if name.endswith(WEIGHTS)] == ["bytes=100-"]
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == repo.target(f"{BASE}/{WEIGHTS}").read_bytes()
    assert not list(tmp_path.glob(".out.*"))


def test_a_wrong_beginning_is_thrown_away(url: str, repo: Forge, tmp_path: Path) -> None:
    def fetch() -> client.Fetched:
        return client.fetch(url, tmp_path / "out", root=repo.root, trust=tmp_path / "trust", name=BASE)

    Breaking.stop_at = 100
    with pytest.raises(Unreachable):
        fetch()
    (part,) = tmp_path.glob(f".out.*/{WEIGHTS}")
    part.write_bytes(b"x" * 100)
    (part.parent / "evil.py").write_text("import os\n")
    Breaking.stop_at = None
    with pytest.raises(ReleaseError) as caught:
        fetch()
    assert caught.value.rule == "bytes" and not part.exists()
    fetch()
    assert not list((tmp_path / "out").rglob("evil.py"))


def test_a_mirror_that_holds_one_up(
    url: str, repo: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some bytes come every now and then, for ever. Control: a client that waits for them."""

    def fetch() -> None:
        client.releases(url, root=repo.root, trust=tmp_path / "trust")

    Breaking.step = 8
    monkeypatch.setattr(sources, "PATIENCE_S", 0.1)
    with pytest.raises(ReleaseError) as caught:
        fetch()
    assert caught.value.rule == "slow" and caught.value.hint
    Breaking.pause_s = 0.001
    monkeypatch.setattr(sources, "PATIENCE_S", 30.0)
    fetch()


@pytest.mark.parametrize("name", ["timestamp.json", "releases.json", WEIGHTS])
def test_a_file_without_an_end(url: str, repo: Forge, tmp_path: Path, name: str) -> None:
    """Neither is it received for ever, nor kept. Control: the same file, with its end."""

    def fetch() -> client.Fetched:
        return client.fetch(url, tmp_path / "out", root=repo.root, trust=tmp_path / "trust", name=BASE)

    Breaking.endless = name
    with pytest.raises(ReleaseError) as caught:
        fetch()
    assert caught.value.rule == "endless"
    wait_for(lambda: Breaking.sent, timeout_s=20)  # counted once a piece was written
    assert 0 < Breaking.sent < 32 << 20  # what lies in the buffers between
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert kept < sum(path.stat().st_size for path in repo.folder.rglob("*") if path.is_file()) * 3
    Breaking.endless = ""
    fetch()
