from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tapestry.errors import SettingsError
from tapestry.training import launcher
from tapestry.training.island import ISLAND_OF_ONE
from tapestry.training.machine import clean, environment
from tapestry.training.settings import TrainerSettings

GOOD = '[node]\nname = "n"\nmember = "m"\npublish = "all"\n[training]\ncorpus = "text"\nthreads = 2\n'


def test_settings_are_read_and_paths_count_from_the_home(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(GOOD)
    settings = TrainerSettings.load(tmp_path)
    assert (settings.node, settings.member, settings.threads) == ("n", "m", 2)
    assert settings.corpus_path(tmp_path) == tmp_path / "text"
    absolute = settings.model_copy(update={"corpus": "/data"})
    assert absolute.corpus_path(tmp_path) == Path("/data")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "corpus"),
        ("[node", "cannot be read"),
        ("node = 3", "must be tables"),
        (GOOD.replace("threads = 2", "threads = 0"), "threads"),
        (GOOD.replace("threads = 2", 'device = "tpu"'), "device"),
        (GOOD.replace("threads = 2", "checkpoint_s = nan"), "checkpoint_s"),
        (GOOD.replace('name = "n"', 'name = "N!"'), "node"),
    ],
)
def test_bad_settings_name_the_file_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(SettingsError, match=f"node.toml.*{said}"):
        TrainerSettings.load(tmp_path)


def test_missing_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        TrainerSettings.load(tmp_path)


def test_the_launcher_and_the_spool_import_no_torch() -> None:
    code = "import sys, tapestry.training.launcher, tapestry.training.spool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_environment_makes_training_repeatable() -> None:
    assert launcher.environment(3)["OMP_NUM_THREADS"] == "3"


def test_the_environment_fits_its_pattern() -> None:
    found = environment(TrainerSettings.from_table(tomllib.loads(GOOD), "x"), ISLAND_OF_ONE, "netns")
    assert found["isolation"] == "netns" and found["threads"] == "2"
    assert clean("AMD EPYC™ @ 3,2 GHz" + "x" * 99) == ("AMD EPYC 3 2 GHz" + "x" * 99)[:64]
