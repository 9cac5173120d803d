"""One charter has one form; what contradicts itself or cannot be met is refused with the way out."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tapestry.catalog import words as card_words
from tapestry.errors import FormatError, VersionError
from tapestry.governance import charter as charters
from tapestry.governance import words
from tapestry.governance.charter import Charter, entitled, plan_faults
from tapestry.governance.contradictions import find
from tapestry.governance.words import bound, period, seconds, share, text_of
from tapestry.protocol import canonical
from tapestry.protocol.plan import Merge
from tests.governance.made import charter, value


@pytest.mark.parametrize(
    ("text", "exact"),
    [("2/4", Fraction(1, 2)), ("50 %", Fraction(1, 2)), ("33%", Fraction(33, 100)), ("0", 0), ("7/7", 1)],
)
def test_shares_are_exact(text: str, exact: Fraction) -> None:
    assert share(text) == exact
    assert share(text_of(share(text))) == exact


@pytest.mark.parametrize(
    "text", ["3/2", "101 %", "1001/2000", "-1", "0.5", "1/0", "half", "", "½", "1 / 2", "01/2"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"share|more than all|term"):
        share(text)


@pytest.mark.parametrize("text", ["2/3", "more than 1", "at least 3/2", "At least 1/2", "at most 1/2"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"threshold|share|never|more than all"):
        bound(text)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200), st.booleans())
def test_the_least_number_reaches_a_threshold_and_one_less_does_not(
    over: int, under: int, total: int, strict: bool
) -> None:
    wanted = words.Bound(share=Fraction(min(over, under), max(over, under)), strict=strict)
    least = wanted.least(total)
    assert wanted.reached(Fraction(least, total))
    assert not wanted.reached(Fraction(least - 1, total))


def test_periods() -> None:
    assert [
        period(seconds(text)) for text in ("2 weeks", "48 hours", "90 minutes", "1 days", "61 seconds")
    ] == [
        "14 days",
        "2 days",
        "90 minutes",
        "1 day",
        "61 seconds",
    ]
    for text in ("0 days", "1.5 days", "2 fortnights", "999999999 days", "14"):
        with pytest.raises(ValueError, match=r"period|long"):
            seconds(text)


def test_one_charter_has_one_form() -> None:
    one = value(usual={"approval": "at least 50 %", "of": "all", "proposers": ("member", "steward")})
    two = value(usual={"approval": "at least 2/4", "of": "all", "proposers": ("steward", "member")})
    for each in (one, two):
        each["decisions"] = {
            kind: {**rule, "approval": rule["approval"].replace("at least", "more than")}
            for kind, rule in each["decisions"].items()
        }
    two["members"] = dict(reversed(two["members"].items()))
    two["release"]["holders"] = ("c", "a", "b")
    first = Charter.model_validate(one)
    assert first.digest == Charter.model_validate(two).digest
    assert Charter.from_bytes(first.to_bytes()) == first
    # It states every field, so another implementation needs to know no default.
    stated = json.loads(first.to_bytes())
    assert stated["decisions"]["expel"]["approval"] == "more than 1/2"
    assert set(stated["decisions"]) == set(words.KINDS)
    assert stated["voting"]["equal_part"] is None


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (("voting", "cap"), "50 %"),
        (("decisions", "admit", "approval"), "more than 2/4"),
        (("decisions", "admit", "voting"), "2 weeks"),
        (("release", "holders"), ["b", "a", "c"]),
        (("members", "a", "roles"), ["steward", "member"]),
    ],
)
def test_bytes_in_another_form_are_refused(path: tuple[str, ...], given: Any) -> None:
    stated = json.loads(charter().to_bytes())
    inner = stated
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = given
    with pytest.raises(FormatError):
        Charter.from_bytes(canonical.encode(stated))


def test_foreign_bytes_are_checked_like_the_file() -> None:
    stated = json.loads(charter().to_bytes())
    for broken, error in (
        ({"version": 2}, VersionError),
        ({"more": 1}, FormatError),
        ({"voting": {**stated["voting"], "cap": "1/9"}}, FormatError),
        ({"decisions": {k: r for k, r in stated["decisions"].items() if k != "expel"}}, FormatError),
        ({"members": {"../x": {"title": "", "seats": 1, "roles": ["member"]}}}, FormatError),
    ):
        with pytest.raises(error):
            Charter.from_bytes(canonical.encode({**stated, **broken}))


CONTRADICTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"seats": (1, 1)}, "members", "a seat each"),
    ({"seats": (1, 1, 0)}, "members", "a seat each"),
    (
        {"members": {"a": {"roles": ("auditor", "core-operator"), "seats": 0}}},
        "members.a.roles",
        "one of the two",
    ),
    ({"members": {"a": {"roles": ("auditor",)}}}, "members.a.seats", "seats = 0"),
    ({"seats": (2, 1, 1), "voting": {"weights": "equal"}}, "members.a.seats", "seats = 1"),
    ({"voting": {"cap": "1/6"}}, "voting.cap", "1/5"),
    ({"voting": {"weights": "contribution"}}, "voting.equal_part", "1/2"),
    ({"voting": {"weights": "contribution", "equal_part": "0"}}, "voting.equal_part", "1/2"),
    ({"voting": {"equal_part": "1/2"}}, "voting.equal_part", "leave it out"),
    ({"contribution": {"influence_cap": "1/6"}}, "contribution.influence_cap", "1/5"),
    ({"usual": {"approval": "at least 1/2"}}, "decisions.admit.approval", "more than 1/2"),
    ({"usual": {"yes_members": 6}}, "decisions.admit.yes_members", "5"),
    ({"usual": {"yes_members": 5}}, "decisions.suspend.yes_members", "4"),
    ({"usual": {"proposers": ("auditor",)}}, "decisions.admit.proposers", "role"),
    ({"kinds": {"expel": {"approval": "at least 2/3"}}}, "decisions.change-charter.approval", "at least 2/3"),
    ({"kinds": {"expel": {"of": "all"}}}, "decisions.change-charter.of", "all"),
    ({"kinds": {"expel": {"yes_members": 3}}}, "decisions.change-charter.yes_members", "3"),
    ({"kinds": {"expel": {"quorum": "at least 3/5"}}}, "decisions.change-charter.quorum", "at least 3/5"),
    ({"kinds": {"expel": {"voting": "15 days"}}}, "decisions.change-charter.voting", "15 days"),
    ({"kinds": {"change-charter": {"voting": "13 days"}}}, "decisions.change-charter.voting", "14 days"),
    (
        {"seats": (3, 2, 2, 1, 1), "kinds": {"expel": {"quorum_of": "votes"}}},
        "decisions.change-charter.quorum_of",
        "votes",
    ),
    (
        {"seats": (3, 2, 2, 1, 1), "kinds": {"change-charter": {"quorum_of": "votes"}}},
        "decisions.change-charter.quorum_of",
        "members",
    ),
    (
        {"entitlements": {"weight": "1/2"}, "contribution": {"influence_cap": "1/3"}},
        "entitlements.weight",
        "1/3",
    ),
    ({"entitlements": {"needs": "either"}}, "entitlements.weight", "both"),
    ({"data": {"base": ("open", "private")}}, "data.base", "private"),
    ({"public": {"ledger": "public"}}, "public.plans", "public"),
    ({"public": {"members": "consortium"}}, "public.members", "consortium"),
    ({"release": {"holders": ("a", "x")}}, "release.holders", "members"),
    ({"release": {"signatures": 4}}, "release.signatures", "2"),
]


@pytest.mark.parametrize(("given", "where", "way_out"), CONTRADICTIONS)
def test_contradictions_are_refused_with_the_way_out(given: dict[str, Any], where: str, way_out: str) -> None:
    made = dict(given)
    if "members" in made:
        made["members"] = {**{name: {} for name in "bcde"}, **made["members"]}
    with pytest.raises(ValidationError) as caught:
        charter(**made)
    (fault,) = caught.value.errors()
    assert fault["type"] == "charter"
    assert (fault["ctx"]["where"], way_out in fault["ctx"]["way_out"]) == (where, True)


DOCUMENTED: dict[str, type[BaseModel]] = {
    "[members]": charters.Member,
    "[voting]": charters.Voting,
    "[decisions.KIND]": charters.Rule,
    "[contribution]": charters.Contribution,
    "[entitlements]": charters.Entitlements,
    "[data]": charters.Data,
    "[public]": charters.Public,
    "[release]": charters.Release,
    "[deadlines]": charters.Deadlines,
}


@pytest.mark.parametrize("table", DOCUMENTED)
def test_the_page_of_the_format_has_every_field_with_its_default(table: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats" / "charter.md").read_text(encoding="utf-8")
    body = page.split(f"\n### {table}\n")[1].split("\n#")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \| ", body, re.MULTILINE))
    fields = DOCUMENTED[table].model_fields
    assert list(rows) == list(fields)
    for name, field in fields.items():
        default = field.get_default()
        if field.is_required():
            said = "needed"
        elif default is None:
            said = "none"
        elif isinstance(default, bool | int):
            said = str(default).lower()
        else:
            said = f"`{json.dumps(default)}`"
        assert rows[name] == said, name


def test_a_charter_without_contradictions_has_none() -> None:
    assert list(find(charter())) == []


def test_what_is_no_easier_way_is_not_refused() -> None:
    """Of equal votes a quorum of votes is one of members; a share of all votes is a quorum too."""
    charter(kinds={"expel": {"quorum_of": "votes"}})
    heavy: dict[str, Any] = {"seats": (3, 2, 2, 1, 1)}
    by_votes = {"quorum": "at least 1/3", "quorum_of": "votes"}
    charter(
        **heavy, kinds={"admit": by_votes, "change-charter": {"of": "all"}}, usual={"quorum": "at least 0"}
    )
    charter(**heavy, kinds={kind: {"quorum_of": "votes"} for kind in words.KINDS})
    charter(kinds={"change-charter": {"voting": "15 days"}})


def test_the_words_for_data_are_those_of_the_cards() -> None:
    assert words.CATEGORIES == card_words.CATEGORIES


def test_what_a_plan_may_say() -> None:
    made = charter(contribution={"influence_cap": "2/5", "weightings": ("equal", "tokens")})

    def faults(merge: Merge) -> list[str]:
        return plan_faults(made, weighting=merge.weighting, influence_cap=merge.influence_cap)

    assert not faults(Merge(influence_cap=0.4))  # exactly the cap; as a binary fraction it is a little more
    assert "charter allows 2/5" in faults(Merge(influence_cap=0.41))[0]
    assert len(faults(Merge(weighting="tokens-per-step"))) == 2


@pytest.mark.parametrize(
    ("needs", "rounds", "weight", "right"),
    [
        ("both", 3, "1/100", True),
        ("both", 2, "1/2", False),
        ("both", 9, "1/101", False),
        ("either", 2, "1/100", True),
        ("either", 3, "0", True),
        ("either", 2, "1/101", False),
    ],
)
def test_entitlements(needs: str, rounds: int, weight: str, right: bool) -> None:
    made = charter(entitlements={"rounds": 3, "weight": "1/100", "needs": needs})
    assert entitled(made, rounds=rounds, weight=Fraction(weight)) == right
