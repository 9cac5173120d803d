from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.core import operator, settings
from tapestry.core.home import Home
from tapestry.core.service import Core
from tapestry.errors import AuthError, InputError, SettingsError, StoreError
from tapestry.identity.keys import KeyPair


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = settings.make(
        host="::1",
        port=0,
        tls={"certificate": 'a "b"', "key": "k"},
        limits={"connections": 7},
        ledger={"mirror": "m"},
    )
    home = Home(tmp_path)
    home.settings.write_text(settings.render(made))
    assert settings.load(home) == made
    assert settings.parse("", home.settings) == settings.make()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hots = 'x'", "hots"),
        ("port = '8440'", "port"),
        ("port = 70000", "port"),
        ("[limits]\nblobs = 1", "limits.blobs"),
        ("[tls]\nkey = 'k'", "tls.certificate"),
        ("port = ", "not valid TOML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        settings.parse(text, tmp_path / "core.toml")
    with pytest.raises(SettingsError, match="hots"):
        settings.make(hots=1)


def test_init(tmp_path: Path) -> None:
    root = tmp_path / "core"
    consortium = operator.init(root, settings.make(), title="First")
    assert len(consortium) == 64
    home = Home(root)
    assert stat.S_IMODE(home.key.stat().st_mode) == 0o600
    with Core.open(root) as core:
        assert core.consortium.id == consortium
        assert core.journal.genesis().body["title"] == "First"
    with pytest.raises(SettingsError, match="already"):
        operator.init(root, settings.make())
    assert operator.status(root)["consortium"] == consortium
    home.settings.unlink()  # as if it had been cut short: finished, with the same id
    assert operator.init(root, settings.make()) == consortium


def test_key_and_database_belong_together(tmp_path: Path) -> None:
    root = tmp_path / "core"
    operator.init(root, settings.make())
    home = Home(root)
    home.key.write_bytes(KeyPair.generate().to_pem())
    with pytest.raises(AuthError, match="speaks for its consortium"):
        Core.open(root)
    home.key.write_bytes(b"no key")
    with pytest.raises(InputError):
        Core.open(root)
    home.key.unlink()
    with pytest.raises(SettingsError, match=r"core\.key"):
        Core.open(root)
    (root / "core.sqlite").unlink()
    home.key.write_bytes(KeyPair.generate().to_pem())
    with pytest.raises(StoreError, match="does not exist"):
        Core.open(root)
    with pytest.raises(SettingsError, match="home"):
        Core.open(tmp_path / "nowhere")


def test_the_core_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, tapestry.core.serve; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "transformers"} & set(loaded)
    assert "fastapi" in loaded
