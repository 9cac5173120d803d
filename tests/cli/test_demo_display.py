"""Live table, plain lines, plot and final table from given numbers."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import pytest
from rich.console import Console

from tapestry.cli import display
from tapestry.cli.demo import report, result
from tapestry.errors import FormatError, InputError


def make_result(*, compared: bool = True) -> result.Result:
    members = [
        result.MemberResult(
            name=name,
            about="",
            scores={m: low + 5 * math.exp(-m / 2) for m in range(5)},
            tokens=1000,
            bytes_sent=1_234_567,
            bytes_received=2_345_678,
            egress=f"out/nodes/{name}/egress.jsonl",
            bits_per_byte_bigram=low + 1,
            bits_per_byte_alone=low + 0.2 if compared else None,
            bits_per_byte_pooled=low if compared else None,
        )
        for name, low in (("a", 2.0), ("b", 2.01), ("c", 3.0))
    ]
    return result.Result(
        run="demo", rounds=4, parameters=800_000, base="ab" * 32, export="out/model", plot="out/p.png",
        sample="def [bold]f[/bold]\nreturn", seconds=61.0, compared=compared, members=members,
    )  # fmt: skip


def snapshot(merges: int) -> display.Snapshot:
    return display.Snapshot(
        phase="training",
        merges=merges,
        rounds=3,
        parameters=800_000,
        waiting_for="node b" if merges == 1 else None,
        members=[
            display.MemberView(
                name=name, phase="training", step=3, steps=10, loss=2.5, tokens_per_s=1e4,
                scores={m: 4.0 - m for m in range(merges + 1)},
            )
            for name in ("a", "b")
        ],
    )  # fmt: skip


def text_of(renderable: object, width: int = 120) -> str:
    out = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    out.print(renderable)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_the_live_view_has_each_member_and_fits_100_columns() -> None:
    shown = text_of(display.render(snapshot(1), elapsed_s=12))
    for wanted in ("round 2/3", "a", "b", "3/10", "2.500", "10,000", "3.000", "waiting: node b"):
        assert wanted in shown
    assert max(map(len, (line.rstrip() for line in shown.splitlines()))) <= 100


@pytest.mark.parametrize("width", [80, 100, display.WIDE])
def test_names_and_figures_are_whole_on_any_terminal(width: int) -> None:
    """Also after a thousand merges, and where other nodes' traffic is not known."""
    long = snapshot(1000)
    for member, name in zip(long.members, ("language", "network-2"), strict=True):
        member.name, member.phase, member.step, member.steps = name, "repeats the merge", 120, 200
        member.bytes_sent, member.scores = 408_500_000, {m: 5 - m / 1000 for m in range(1001)}
        member.bytes_received = 123_400_000 if name == "language" else None
    shown = text_of(display.render(long, elapsed_s=12, width=width), width)
    for wanted in ("language", "network-2", "repeats the merge", "120/200", "408.5 MB", "4.000"):
        assert shown.count(wanted) == (2 if wanted[0] in "r14" else 1)
    assert "…" not in shown and "0 B" not in shown
    assert ("123.4 MB" in shown) == (width >= display.WIDE)
    assert max(map(len, (line.rstrip() for line in shown.splitlines()))) <= width


def test_a_curve_keeps_its_ends() -> None:
    many = [float(value) for value in range(1000, 0, -1)]
    assert len(display.spark(many)) == display.BAR_WIDTH
    assert (display.spark(many)[0], display.spark(many)[-1]) == ("█", "▁")
    assert display.spark([2.0, 1.0]) == "█▁" and display.spark([]) == ""


def test_plain_lines_say_each_merge_once(capsys: pytest.CaptureFixture[str]) -> None:
    plain = display.PlainDisplay()
    for merges in (0, 0, 1, 1, 2):
        plain.update(snapshot(merges))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("round 1 of 3 merged") == 1
    assert err.count("base after 2 merges: a 2.000, b 2.000 bits per byte") == 1


def test_the_final_table(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(file=io.StringIO(), width=100, color_system=None)
    report.print_result(make_result(), out)
    assert isinstance(out.file, io.StringIO)
    shown = out.file.getvalue()
    for wanted in (
        "800,000 parameters",
        "alone",
        "pooled",
        "1.2 MB",
        "out/model",
        "out/nodes/c/egress.jsonl",
        "[bold]f",
    ):
        assert wanted in shown
    out.width = 80
    large = make_result()
    large.members[0].name, large.members[0].tokens = "alphabets", 9_830_400
    report.print_result(large, out)
    assert "…" not in out.file.getvalue()
    out.file.truncate(0)
    report.print_result(make_result(compared=False), out)
    assert "pooled" not in out.file.getvalue()


@pytest.mark.filterwarnings("default")
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.plot(make_result(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [3.0, 1.0, 2.95], [0.0], []])
def test_labels_keep_apart_and_in_order(values: list[float]) -> None:
    places = report.spread(values, 0.5)
    assert len(places) == len(values)
    ordered = sorted(places)
    assert all(b - a >= 0.5 - 1e-9 for a, b in itertools.pairwise(ordered))
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            assert not (a < b and places[i] > places[j])


def test_the_json_object_has_what_was_promised() -> None:
    value = make_result().to_json()
    assert {"run", "rounds", "parameters", "base", "export", "seconds", "members"} <= value.keys()
    for member in value["members"]:
        assert {
            "name", "bits_per_byte_start", "bits_per_byte_base", "bytes_sent", "bytes_received", "tokens",
            "bits_per_byte_alone", "bits_per_byte_pooled",
        } <= member.keys()  # fmt: skip
        assert member["bits_per_byte_start"] > member["bits_per_byte_base"]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert result.load(path) is None
    result.save(make_result(), path)
    assert result.load(path) == make_result()
    path.write_text("{}")
    with pytest.raises(FormatError, match="damaged"):
        result.load(path)


def test_a_second_call_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    from tapestry.cli.demo import settings

    def choose(**given: object) -> settings.Asked:
        values = dict.fromkeys(("nodes", "rounds", "steps", "seed", "corpora")) | given
        return settings.choose(out=tmp_path / "out", compare=False, **values)  # type: ignore[arg-type]

    first = choose(rounds=3).settings
    assert (first.nodes, first.rounds) == (3, 3)
    (tmp_path / "out").mkdir()
    settings.save(first, tmp_path / "out")
    assert choose(rounds=3).settings == first
    assert choose().settings == first
    with pytest.raises(InputError, match="holds a demo with --rounds 3, not 4") as caught:
        choose(rounds=4)
    assert caught.value.hint is not None
    assert "--out" in caught.value.hint


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    from tapestry.cli.demo import settings

    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="holds no demo"):
        settings.choose(
            out=tmp_path, nodes=None, rounds=None, steps=None, seed=None, corpora=None, compare=False
        )
