"""`make oms`: our signatures of model folders under OpenSSF's own program, and broken ones it must refuse."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tapestry.release import oms
from tapestry.release.oms import ModelKeyPair

FILES = {"model.safetensors": b"\x00" * 70_000, "config.json": b"{}", "provenance/state.json": b"[1]"}


def accepted(program: str, folder: Path, key: Path) -> tuple[bool, str]:
    """Whether it takes the signature that lies in a folder, and what it said."""
    signature = folder / oms.SIGNATURES / "acme.sig"
    asked = [program, "verify", "key", str(folder), "--signature", str(signature), "--public_key", str(key)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def make(folder: Path, pair: ModelKeyPair) -> Path:
    """A signed model folder; its public key."""
    digests = {}
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    signatures = folder / oms.SIGNATURES
    signatures.mkdir()
    (signatures / "acme.sig").write_text(pair.sign(folder.name, digests))
    (signatures / "acme.pub").write_text(pair.public_pem)
    return signatures / "acme.pub"


def main(program: str) -> int:
    wrong = 0

    def check(what: str, folder: Path, key: Path, expected: bool) -> None:
        nonlocal wrong
        good, said = accepted(program, folder, key)
        sys.stdout.write(f"{'accepted' if good else 'refused '}  {what}\n")
        if good != expected:
            wrong += 1
            sys.stdout.write(f"  which is wrong: {said}\n")

    with tempfile.TemporaryDirectory() as scratch:
        for number, (what, spoil) in enumerate(
            (
                ("as signed", lambda folder: None),
                ("a byte of the weights", lambda folder: (folder / "model.safetensors").write_bytes(b"\1")),
                ("a file too many", lambda folder: (folder / "run.py").write_text("import os")),
                ("a file too few", lambda folder: (folder / "config.json").unlink()),
            )
        ):
            folder = Path(scratch) / f"base-{number}"
            key = make(folder, ModelKeyPair.generate())
            spoil(folder)
            check(what, folder, key, expected=number == 0)
        folder = Path(scratch) / "other"
        make(folder, ModelKeyPair.generate())
        (Path(scratch) / "key.pub").write_text(ModelKeyPair.generate().public_pem)
        check("the key of somebody else", folder, Path(scratch) / "key.pub", expected=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
