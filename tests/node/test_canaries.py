"""Canaries are found in every encoding that the documentation names, wherever they lie; nothing else is."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import InputError, SettingsError
from tapestry.node import airlock, canaries, leaks, settings
from tapestry.node.canaries import Canaries
from tapestry.node.home import Home
from tapestry.node.leaks import BLOCK_BYTES, Searcher
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob, Model, ModelFile
from tapestry.storage.blobs import BlobStore
from tapestry.training.documents import documents
from tapestry.training.marks import inner_ids
from tapestry.training.tokenizer import Tokenizer
from tests.cli.conftest import Call, call

__all__ = ["call"]
CANARIES = Canaries(marker="qzjxvkwpbyfhgmcdluno", planted=100)
TEXT = "a line of text, " + CANARIES.text(7) + " and more of it"
BYTES = TEXT.encode()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "node")
    home.make_folders()
    made = settings.make(member="m", name="m-1", corpus=tmp_path)
    home.settings.write_text(settings.render(made))
    return home


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("some-name", data)
    return out.getvalue()


NOISE = random.Random(0).randbytes(5000)
ENCODED = {
    "utf-8": BYTES,
    "capitals": TEXT.upper().encode(),
    "utf-16-le": TEXT.encode("utf-16-le"),
    "utf-16-be": TEXT.encode("utf-16-be"),
    "utf-32-be": TEXT.encode("utf-32-be"),
    "hex": BYTES.hex().encode(),
    "hex in capitals": BYTES.hex().upper().encode(),
    **{f"base64 {shift}": base64.b64encode(b"z" * shift + BYTES) for shift in range(3)},
    **{f"base64url {shift}": base64.urlsafe_b64encode(b"\xff" * shift + BYTES) for shift in range(3)},
    **{f"ids of {each} bits": np.frombuffer(BYTES, np.uint8).astype(f"<u{each // 8}").tobytes()
       for each in (8, 16, 32, 64)},
    "ids as JSON": json.dumps(list(BYTES)).encode(),
    "ids as canonical JSON": json.dumps(list(BYTES), separators=(",", ":")).encode(),
    "ids as numpy prints them": " ".join(map(str, BYTES)).encode(),
    "JSON": json.dumps({"text": TEXT}).encode(),
    "gzip": gzip.compress(NOISE + BYTES),
    "gzip behind other bytes": NOISE + gzip.compress(BYTES) + NOISE,
    "zlib": NOISE + zlib.compress(BYTES),
    "zlib, fastest": NOISE + zlib.compress(BYTES, 1),
    "zip": NOISE + zipped(BYTES),
    "gzip of gzip": gzip.compress(NOISE + gzip.compress(NOISE + BYTES)),
    "gzip of base64": gzip.compress(base64.b64encode(b"z" + BYTES)),
    "cut off gzip": gzip.compress(BYTES * 500 + NOISE)[:-200],
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODED)
def test_a_canary_is_found_in_each_encoding(name: str) -> None:
    data = ENCODED[name]
    found = Searcher(CANARIES.marker).data(data)
    assert found and not any(CANARIES.marker in str(hit).lower() for hit in found)
    other = Searcher(CANARIES.marker[::-1])  # the control: it is this marker that is found
    assert other.data(data) == []


@pytest.mark.parametrize("where", [BLOCK_BYTES - 10, BLOCK_BYTES - 200, 2 * BLOCK_BYTES - 3])
@pytest.mark.parametrize("name", ["utf-8", "utf-32-be", "base64 1", "zlib"])
def test_it_is_found_across_the_blocks_of_a_file(tmp_path: Path, where: int, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(where) + ENCODED[name] + bytes(100))
    with path.open("rb") as file:
        found = Searcher(CANARIES.marker).file(file.fileno(), "file")
    assert found
    if name == "utf-8":
        assert found[0].offset == where + TEXT.index(CANARIES.marker)


def test_weights_and_random_bytes_hold_none() -> None:
    data = random.Random(1).randbytes(4 << 20)
    weights = np.random.default_rng(2).normal(0, 1e-3, 1 << 20).astype("<f4").tobytes()
    searcher = Searcher(CANARIES.marker)
    assert searcher.data(data + weights) == [] and not searcher.unsearched


def test_what_is_too_much_to_open_is_said() -> None:
    searcher = Searcher(CANARIES.marker)
    assert searcher.data(gzip.compress(bytes(leaks.MAX_INFLATED_BYTES + 10) + BYTES, 1)) == []
    assert searcher.unsearched == 1
    searcher = Searcher(CANARIES.marker)
    assert searcher.data(b"x\x9c" * (leaks.MAX_STREAMS + 5)) == []
    assert searcher.unsearched >= 1


def test_tokens_of_another_tokenizer_are_found() -> None:
    made = Tokenizer.byte_level()
    pairs = [a + b for a, b in zip(CANARIES.marker[::2], CANARIES.marker[1::2], strict=True)]
    wide = made.with_added(pairs)
    ids = inner_ids(wide.data, CANARIES.marker)
    assert len(ids) >= canaries.MIN_IDS and max(ids) > 256
    said = wide.encode(TEXT)[0]
    for width in (2, 4, 8):
        data = said.astype(f"<u{width}").tobytes()
        assert Searcher(CANARIES.marker, ids).data(data)
        assert Searcher(CANARIES.marker).data(data) == []  # the control: the bytes alone do not tell
    assert Searcher(CANARIES.marker, ids).data(json.dumps(said.tolist()).encode())


# -- planted by an owner ------------------------------------------------------------------------


def test_planted_lines_are_documents_and_each_is_its_own(home: Home, tmp_path: Path, call: Call) -> None:
    for number, name in enumerate(("train-a.jsonl", "train-b.txt")):
        out = tmp_path / name
        code, said, _ = call("node", "canaries", "plant", home.root, "--count", 50, "--out", out, "--json")
        assert code == 0 and json.loads(said)["planted"] == 50 * (number + 1)
    lines = ["".join(pieces) for pieces in documents(tmp_path / "train-a.jsonl")]
    lines += (tmp_path / "train-b.txt").read_text().splitlines()
    marker = canaries.load(home)
    assert marker is not None and len(set(lines)) == 100
    assert all(line.startswith(marker.marker) for line in lines)
    assert home.canaries.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_planted_is_said_and_leaves_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("")
    for name in ("there.txt", "text.parquet"):
        with pytest.raises(InputError):
            canaries.plant(home, 10, tmp_path / name)
    with pytest.raises(InputError, match="at least 1"):
        canaries.plant(home, canaries.MAX_CANARIES + 1, tmp_path / "new.txt")
    assert not home.canaries.exists() and not (tmp_path / "new.txt").exists()


def test_a_damaged_marker_is_no_empty_search(home: Home, tmp_path: Path) -> None:
    canaries.plant(home, 1, tmp_path / "a.txt")
    searching = leaks.Leaks(home)
    home.canaries.chmod(0o644)
    with pytest.raises(SettingsError, match="others may read"):
        canaries.load(home)
    home.canaries.unlink()
    home.canaries.write_bytes(b"{}")
    home.canaries.chmod(0o600)
    with pytest.raises(SettingsError, match="cannot be read"):
        searching.refresh()


def test_search_finds_files_names_and_says_so_with_its_exit_code(
    home: Home, tmp_path: Path, call: Call
) -> None:
    canaries.plant(home, 3, tmp_path / "a.txt")
    said = canaries.load(home)
    assert said is not None
    disk = tmp_path / "disk"
    (disk / "deep").mkdir(parents=True)
    (disk / "clean").write_bytes(NOISE)
    assert call("node", "canaries", "search", home.root, disk)[:2] == (0, "no canary found\n")
    (disk / "deep" / "dump.gz").write_bytes(gzip.compress(said.text(2).encode()))
    (disk / f"{said.marker}.log").write_bytes(b"")
    (disk / "link").symlink_to(tmp_path / "a.txt")
    code, out, err = call("node", "canaries", "search", home.root, disk, home.root, "--json")
    found = json.loads(out)["found"]
    assert code == 3 and "canaries of this node" in err
    assert {(hit["where"], hit["encoding"], hit["inside"]) for hit in found} == {
        (str(disk / "deep" / "dump.gz"), "utf-8", "gzip"),
        (f"a name in {disk}", "utf-8", ""),
    }
    assert call("node", "canaries", "search", home.root, disk / "gone")[0] == 2


def test_the_agent_has_no_way_to_the_marker(home: Home) -> None:
    """Tried with a process in tests/node/test_airlock.py."""
    home.canaries.touch()
    for rule in airlock.agent_files(home):
        assert rule.path.resolve() not in (home.canaries.resolve(), *home.canaries.resolve().parents)


def test_the_marker_is_found_as_fast_for_many_as_for_one() -> None:
    """The patterns are those of the marker, whatever was planted."""
    assert len(canaries.patterns(CANARIES.marker)) < 20
    assert all(CANARIES.text(number).startswith(CANARIES.marker) for number in (0, 99_999_999))


def test_the_gate_learns_the_tokens_of_a_model_without_loading_a_tokenizer(tmp_path: Path) -> None:
    store = BlobStore.open(tmp_path / "blobs")
    wide = Tokenizer.byte_level().with_added(["qzj", "xvk", "wpb", "yfh", "gmc", "dlu"])
    blob = Blob(sha256=store.put(wide.data), bytes=len(wide.data))
    layout = canonical.sha256(b"layout")
    model = Model(layout=layout, files=(ModelFile(path="tokenizer.json", blob=blob),))
    found = leaks.token_ids(store, store.put(model.to_bytes()), CANARIES.marker)
    assert found == [*range(257, 263), *b"no"]
    assert leaks.token_ids(store, store.put(Model(layout=layout, files=()).to_bytes()), "a") is None
    assert leaks.token_ids(store, layout, CANARIES.marker) is None
