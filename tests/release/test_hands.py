"""What passes through other hands: a draft that others can write to, a mirror that never comes to an end, a
model that brings more than weights, a repository that has run out."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import socketserver
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api import _payload
from tuf.api.exceptions import DownloadHTTPError, SlowRetrievalError

from tapestry.errors import InputError, KeyRefused, ReleaseError, Unreachable
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.protocol.artifact import Blob, ModelFile
from tapestry.release import card, checking, client, contents, derived, holder, published, sources
from tapestry.release.checking import Checked
from tapestry.release.leakage import Leakages
from tests.file_server import serving
from tests.release.support import BASE, HOLDERS, OPEN, Forge, World, now

NO_LEAKAGE = Leakages(release=BASE, reports=())


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Checked]]:
    """An accepted release, and its draft; not to be changed by tests."""
    made = World(tmp_path_factory.mktemp("hands") / "core", **OPEN)
    with made.core:
        made.trained()
        made.accepted()
        yield made, made.draft()


# -- a draft that others can write to -------------------------------------------------------------------


def published_from(world: World, folder: Path, to: Path, after: Callable[[], object], **given: Any) -> None:
    """Check a draft, let somebody do something to it, and publish it."""
    checked = checking.check(folder, world.view(), now())
    root, targets, models = holder.collect(checked, [world.signed(checked, name) for name in HOLDERS[:2]])
    after()
    fields: dict[str, Any] = {"online": world.online, **given}
    published.write(
        to,
        before=None,
        root=root,
        targets=targets,
        new_files=checked.sources(),
        signatures={BASE: models},
        now=now(),
        **fields,
    )


@pytest.mark.parametrize("how", ["link", "bytes", "longer", "pipe", "gone", None])
def test_a_draft_that_changes_after_it_was_checked(
    drafted: tuple[World, Checked], tmp_path: Path, how: str | None
) -> None:
    """A key of the operator's machine would come into the folder that is given out. Control: no change."""
    world, made = drafted
    folder = Path(shutil.copytree(made.folder, tmp_path / "draft"))
    (tmp_path / "secret").write_text("a private key")
    card_of, to = folder / derived.MODEL / contents.CARD, tmp_path / "repository"

    def change() -> None:
        data = card_of.read_bytes()
        if how is not None:
            card_of.unlink()
        if how == "link":
            card_of.symlink_to(tmp_path / "secret")
        elif how == "pipe":
            os.mkfifo(card_of)
        elif how in ("bytes", "longer"):
            card_of.write_bytes(data + b" " if how == "longer" else data[:-1] + b" ")

    if how is None:
        published_from(world, folder, to, change)
    else:
        with pytest.raises(ReleaseError, match="has changed since it was checked") as caught:
            published_from(world, folder, to, change)
        assert caught.value.hint and published.load(to) is None
    assert not any(path.read_bytes() == b"a private key" for path in to.rglob("*") if path.is_file())
    assert not list(to.rglob("*.tmp"))


def test_nothing_is_written_with_a_key_that_the_root_does_not_name(
    drafted: tuple[World, Checked], tmp_path: Path
) -> None:
    """A new root that lay there alone would be fetched, and no list would be signed as it asks for."""
    world, made = drafted
    to = tmp_path / "repository"
    with pytest.raises(KeyRefused):
        published_from(world, made.folder, to, lambda: None, online=KeyPair.generate())
    assert not list(to.rglob("*.json"))
    published_from(world, made.folder, to, lambda: None)


def test_a_root_is_seen_no_sooner_than_the_snapshot(
    drafted: tuple[World, Checked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = files.write_atomic

    def writes(path: Path, data: bytes, **given: Any) -> None:
        written.append(path.name)
        write(path, data, **given)

    monkeypatch.setattr(files, "write_atomic", writes)
    world, made = drafted
    published_from(world, made.folder, tmp_path / "repository", lambda: None)
    assert written[-4:] == ["1.targets.json", "1.snapshot.json", "1.root.json", "timestamp.json"]


def test_holders_with_another_version_of_the_library(
    drafted: tuple[World, Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes the version of TUF's specification that it knows, where nobody tells it one."""
    world, made = drafted
    monkeypatch.setattr(_payload, "SPECIFICATION_VERSION", ["1", "0", "99"])
    assert _payload.Targets().spec_version == "1.0.99"
    checking.check(made.folder, world.view(), now())


# -- a model that brings more than weights --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("modeling_own.py", False),
        ("pytorch_model.bin", False),
        ("adapter_config.json", False),
        ("model.safetensors.index.json", False),
        ("signatures", False),
        ("provenance", False),
        ("tokenizer.json", True),
        ("chat_template.jinja", True),
    ],
)
def test_a_model_with_code_or_other_weights(drafted: tuple[World, Checked], path: str, good: bool) -> None:
    """`from_pretrained` takes another model where it finds adapter_config.json; pickles run code."""
    _, made = drafted
    assert made.facts is not None
    chain = contents.chain(made.folder / derived.MODEL, made.facts.state)
    more = ModelFile(path=path, blob=Blob(sha256="0" * 64, bytes=1))
    model = chain.model.model_copy(update={"files": (*chain.model.files, more)})
    changed = contents.Chain(state=chain.state, model=model, layout=chain.layout, base=chain.base)
    if good:
        assert path in changed.paths()
        return
    with pytest.raises(ReleaseError, match="brings a file of its own") as caught:
        changed.paths()
    assert caught.value.hint


@pytest.mark.parametrize(
    "licence", ["MIT", "CC-BY-4.0", "MIT\nbase_model: somebody/else", 'x"\n---\n# Another model']
)
def test_a_licence_is_one_line_of_the_front_matter(drafted: tuple[World, Checked], licence: str) -> None:
    _, made = drafted
    assert made.facts is not None
    chain = contents.chain(made.folder / derived.MODEL, made.facts.state)
    model = chain.model.model_copy(update={"licence": licence})
    changed = contents.Chain(state=chain.state, model=model, layout=chain.layout, base=chain.base)
    lines = card.card(made.facts, changed, (), NO_LEAKAGE).decode().split("\n")
    head = lines[1 : lines.index("---", 1)]
    assert [each.partition(":")[0] for each in head] == [
        "library_name", "pipeline_tag", "license", "tags", "- tapestry",
    ]  # fmt: skip
    value = head[2].removeprefix("license: ")
    assert (json.loads(value) if value.startswith('"') else value) == licence.lower()


def test_no_title_pushes_the_consortium_out_of_the_card(drafted: tuple[World, Checked]) -> None:
    """A cell is cut at 200 characters, and a title may have as many, with another's id among them."""
    _, made = drafted
    assert made.facts is not None
    chain = contents.chain(made.folder / derived.MODEL, made.facts.state)
    title = f"Ours `{'0' * 64}`".ljust(200, "|")
    text = card.card(dataclasses.replace(made.facts, title=title), chain, (), NO_LEAKAGE).decode()
    assert f"| consortium (SHA-256) | `{made.facts.consortium}` |" in text


# -- a repository that has run out ----------------------------------------------------------------------


def test_what_has_run_out_is_not_renewed(repo: Forge) -> None:
    """Nobody would take it, and the timer that says "good until" would never tell the operator."""
    last = repo.now.targets.signed.expires
    day = datetime.timedelta(days=1)
    assert published.ends(repo.folder) == last
    _, until = published.renew(repo.folder, repo.online, last - 2 * day)
    assert until == last
    with pytest.raises(ReleaseError, match="ran out on") as caught:
        published.renew(repo.folder, repo.online, last + day)
    assert "release propose" in str(caught.value.hint)


def test_renewing_ends_what_publishing_left(repo: Forge) -> None:
    """It was cut off before it removed what was revoked."""
    left = repo.folder / "targets" / "revoked"
    left.mkdir()
    (left / "file").write_text("weights")
    published.renew(repo.folder, repo.online, now())
    assert not left.exists() and (repo.folder / "targets" / BASE).exists()


# -- whoever fetches ------------------------------------------------------------------------------------


def test_one_memory_is_of_one_repository(repo: Forge, tmp_path: Path) -> None:
    """Else the memory of the first would go, and with it what notices that an old list is shown."""

    def fetch(root: bytes) -> object:
        return client.releases(str(repo.folder), root=root, trust=tmp_path / "trust")

    fetch(repo.root)
    online = KeyPair.generate()
    theirs = repo.copy(tmp_path / "theirs")
    theirs.rotate(repo.holders, online, by=repo.two())
    signed = theirs.now.root.signed
    signed.version = 1
    other = theirs.write("1.root.json", signed, repo.two())
    with pytest.raises(InputError, match="another root") as caught:
        fetch(other)
    assert "--trust" in str(caught.value.hint)
    fetch(repo.root)


def test_a_pipe_in_a_folder(repo: Forge, tmp_path: Path) -> None:
    """It would be waited for until somebody writes into it."""
    path = repo.at / "timestamp.json"
    good = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unreachable, match="is no file"):
        client.releases(str(repo.folder), root=repo.root, trust=tmp_path / "trust")
    path.unlink()
    path.write_bytes(good)
    client.releases(str(repo.folder), root=repo.root, trust=tmp_path / "trust")


class Wordy(socketserver.BaseRequestHandler):
    """Answers with a body of two bytes, after something that has no end unless told how often."""

    before = b""
    again = b""
    behind = b""
    times = 0
    asked = 0

    def handle(self) -> None:
        self.request.recv(65_536)
        Wordy.asked += 1
        try:
            self.request.sendall(self.before)
            for _ in range(self.times):
                self.request.sendall(self.again)
                time.sleep(0.01)
            self.request.sendall(self.behind)
        except OSError:
            pass


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BODY = b"Content-Length: 2\r\n\r\nok"


@pytest.fixture
def wordy() -> Iterator[str]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Wordy)
    with serving(server) as url:
        yield url


@pytest.mark.parametrize(
    ("before", "again", "behind"),
    [
        (HEAD, b"X: y\r\n", BODY),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + BODY),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x", b"\r\nok\r\n0\r\n\r\n"),
        (HEAD + b"\r\n", b"o", b"k"),
    ],
    ids=["a-head", "100-continue", "a-chunk", "no-length"],
)
def test_an_answer_that_never_begins(
    wordy: str, before: bytes, again: bytes, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and none of them is of the file. Control: a client that waits for the end."""
    Wordy.before, Wordy.again, Wordy.behind, Wordy.times = before, again, behind, 300
    source = sources.Web(wordy)
    monkeypatch.setattr(sources, "PATIENCE_S", 0.2)
    begun = time.monotonic()
    with pytest.raises(SlowRetrievalError):
        b"".join(source.pieces("x"))
    assert time.monotonic() - begun < 2
    Wordy.times = 30
    monkeypatch.setattr(sources, "PATIENCE_S", 30.0)
    assert b"".join(source.pieces("x")).endswith(b"k")
    source.close()


def test_a_redirect_is_not_followed(wordy: str) -> None:
    Wordy.before, Wordy.times, Wordy.asked = b"", 0, 0
    Wordy.behind = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    source = sources.Web(wordy)
    with pytest.raises(DownloadHTTPError, match="status 302"):
        b"".join(source.pieces("x"))
    assert Wordy.asked == 1
    Wordy.behind = HEAD + BODY
    assert b"".join(source.pieces("x")) == b"ok"
    source.close()
