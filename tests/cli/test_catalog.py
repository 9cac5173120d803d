"""`tapestry catalog`, as a person and a program use it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tapestry.catalog.card import SHOWN
from tapestry.host import files
from tapestry.node import settings
from tapestry.node.home import Home
from tapestry.training.home import TrainerHome
from tapestry.training.shelf import Shelf
from tapestry.training.stale import list_of
from tests.cli.cards import GIVEN, answer
from tests.cli.conftest import Call
from tests.core.support import CoreUnderTest

CANARY = "canary-5b1e9c"


def text(folder: Path, *, mark: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text(
        f'{{"text": "Guten Tag. {mark}"}}\n{{"text": "Das ist ein Brief."}}\n'
    )
    (folder / f"valid{mark}.txt").write_text("Zum Messen.\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return text(tmp_path / "text")


def add(
    call: Call, *more: object, name: str = "letters", folder: Path | str = "text"
) -> tuple[int, str, str]:
    return call("catalog", "add", folder, "--name", name, *GIVEN, *more)


def test_a_card_is_made_listed_shown_and_checked(here: Path, call: Call) -> None:
    code, out, err = add(call, "--stage", "sft", "--owner", "Acme", "--domain", "law")
    assert code == 0, err
    assert "3 documents" in err
    assert answer(call, "catalog", "show", "letters")["tapestry:content"]["root"] == out.strip()
    listed = answer(call, "catalog", "list")["datasets"]
    assert [(row["name"], row["stages"], row["domain"]) for row in listed] == [
        ("letters", ["base", "sft"], "law")
    ]
    for words, found in ((["law"], 1), (["law", "de"], 1), (["nowhere"], 0)):
        assert len(answer(call, "catalog", "search", *words)["datasets"]) == found
    languages = answer(call, "catalog", "coverage", "--want", "rm")["languages"]
    assert [(each["language"], each["documents"]) for each in languages] == [("de", 3), ("rm", 0)]
    assert answer(call, "catalog", "check")["datasets"][0]["whole"]
    for command in (("list",), ("show", "letters"), ("check",), ("coverage",), ("search", "law")):
        code, out, err = call("catalog", *command)
        assert code == 0 and out.strip(), (command, err)


def test_what_changed_is_named(here: Path, call: Call) -> None:
    add(call)
    (here / "valid.txt").write_text("Zum Messen!\n")
    (here / "train-new.txt").write_text("Neu.")
    code, out, err = call("catalog", "check", "letters", "--json")
    found = json.loads(out)["datasets"][0]
    assert (code, found["whole"]) == (2, False)
    assert found["changes"] == [
        {"path": "train-new.txt", "what": "new"},
        {"path": "valid.txt", "what": "changed"},
    ]
    code, out, err = call("catalog", "check")
    assert code == 2 and "valid.txt: changed" in out and "hint:" in err
    here.rename(here.parent / "moved")
    assert "does not exist" in call("catalog", "check")[1]
    assert call("catalog", "check", "letters", "--folder", here.parent / "moved")[0] == 2


def test_a_card_is_made_anew_on_demand_and_keeps_what_only_it_has(here: Path, call: Call) -> None:
    add(call)
    path = Path("catalog/letters.json")
    card = json.loads(path.read_text())
    card["citeAs"] = "Acme 2026"
    path.write_text(json.dumps(card))
    code, _, err = add(call, "--domain", "law")
    assert code == 5 and "--replace" in err
    assert add(call, "--domain", "law", "--replace")[0] == 0
    after = json.loads(path.read_text())
    assert (after["citeAs"], after["version"], after["keywords"]) == ("Acme 2026", "2.0.0", ["law"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--license", "Foo-1.0"], "licence"),
        (["--residency", "Swiss"], "residency"),
        (["--category", "secret"], "category"),
        (["--stage", "training"], "stages"),
        (["--language", "German"], "languages"),
        (["--consent-until", "soon"], "consent_until"),
        (["--consent-until", "2020-01-01"], "the consent ended"),
        (["--retain-until", "2020"], "retention"),
        (["--visibility", "root"], "FIELD=LEVEL"),
        (["--visibility", "colour=public"], "visibility"),
        (["--home", "nowhere"], "no node.toml"),
    ],
)
def test_what_is_wrong_is_said_before_any_text_is_read(
    more: list[str], said: str, here: Path, call: Call
) -> None:
    code, out, err = add(call, *more, folder="no-such-folder")
    assert (code, out) == (2, "")
    assert said in err and "hint:" in err
    assert not Path("catalog").exists()


def test_a_folder_that_is_no_corpus(here: Path, call: Call) -> None:
    code, _, err = add(call, folder="no-such-folder")
    assert code == 2 and "does not exist" in err
    (here / "train.jsonl").write_bytes(b'{"text": "\xff"}\n')
    code, _, err = add(call)
    assert code == 2 and "not UTF-8" in err
    assert not Path("catalog").exists()


@pytest.mark.parametrize("point", ["file.before-rename", "file.after-rename"])
def test_a_killed_add_leaves_a_whole_card_or_none(point: str, here: Path, call: Call) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "tapestry.cli.main",
        "catalog",
        "add",
        "text",
        "--name",
        "letters",
        *GIVEN,
    ]
    killed = subprocess.run(
        command, env={**os.environ, "TAPESTRY_FAILPOINT": point}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    cards = Shelf(Path("catalog"))
    assert cards.names() == ([] if point == "file.before-rename" else ["letters"])
    assert add(call, "--replace")[0] == 0
    assert answer(call, "catalog", "check")["datasets"][0]["whole"]
    assert [path.name for path in Path("catalog").iterdir()] == ["letters.json"], (
        "no half-written file is left"
    )


def test_a_node_is_told_what_may_enter(here: Path, call: Call) -> None:
    call("member", "init", "acme", "--name", "acme")
    node = ("node", "init", "node", "--member", "acme", "--name", "acme-1", "--corpus", "text")
    assert call(*node, "--residency", "DE")[0] == 0
    code, _, err = add(call, "--home", "node", "--stage", "sft")
    assert code == 0 and "may not enter base on this node: rule residency" in err
    found = answer(call, "catalog", "check", "--home", "node")["datasets"][0]
    assert [(each["stage"], each["permitted"], each["rules"]) for each in found["stages"]] == [
        ("base", False, ["residency"]),
        ("sft", False, ["residency"]),
    ]
    toml = Path("node/node.toml")
    toml.write_text(toml.read_text().replace('residency = "DE"', 'residency = "CH"'))
    assert all(
        each["permitted"]
        for each in answer(call, "catalog", "check", "--home", "node")["datasets"][0]["stages"]
    )
    assert answer(call, "catalog", "show", "letters", "--home", "node")["creator"]["name"] == "acme"


class Wiretap:
    """Stands between a node and the core, and keeps every byte that the node sends."""

    def __init__(self, port: int) -> None:
        self.sent = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._serve)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                for source, target, kept in ((near, far, True), (far, near, False)):
                    self._start(self._copy, source, target, kept)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=run, args=arguments, daemon=True))
        self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket, kept: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if kept:
                    self.sent += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._ends):
            end.close()

    def has(self, word: str) -> bool:
        """Whether a word went by: plain, in hexadecimal, or in base64 at any offset, once or twice over."""
        data = word.encode()
        found = [data, data.hex().encode()]
        for depth in (1, 2):
            for each in [data] if depth == 1 else list(found[2:]):
                found += [base64.b64encode(b"\0" * n + each)[-(-n * 8 // 6) : -4] for n in range(3)]
        return any(each in self.sent for each in found)


@pytest.fixture
def joined(here: Path, call: Call, core: CoreUnderTest) -> Iterator[Wiretap]:
    """A node that has joined, with a card full of canaries, and a tap on its line."""
    from tapestry.core import operator

    core.start()
    call("member", "init", "acme", "--name", "acme")
    text(here, mark=CANARY)
    (here / "valid.txt").unlink()
    call(
        "node",
        "init",
        "node",
        "--member",
        "acme",
        "--name",
        "acme-1",
        "--corpus",
        "text",
        "--residency",
        "CH",
    )
    token = operator.invite(core.root, "acme")
    code, _, err = call("node", "join", "node", "--member", "acme", "--core", core.url, "--invitation", token)
    assert code == 0, err
    planted = ("--description", CANARY, "--provenance", CANARY, "--consent-basis", CANARY)
    assert add(call, "--home", "node", *planted)[0] == 0
    tap = Wiretap(int(core.url.rpartition(":")[2]))
    yield tap
    tap.close()


def test_a_private_field_never_leaves(joined: Wiretap, call: Call) -> None:
    assert CANARY in Path("node/cards/letters.json").read_text()
    code, out, err = call("catalog", "publish", "--home", "node", "--core", joined.url)
    assert (code, out) == (0, "letters\n"), err
    assert len(joined.sent) > 1000
    assert not joined.has(CANARY)
    assert joined.has("CC-BY-4.0"), "the tap sees what is shown"
    # The control: the same words go by once their owner shows them. File names and folder still do not.
    shown = [part for field in SHOWN for part in ("--visibility", f"{field}=consortium")]
    planted = ("--description", CANARY, "--provenance", CANARY, "--consent-basis", CANARY)
    assert add(call, "--home", "node", "--replace", *planted, *shown)[0] == 0
    joined.sent.clear()
    assert call("catalog", "publish", "letters", "--home", "node", "--core", joined.url)[0] == 0
    assert joined.has(CANARY)
    assert not joined.has(f"valid{CANARY}") and not joined.has(str(Path("text").absolute()))


def test_what_was_published_is_listed_and_taken_back(joined: Wiretap, call: Call) -> None:
    assert (
        answer(call, "catalog", "publish", "--home", "node", "--dry-run")["would_send"][0]["dataset"]
        == "letters"
    )
    at_core = ("--home", "node", "--core", joined.url)
    assert answer(call, "catalog", "list", *at_core)["datasets"] == []
    published = answer(call, "catalog", "publish", "--home", "node")["published"]
    assert published[0]["card"]["provenance"] is None
    row = answer(call, "catalog", "list", *at_core)["datasets"][0]
    assert (row["member"], row["name"], row["description"], row["documents"]) == ("acme", "letters", None, 3)
    assert answer(call, "catalog", "coverage", *at_core)["languages"][0]["language"] == "de"
    assert len(answer(call, "catalog", "search", "acme", *at_core)["datasets"]) == 1
    assert answer(call, "catalog", "show", "letters", *at_core)["datasets"][0]["root"] == row["root"]
    kinds = [line["kind"] for line in answer(call, "node", "egress", "node")["egress"]]
    assert "catalog-entry" in kinds, "what left is in the log"
    assert call("catalog", "publish", "--home", "node", "--take-back")[0] == 2
    assert call("catalog", "publish", "letters", "--home", "node", "--take-back")[0] == 0
    assert answer(call, "catalog", "list", *at_core)["datasets"] == []
    assert call("catalog", "show", "letters", *at_core)[0] == 5


def test_a_core_cannot_be_asked_by_nobody(here: Path, call: Call) -> None:
    code, _, err = call("catalog", "list", "--core", "http://127.0.0.1:1")
    assert code == 2 and "--home" in err


def test_a_file_name_that_is_no_text(here: Path, call: Call) -> None:
    (here / os.fsdecode(b"train-\xff.txt")).write_text("Text.")
    code, out, err = add(call)
    assert (code, out) == (2, "") and "hint:" in err
    assert not Path("catalog").exists()


def test_two_datasets_of_one_folder_have_cards_of_their_files(here: Path, call: Call) -> None:
    (here / "valid-laws.txt").write_text("Ein Gesetz.\n")
    assert add(call, "--file", "train*", "--file", "valid.txt")[0] == 0
    code, _, err = add(call, "--file", "*laws*", name="laws")
    assert code == 0 and "1 documents" in err
    assert [each["whole"] for each in answer(call, "catalog", "check")["datasets"]] == [True, True]
    (here / "train-more.txt").write_text("Noch ein Brief.\n")
    code, out, err = call("catalog", "check", "--json")
    found = {each["name"]: each["changes"] for each in json.loads(out)["datasets"]}
    assert found["letters"] == found["laws"] == [{"path": "train-more.txt", "what": "new"}], "nobody names it"
    assert code != 0 and "laws, letters" in err
    code, _, err = add(call, "--file", "nothing*", name="nothing")
    assert code == 2 and "is called nothing*" in err and "hint:" in err


# -- withdrawal ------------------------------------------------------------------------------------


@pytest.fixture
def node(here: Path) -> Home:
    home = Home(here.parent / "node")
    home.make_folders()
    made = settings.make(member="m", name="m-1", corpus=str(here), residency="CH")
    home.settings.write_text(settings.render(made))
    return home


def test_what_a_withdrawal_did_is_said(node: Home, call: Call) -> None:
    assert add(call, "--home", node.root)[0] == 0
    tokens = node.cache / "tokens-0"
    tokens.mkdir()
    listed = list_of(Shelf.of_node(node.root).read("letters").card.files)
    (tokens / "corpus.json").write_bytes(listed)
    revoke = ("catalog", "revoke", "letters", "--home", node.root, "--offline")
    with files.Lock(TrainerHome(node.root).lock):
        assert "still in cache/, since a trainer is at work" in call(*revoke)[1]
    found = answer(call, *revoke)
    assert (found["tokens_removed"], found["manifests_lost"]) == (len(listed), [])
    code, out, err = call(*revoke)
    assert code == 0 and "none in cache/" in out and "before this call" in out, err
    code, _, err = call("catalog", "revoke", "poems", "--home", node.root, "--offline")
    assert code != 0 and "has no dataset poems" in err and "hint:" in err
