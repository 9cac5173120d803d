"""`tapestry charter`, and what is said of a file that is wrong."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli import charterfile
from tapestry.errors import CharterError
from tapestry.governance import capture
from tapestry.governance.charter import Charter
from tests.cli.conftest import Call

EXAMPLES = Path(__file__).parents[2] / "examples"
FIVE = EXAMPLES / "charter-5.toml"
DIGESTS = {
    3: "a296f980270b42bd2c0427d1338197a86d6141d9ba5039a0fa1d80dcb39b10f7",
    5: "60cd73f20ed5bccc2da6ac91723cdce3c7d4885771d961cdc3b48a4fb8635e55",
    50: "923e5c675ddf51d1128fd041342ae0d47b2df5f9a373d50dfdc0b59d12b8dbf6",
}
"""Of the charters that are in examples/: another digest means that every charter has another name."""


def answer(call: Call, *arguments: object) -> Any:
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("members", DIGESTS)
def test_the_examples_are_accepted_and_explained(call: Call, members: int) -> None:
    file = EXAMPLES / f"charter-{members}.toml"
    found = answer(call, "charter", "check", file)
    assert found["accepted"] and not found["refused"]
    assert found["charter"] == DIGESTS[members]
    assert found["members"] == members
    assert len(found["decisions"]) == 12
    change = next(each for each in found["decisions"] if each["kind"] == "change-charter")
    assert members != 5 or found["to_change_charter"] == {
        **{"directly": change["to_pass"], "after_removing_others": 3},
        **{"removed": 2, "by": ["suspend"], "exact": True},
    }
    assert all(not each["force"]["one"] for each in found["decisions"])
    code, out, err = call("charter", "check", file)
    assert code == 0 and out.startswith(found["charter"])
    assert "no member controls anything alone" in err and "can change this charter against all others" in err
    told = answer(call, "charter", "explain", file)
    code, out, _ = call("charter", "explain", file)
    assert code == 0
    assert " ".join(" ".join(told["sections"][-1]["lines"]).split()) in " ".join(out.split()).replace(
        " - ", " "
    )


def test_the_explanation_works_the_numbers_out(call: Call) -> None:
    told = answer(call, "charter", "explain", FIVE)
    lines = " ".join(line for each in told["sections"] for line in each["lines"])
    assert "Of the 5 members who vote, 4 must say yes if all vote, 2 if only 3 do" in lines
    assert "of the 4 others, 3 must say yes." in lines
    three = answer(call, "charter", "explain", EXAMPLES / "charter-3.toml")
    lines = " ".join(line for each in three["sections"] for line in each["lines"])
    assert "two are left to vote, and both must agree" in lines
    fifty = answer(call, "charter", "explain", EXAMPLES / "charter-50.toml")
    assert "No member alone could pass or block anything." in str(fifty)


def test_the_example_of_five_has_every_field() -> None:
    value = tomllib.loads(FIVE.read_text(encoding="utf-8"))
    charter = charterfile.load(FIVE)
    stated = json.loads(charter.to_bytes())
    del stated["voting"]["equal_part"]
    for table in ("voting", "contribution", "entitlements", "data", "public", "release", "deadlines"):
        assert set(value[table]) == set(stated[table]), table
    assert set(value["decisions"]["usual"]) == set(stated["decisions"]["admit"])
    assert all(set(each) == {"title", "seats", "roles"} for each in value["members"].values())
    optional = {"phases"}  # in examples/charter-phases.toml
    assert set(value) | optional == set(Charter.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "line", "says", "hint"),
    [
        ('cap = "1/4"', 'cap = "1/6"', 28, "voting.cap: a cap of 1/6 cannot be met", '"1/5" or more'),
        ('cap = "1/4"', "cap = 0.25", 28, "is text in quotes", "charter-5.toml"),
        ('cap = "1/4"', 'kap = "1/4"', 28, "voting.kap: there is no such field", "weights, cap, equal_part"),
        ('quorum_of = "members"', 'quorum_of = "most"', 37, "is 'members' or 'votes', not 'most'", None),
        ('approval = "at least 2/3"', 'approval = "2/3"', 33, '"more than 1/2" or "at least', None),
        ('approval = "at least 2/3"\n', "", 31, "decisions.usual.approval: is needed", None),
        ("yes_members = 2", "yes_members = 9", 39, "usual.yes_members: admit needs 9", "5 or less"),
        ("[decisions.expel]", "[decisions.expell]", 56, "no such kind of decision", "expel"),
        ("yes_members = 3\n\n# What", "yes_memberz = 3\n\n# What", 59, "expel.yes_memberz", "proposers"),
        ("aare =", "AARE =", 18, "is no name", "a-z"),
        ("[members]", "[members]\nx = 3", 18, "members.x: is a table", None),
        ("[voting]", "[voting", None, "is not TOML", None),
        ('voting = "14 days"', 'voting = "2 fortnights"', 40, "is no period", None),
        ("version = 1", "version = 2", None, "version 2 is not supported", "another release"),
        ('format = "tapestry.charter-file"', "", None, "does not state its format", "begin the file with"),
        ("revision = 1", "revision = 9223372036854775808", None, "64 bits", None),
    ],
)  # fmt: skip
def test_errors_name_the_field_the_line_and_the_way_out(
    old: str, new: str, line: int | None, says: str, hint: str | None
) -> None:
    text = FIVE.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(CharterError) as caught:
        charterfile.parse(text.replace(old, new, 1).encode(), what="c.toml")
    error = caught.value
    assert says in error.message
    assert error.message.startswith(f"c.toml, line {line}: " if line else "c.toml")
    if hint:
        assert hint in (error.hint or "")


@pytest.mark.parametrize(
    "data", [b"\xff", b"", b"a" * (1 << 19), b"a." * 5000 + b"a = 1", b"x = " + b"[" * 99]
)
def test_what_is_no_charter_at_all(data: bytes) -> None:
    with pytest.raises(CharterError):
        charterfile.parse(data, what="c.toml")


def test_a_file_that_is_not_there(call: Call, tmp_path: Path) -> None:
    code, out, err = call("charter", "check", tmp_path / "none.toml")
    assert (code, out) == (2, "")
    assert "cannot read" in err


def test_no_more_is_read_than_a_file_may_have(call: Call, tmp_path: Path) -> None:
    """A device without end would fill memory."""
    for path, said in ((Path("/dev/zero"), "not a regular file"), (tmp_path / "large", "larger than")):
        if path.parent == tmp_path:
            path.write_bytes(b"#" * (charterfile.MAX_BYTES + 1))
        code, out, err = call("charter", "check", path)
        assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize(
    ("old", "new", "place", "way_out"),
    [
        (
            'quorum = "more than 1/2"',
            'quorum = "at least 1"',
            "line 36: decisions.admit.quorum",
            "at least 4/5",
        ),
        ("yes_members = 2", "yes_members = 1", "line 39: decisions.admit.yes_members", "yes_members = 2"),
        ("signatures = 3", "signatures = 1", "line 107: release.signatures", "2 or more"),
    ],
)
def test_control_of_one_is_shown_and_refused(
    call: Call, tmp_path: Path, old: str, new: str, place: str, way_out: str
) -> None:
    file = tmp_path / "charter.toml"
    text = FIVE.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, out, err = call("charter", "check", file)
    assert code == 2
    assert "Admit a member" in out
    assert place in err and way_out in err
    code, out, err = call("charter", "check", file, "--json")
    found = json.loads(out)
    assert code == 2 and not found["accepted"]
    assert found["refused"] == [
        {"where": each.where, "rule": each.rule, "way_out": each.way_out}
        for each in capture.refusals(charterfile.load(file))
    ]
    code, out, err = call("charter", "explain", file)
    assert code == 0 and "refused:" in err


def test_seats_are_told_with_their_shares(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "charter.toml"
    text = (EXAMPLES / "charter-3.toml").read_text(encoding="utf-8")
    text = text.replace('title = "Library of the North"', 'title = "", seats = 2').replace(
        "[decisions.usual]", '[voting]\nweights = "seats"\ncap = "2/5"\n\n[decisions.usual]'
    )
    file.write_text(text, encoding="utf-8")
    told = answer(call, "charter", "explain", file)
    assert "So the votes are: north 2/5, south 3/10, west 3/10." in str(told)
