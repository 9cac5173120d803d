"""Each rule refuses what it is for, by name, and lets through what is right; nothing is let in by chance."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.catalog import policy
from tapestry.catalog.policy import Decision, Policy
from tapestry.catalog.words import STAGES, Stage
from tapestry.errors import RightsRefused, SettingsError
from tests.catalog.made import card

ALL = list(STAGES)


def decide(
    stage: Stage = "base",
    *,
    residency: str | None = "CH",
    today: str = "2026-11-22",
    added: str = "",
    withdrawn: bool = False,
    **changed: Any,
) -> Decision:
    return Policy(added).decide(
        card(**changed),
        stage,
        node="acme-1",
        member="acme",
        residency=residency,
        today=today,
        withdrawn=withdrawn,
    )


def test_a_card_that_is_right_may_enter_and_says_by_which_rule() -> None:
    found = decide()
    assert (found.permitted, found.rule) == (True, "permit")
    found.enforce()


REFUSED: dict[str, dict[str, Any]] = {
    "withdrawn": {"withdrawn": True},
    "stage": {"stage": "sft"},
    "licence": {"licence": "CC-BY-NC-4.0"},
    "own-terms": {"licence": "LicenseRef-Acme", "consent_basis": None},
    "category": {"category": "private"},
    "consent-missing": {"category": "sovereign", "consent_basis": None},
    "consent-expired": {"today": "2028-01-01"},
    "retention": {"today": "2030-01-02", "consent_until": None},
    "residency": {"residency": "DE"},
}


@pytest.mark.parametrize("rule", REFUSED)
def test_each_rule_refuses_and_says_what_is_needed(rule: str) -> None:
    found = decide(**REFUSED[rule])
    assert (found.permitted, found.rules) == (False, (rule,))
    assert found.needed
    with pytest.raises(RightsRefused, match=f"letters may not enter stage .*: rule {rule}") as caught:
        found.enforce()
    assert caught.value.hint == found.needed


@pytest.mark.parametrize("rule", REFUSED)
def test_without_that_rule_it_would_be_let_in(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: it is this rule, and no other, that refuses."""
    parts = policy.RULES.split("@id(")
    kept = [part for part in parts if not part.startswith(f'"{rule}")')]
    assert len(kept) == len(parts) - 1
    monkeypatch.setattr(policy, "RULES", "@id(".join(kept))
    assert decide(**REFUSED[rule]).permitted


def test_each_of_our_rules_has_a_test_and_a_way_out() -> None:
    names = {part.split('"')[1] for part in policy.RULES.split("@id(")[1:]}
    assert names - {"permit"} == set(REFUSED) == set(policy._NEEDED)


def test_the_last_day_of_a_consent_still_counts() -> None:
    assert decide(today="2027-12-31").permitted
    assert not decide(today="2028-01-01").permitted


def test_a_node_that_does_not_say_where_it_stands_is_nowhere() -> None:
    assert decide(residency=None).rule == "residency"


@pytest.mark.parametrize("stage", ALL)
def test_restricted_and_private_text_stays_out_of_what_leaves_the_node(stage: Stage) -> None:
    shared = stage in ("base", "contributed-cpt")
    for changed in ({"licence": "CC-BY-NC-4.0"}, {"licence": "AFL-1.1"}, {"category": "private"}):
        assert decide(stage, stages=ALL, **changed).permitted != shared


def test_all_that_forbid_are_named() -> None:
    found = decide(licence="CC-BY-ND-4.0", residency="FR", today="2031-01-01", category="private")
    assert found.rules == ("licence", "category", "consent-expired", "retention", "residency")


def test_what_no_rule_permits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "RULES", policy.RULES.replace("permit (", "forbid (", 1))
    assert not decide().permitted
    monkeypatch.setattr(policy, "RULES", '@id("x") forbid (principal, action, resource) when { false };')
    assert decide().rules == (policy.DEFAULT,)


def test_a_rule_that_cannot_be_evaluated_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cedar passes over a policy with an error, which for one that forbids would mean: permitted."""
    broken = policy.RULES.replace("resource has consent_until && ", "")
    monkeypatch.setattr(policy, "RULES", broken)
    assert decide().permitted
    found = decide(consent_until=None)
    assert (found.permitted, found.rule) == (False, policy.ERROR)


TOPIC = """
@id("topic") @needed("ask the council; {stage} is not for it")
forbid (principal, action, resource) when { resource.domain == "letters" };
"""


def test_an_owner_may_forbid_more() -> None:
    found = decide(added=TOPIC)
    assert (found.rule, found.needed) == ("topic", "ask the council; base is not for it")
    assert decide(added=TOPIC, domain="law").permitted


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('@id("a") permit (principal, action, resource);', "permits"),
        ("forbid (principal, action, resource);", "no @id of its own"),
        ('@id("licence") forbid (principal, action, resource);', "no @id of its own"),
        ('@id("a") forbid (principal, action, resource) when { resource.colour == "red" };', "colour"),
        ('@id("a") forbid (principal == ?principal, action, resource);', "template"),
        ("forbid", "rights.cedar"),
        ("// x\n" * 20_000, "bytes"),
    ],
)
def test_what_an_owner_may_not_add(added: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Policy(added)
    assert caught.value.hint


def test_names_with_odd_letters_stay_names() -> None:
    """They are data to Cedar, never text of a policy."""
    assert decide(domain="a.b-c").permitted
    found = decide(owner='x" || true || "')
    assert found.permitted
