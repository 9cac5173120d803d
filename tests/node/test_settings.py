from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import SettingsError
from tapestry.node import settings
from tapestry.node.home import Home, parse_round_name, round_name

WHERE = Path("node.toml")
GOOD = """
[node]
member = "fr"
name = "fr-1"
[training]
corpus = "text"
"""


def test_defaults() -> None:
    found = settings.parse(GOOD, WHERE)
    assert (found.node.publish, found.node.runs) == ("all", ("*",))
    assert found.transfer.chunk_bytes == 8 << 20
    assert found.takes_part_in("anything")


@given(
    corpus=st.text(min_size=1, max_size=50),
    publish=st.sampled_from(["all", "scores", "none"]),
    checkpoint=st.floats(min_value=0.001, max_value=1e5),
)
def test_what_is_written_is_read(corpus: str, publish: settings.Publish, checkpoint: float) -> None:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in corpus):
        return
    made = settings.make(
        member="fr", name="fr-1", corpus=corpus, publish=publish, runs=("a*", "b"), checkpoint_s=checkpoint
    )
    assert settings.parse(settings.render(made), WHERE) == made
    text = settings.render(made) + '\n[ledger]\nmirrors = ["https://a.example.org/m", "../m"]\n'
    again = settings.parse(text, WHERE)
    assert len(again.ledger.mirrors) == 2 and settings.parse(settings.render(again), WHERE) == again


def test_runs_are_patterns() -> None:
    found = settings.make(member="m", name="n", corpus="c", runs=("eu-*", "demo"))
    assert [found.takes_part_in(run) for run in ("eu-1", "demo", "demo2", "us-1")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('name = "fr-1"', 'name = "Fr 1"', "node.name"),
        ('name = "fr-1"', "", "node.name"),
        ('name = "fr-1"', 'name = "fr-1"\npublish = "some"', "node.publish"),
        ('name = "fr-1"', 'name = "fr-1"\nruns = []', "node.runs"),
        ('name = "fr-1"', 'name = "fr-1"\ncolour = 1', "node.colour"),
        ('corpus = "text"', "", "training.corpus"),
        ('corpus = "text"', 'corpus = "text"\nthreads = 0', "training.threads"),
        ('corpus = "text"', 'corpus = "text"\nthreads = "2"', "training.threads"),
        ('corpus = "text"', 'corpus = "text"\ndevice = "abacus"', "training.device"),
        ('corpus = "text"', 'corpus = "text"\n[transfer]\nchunk_bytes = 100', "transfer.chunk_bytes"),
        ('corpus = "text"', 'corpus = "text"\n[transfer]\nparallel = 99', "transfer.parallel"),
        ('corpus = "text"', 'corpus = "text"\n[other]\na = 1', "other"),
    ],
)
def test_an_error_names_file_and_field(old: str, new: str, field: str) -> None:
    with pytest.raises(SettingsError, match=rf"node\.toml: {field}"):
        settings.parse(GOOD.replace(old, new), WHERE)


def test_what_is_no_toml() -> None:
    with pytest.raises(SettingsError, match="not valid TOML"):
        settings.parse("[node", WHERE)


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no node\.toml"):
        settings.load(Home(tmp_path))


def test_names_of_rounds() -> None:
    assert parse_round_name(round_name("a.b-1", 12)) == ("a.b-1", 12)
    for bad in ("a", "a.", ".1", "a.01", "a.-1", "A.1", "a.1.tmp", "a..1", "../a.1", "a.٣", "a." + "9" * 20):
        assert parse_round_name(bad) is None, bad
