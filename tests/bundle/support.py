"""Bundles to be broken, and lists and signatures made anew by who would hide that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestry.bundle import check, folder, manifest
from tapestry.bundle.manifest import Bundle
from tapestry.errors import BundleError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tests.sim.setting import key_of

NODE = "ada-1"


def said(bundle: Path) -> Bundle:
    return Envelope.from_bytes((bundle / "bundle.json").read_bytes()).unverified(Bundle)


def sign_anew(bundle: Path, key: KeyPair | None = None, **other: Any) -> None:
    """As somebody would who wants a changed bundle to look whole: list and signature made anew."""
    before, files = said(bundle), {}
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_file() and name not in ("bundle.json", "files.jsonl"):
            with path.open("rb") as file:
                files[name] = folder.hashed(file)
    lines = b"".join(manifest.list_lines(files))
    (bundle / "files.jsonl").write_bytes(lines)
    total = sum(each.bytes for each in files.values())
    update = {"list": canonical.sha256(lines), "files": len(files), "bytes": total, **other}
    value = before.model_dump(mode="json") | update
    changed = Bundle.from_bytes(canonical.encode(value))
    (bundle / "bundle.json").write_bytes(sign(changed, key or key_of(f"{NODE} node")).to_bytes())


def files_of(bundle: Path) -> list[str]:
    return sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())


def one(bundle: Path, place: str) -> Path:
    return next(path for path in sorted((bundle / place).rglob("*")) if path.is_file())


def refused(bundle: Path, name: str = "") -> None:
    with pytest.raises(BundleError) as caught:
        check.check(bundle)
    assert name in caught.value.message
    assert caught.value.exit_code == 3
