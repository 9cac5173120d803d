"""A bundle with anything changed, left out, added or exchanged is refused, and the file is named."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.bundle import base, check, folder
from tapestry.errors import BundleError, Incomplete, InputError
from tapestry.identity.envelope import sign
from tapestry.protocol import canonical
from tests.bundle.support import NODE, files_of, one, refused, said, sign_anew
from tests.sim.setting import key_of


def flipped(bundle: Path, positions: Callable[[int], Iterator[int]]) -> Iterator[tuple[str, int]]:
    """Each file with one bit changed at each position; whole again afterwards."""
    rng = random.Random(7)
    for name in files_of(bundle):
        data = (bundle / name).read_bytes()
        for at in positions(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            (bundle / name).write_bytes(changed)
            yield name, at
        (bundle / name).write_bytes(data)


def test_one_bit_anywhere(bundle: Path) -> None:
    """The first and last byte of each file, and some between."""
    rng = random.Random(3)

    def some(size: int) -> Iterator[int]:
        yield from {0, size // 2, size - 1, rng.randrange(size)} if size else ()

    assert not check.check(bundle).lacking
    tried = 0
    for name, at in flipped(bundle, some):
        with pytest.raises(BundleError) as caught:
            check.check(bundle)
        assert name in caught.value.message or name == "bundle.json", (name, at, caught.value.message)
        tried += 1
    assert tried > 60
    assert not check.check(bundle).lacking, "whole again, it holds"


def test_each_byte_of_what_is_signed(bundle: Path) -> None:
    """`bundle.json`, in which all else hangs."""
    data = (bundle / "bundle.json").read_bytes()
    for at in range(0, len(data), 13):
        (bundle / "bundle.json").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(bundle)


def test_without_hashes_a_changed_byte_would_pass(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle / "models/toy/README.md"
    path.write_bytes(path.read_bytes().replace(b"tapestry", b"tapestri"))
    refused(bundle, "models/toy/README.md")
    monkeypatch.setattr(folder.Folder, "check_hashes", lambda *_: None)
    check.check(bundle)


def test_any_file_left_out(bundle: Path) -> None:
    for name in files_of(bundle):
        aside = bundle.with_name("aside")
        (bundle / name).rename(aside)
        if name == "bundle.json":
            with pytest.raises(InputError):
                check.check(bundle)
        else:
            refused(bundle, name)
        aside.rename(bundle / name)
    check.check(bundle)


def test_anything_more(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = bundle / "cards" / "more.json"
    extra.write_text("{}")
    refused(bundle, "cards/more.json")
    with monkeypatch.context() as off:
        off.setattr(folder.Folder, "check_names", lambda _: None)
        check.check(bundle)
    extra.unlink()
    (bundle / "empty").mkdir()
    refused(bundle, "empty/")
    (bundle / "empty").rmdir()
    card = one(bundle, "cards")
    card.rename(bundle.with_name("card"))
    card.symlink_to(bundle.with_name("card"))
    refused(bundle, "regular")


def test_two_files_exchanged(bundle: Path) -> None:
    first, second = sorted(path for path in (bundle / "certificates").iterdir())
    first.rename(bundle / "x")
    second.rename(first)
    (bundle / "x").rename(second)
    refused(bundle, "certificates/")
    sign_anew(bundle)
    refused(bundle, "certificates/")


@pytest.mark.parametrize(
    "line",
    [
        {"path": "../outside"},
        {"path": "/etc/passwd"},
        {"path": "elsewhere/x"},
        {"path": "cards/a\u0000b"},
        {"bytes": -1},
        {"bytes": 2**60},
        {"sha256": "0"},
        {"more": 1},
    ],
)
def test_lists_that_lead_away(bundle: Path, line: dict[str, Any]) -> None:
    """Signed by the node itself, so that nothing else is wrong with it."""
    value = {"bytes": 1, "path": "cards/zz.json", "sha256": "0" * 64, **line}
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    (bundle / "files.jsonl").write_bytes(data)
    before = said(bundle)
    changed = before.model_copy(update={"list": canonical.sha256(data), "files": 1, "bytes": 1})
    (bundle / "bundle.json").write_bytes(sign(changed, key_of(f"{NODE} node")).to_bytes())
    refused(bundle, "files.jsonl")


# -- by who holds the key -----------------------------------------------------------------------


def test_only_this_nodes_key_signs(bundle: Path) -> None:
    sign_anew(bundle)
    check.check(bundle)
    for other in ("bob-1 node", "ada-1 witness", "ada root", "nobody"):
        sign_anew(bundle, key_of(other))
        refused(bundle, "bundle.json")


def test_a_contribution_cannot_be_kept_back(bundle: Path) -> None:
    """Nor a proof, a manifest, a card, a certificate: the ledger knows what there must be."""
    for place, hides in (("proofs", 1), ("manifests", 0), ("cards", 0), ("certificates", 0)):
        path = one(bundle, place)
        data = path.read_bytes()
        path.unlink()
        parent = path.parent
        if not any(parent.iterdir()):
            parent.rmdir()
        sign_anew(bundle, contributions=said(bundle).contributions - hides)
        refused(bundle)
        parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        sign_anew(bundle, contributions=said(bundle).contributions + hides)
        check.check(bundle)


def test_weights_that_are_not_the_ledgers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value of the base, changed by who may sign: the shards' hashes are in the ledger."""
    path = bundle / "models" / "toy" / "model.safetensors"
    data = path.read_bytes()
    (before,) = struct.unpack("<f", data[-4:])
    path.write_bytes(data[:-4] + struct.pack("<f", before + 1))
    sign_anew(bundle)
    refused(bundle, "model.safetensors")
    with monkeypatch.context() as off:
        off.setattr(base, "_check_weights", lambda *_: None)
        check.check(bundle)
    for other in (data[:20] + bytes([data[20] ^ 1]) + data[21:], data + b"\0"):
        path.write_bytes(other)
        sign_anew(bundle)
        refused(bundle, "model.safetensors")


def test_another_base_than_is_said(bundle: Path) -> None:
    (taken,) = said(bundle).model_dump(mode="json")["runs"]
    for other in ({"merges": taken["merges"] - 1}, {"state": "0" * 64}, {"plan": "0" * 64}, {"run": "other"}):
        sign_anew(bundle, runs=[taken | other])
        refused(bundle)
    sign_anew(bundle, runs=[])
    refused(bundle, "models/toy")
    sign_anew(bundle, runs=[taken])
    check.check(bundle)


def test_a_card_that_says_something_else(bundle: Path) -> None:
    path = bundle / "cards" / "text.json"
    value = json.loads(path.read_text())
    value["license"] = "https://spdx.org/licenses/MIT"
    path.write_text(json.dumps(value))
    sign_anew(bundle)
    refused(bundle, "used-cards/")  # the manifest names a card that is not there any more


def test_a_ledger_cut_off_or_of_somebody_else(bundle: Path) -> None:
    path = bundle / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-3], lines[-1]]))
    sign_anew(bundle)
    refused(bundle, "ledger.jsonl")
    path.write_bytes(b"".join(lines[:-1]))
    sign_anew(bundle)
    refused(bundle, "ledger.jsonl")
    path.write_bytes(b"".join(lines))
    sign_anew(bundle, entries=said(bundle).entries - 1)
    refused(bundle, "ledger.jsonl")


def test_what_lacks_is_said_and_not_passed_over(bundle: Path) -> None:
    path = one(bundle, "manifests")
    path.unlink()
    path.parent.rmdir()
    lacking = [{"what": f"manifests/{path.name}", "why": "lost"}]
    sign_anew(bundle, lacking=lacking)
    found = check.check(bundle)
    assert [each.what for each in found.lacking] == [f"manifests/{path.name}"]
    with pytest.raises(Incomplete, match="lost"):
        check.require_complete(found)


def test_a_light_install_is_enough(made: Path) -> None:
    """Neither torch nor HTTP, SQL or an object store is loaded."""
    script = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'safetensors', 'transformers', 'httpx', 'obstore', 'sqlalchemy',"
        " 'structlog', 'fastapi'):\n"
        "    sys.modules[name] = None\n"
        "from tapestry.cli.main import call\n"
        "sys.exit(call(['bundle', 'verify', sys.argv[1], '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(made)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert json.loads(done.stdout)["complete"] is True
