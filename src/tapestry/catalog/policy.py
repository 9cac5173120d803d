"""What stands between a corpus and the trainer: may this dataset enter this stage at this node today?

The rules are Cedar policies. One permits; each of the others forbids, and has a name. Nothing is permitted
that no rule permits, and a rule that cannot be evaluated (Cedar skips such a one) refuses as well. A node's
owner may add rules that forbid; none that permits.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from tapestry.catalog import licences
from tapestry.catalog.card import Card
from tapestry.catalog.words import STAGES, Stage
from tapestry.errors import RightsRefused, SettingsError

RULES: Final = """\
@id("permit")
permit (principal is Node, action, resource is Dataset);

@id("withdrawn")
forbid (principal, action, resource)
when { resource.withdrawn };

@id("stage")
forbid (principal, action, resource)
unless { resource.stages.contains(context.stage) };

@id("licence")
forbid (principal, action in Action::"shared", resource)
when { resource.licence == "restricted" || resource.licence == "other" };

@id("own-terms")
forbid (principal, action, resource)
when { resource.licence == "own" && !resource.consent };

@id("category")
forbid (principal, action in Action::"shared", resource)
when { resource.category == "private" };

@id("consent-missing")
forbid (principal, action, resource)
when { ["controlled", "sovereign"].contains(resource.category) && !resource.consent };

@id("consent-expired")
forbid (principal, action, resource)
when { resource has consent_until && context.today > resource.consent_until };

@id("retention")
forbid (principal, action, resource)
when { resource has retain_until && context.today > resource.retain_until };

@id("residency")
forbid (principal, action, resource)
unless { principal has residency && resource.residency.contains(principal.residency) };
"""
"""In Cedar (https://docs.cedarpolicy.com). `shared` are the stages whose weights leave the node. Days are
counted from 1970-01-01."""

SCHEMA: Final = """\
entity Node = { "member": String, "residency"?: String };
entity Dataset = {
  "name": String, "owner": String, "domain": String, "languages": Set<String>, "licence": String,
  "spdx": String, "consent": Bool, "consent_until"?: Long, "retain_until"?: Long, "category": String,
  "residency": Set<String>, "stages": Set<String>, "bytes": Long, "documents": Long,
  "withdrawn": Bool
};
action "shared";
action "base", "contributed-cpt" in [Action::"shared"]
  appliesTo { principal: Node, resource: Dataset, context: { "today": Long, "stage": String } };
action "private-cpt", "sft", "preference", "evaluation"
  appliesTo { principal: Node, resource: Dataset, context: { "today": Long, "stage": String } };
"""
SHARED: Final[tuple[Stage, ...]] = ("base", "contributed-cpt")
MAX_RULES_BYTES: Final = 1 << 16

_NEEDED: Final[dict[str, str]] = {
    "withdrawn": "its owner has withdrawn it, for good; train on other text, under another name",
    "stage": "its owner would have to permit the stage: tapestry catalog add ... --stage {stage} --replace",
    "licence": "a licence that lets anybody use and pass on what is made of it; or a build of your own",
    "own-terms": "state on what ground those terms allow it: --consent-basis",
    "category": "private data trains what stays at its owner: private-cpt, sft, preference, evaluation",
    "consent-missing": "state the consent it is used under: --consent-basis",
    "consent-expired": "ask for a new consent, then make the card anew with --consent-until",
    "retention": "it should be erased by now; or make the card anew with --retain-until",
    "residency": "train it on a node in one of its countries, or name this node's in node.toml: residency",
}
_ORDER: Final = tuple(_NEEDED)
ERROR: Final = "error"
DEFAULT: Final = "default-deny"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rules say.

    Args:
        rule: the one that decided; `permit` where it is permitted.
        rules: all that forbid, `rule` first.
        needed: what would have to be different.
    """

    permitted: bool
    rule: str
    rules: tuple[str, ...] = ()
    needed: str = ""
    dataset: str
    stage: Stage

    def enforce(self) -> None:
        """Raise `RightsRefused` unless it is permitted."""
        if self.permitted:
            return
        also = f" (and {', '.join(self.rules[1:])})" if self.rules[1:] else ""
        raise RightsRefused(
            f"dataset {self.dataset} may not enter stage {self.stage}: rule {self.rule}{also}",
            hint=self.needed,
        )


class Policy:
    """Our rules, and those that a node's owner adds.

    Args:
        added: Cedar text. Each policy must forbid, and have an `@id` of its own; `@needed` says what to do.

    Raises `SettingsError` for text that is none of that.
    """

    def __init__(self, added: str = "") -> None:
        import cedarpy

        self._cedar: Any = cedarpy
        self._needed = dict(_NEEDED)
        if added.strip():
            self._take(added)
        try:
            self._rules: Any = cedarpy.PolicySet.from_str(RULES + "\n" + added)
        except ValueError as e:
            raise _not_rules(str(e)) from e

    def _take(self, added: str) -> None:
        if len(added.encode("utf-8", "replace")) > MAX_RULES_BYTES:
            raise _not_rules(f"more than {MAX_RULES_BYTES} bytes")
        try:
            parsed: Any = json.loads(self._cedar.policies_to_json_str(added))
        except ValueError as e:
            raise _not_rules(str(e)) from e
        if parsed.get("templates") or parsed.get("templateLinks"):
            raise _not_rules("a template decides nothing")
        for policy in parsed.get("staticPolicies", {}).values():
            notes = policy.get("annotations", {})
            name = notes.get("id")
            if policy.get("effect") != "forbid":
                raise _not_rules(f"rule {str(name)[:64]!r} permits; only rules that forbid may be added")
            if not isinstance(name, str) or not name or name in (*self._needed, "permit", ERROR, DEFAULT):
                raise _not_rules(f"a rule has no @id of its own: {str(name)[:64]!r}")
            self._needed[name] = notes.get("needed") or f"rule {name} is this node's own, in rights.cedar"
        checked: Any = self._cedar.validate_policies(RULES + "\n" + added, SCHEMA)
        if not checked.validation_passed:
            raise _not_rules("; ".join(str(error.error) for error in checked.errors)[:500])

    def decide(
        self,
        card: Card,
        stage: Stage,
        *,
        node: str,
        member: str,
        residency: str | None,
        today: str,
        withdrawn: bool = False,
    ) -> Decision:
        """May a dataset enter a stage?

        Args:
            card: the dataset's.
            stage: what for.
            node: its name.
            member: whose it is.
            residency: country the node stands in, where it says so.
            today: YYYY-MM-DD.
            withdrawn: its owner has taken it back.
        """
        if stage not in STAGES:
            raise ValueError(stage)
        answer: Any = self._cedar.is_authorized(
            {
                "principal": f"Node::{json.dumps(node)}",
                "action": f"Action::{json.dumps(stage)}",
                "resource": f"Dataset::{json.dumps(card.name)}",
                "context": {"today": _number(today), "stage": stage},
            },
            self._rules,
            json.dumps([*_ACTIONS, _node(node, member, residency), _dataset(card, withdrawn)]),
        )
        given: Any = answer.diagnostics
        if given.errors:
            said = str(given.errors[0])[:300]
            return Decision(
                permitted=False, rule=ERROR, rules=(ERROR,), dataset=card.name, stage=stage,
                needed=f"a rule cannot be evaluated: {said}",
            )  # fmt: skip
        names = given.id_annotations_by_reason
        found = [str(names.get(reason, reason)) for reason in given.reasons]
        if answer.allowed is True and found == ["permit"]:
            return Decision(permitted=True, rule="permit", dataset=card.name, stage=stage)
        rules = tuple(sorted(set(found) - {"permit"}, key=self._rank)) or (DEFAULT,)
        needed = "; ".join(self._needed.get(rule, "a rule would have to permit it") for rule in rules)
        return Decision(
            permitted=False, rule=rules[0], rules=rules, needed=needed.replace("{stage}", stage),
            dataset=card.name, stage=stage,
        )  # fmt: skip

    def _rank(self, rule: str) -> tuple[int, str]:
        return (_ORDER.index(rule) if rule in _ORDER else len(_ORDER), rule)


def _not_rules(what: str) -> SettingsError:
    return SettingsError(
        f"rights.cedar: {what}",
        hint='a rule is @id("NAME") @needed("what to do") forbid (...) when { ... }; '
        "see docs/guides/data-owner.md",
    )


_ACTIONS: Final = [
    {"uid": {"type": "Action", "id": "shared"}, "attrs": {}, "parents": []},
    *(
        {
            "uid": {"type": "Action", "id": stage},
            "attrs": {},
            "parents": [{"type": "Action", "id": "shared"}] if stage in SHARED else [],
        }
        for stage in STAGES
    ),
]


def _node(name: str, member: str, residency: str | None) -> dict[str, Any]:
    attrs = {"member": member} | ({"residency": residency} if residency is not None else {})
    return {"uid": {"type": "Node", "id": name}, "attrs": attrs, "parents": []}


def _dataset(card: Card, withdrawn: bool) -> dict[str, Any]:
    attrs: dict[str, Any] = {
        "name": card.name,
        "owner": card.owner,
        "domain": card.domain,
        "languages": list(card.languages),
        "licence": licences.parse(card.licence).kind,
        "spdx": card.licence,
        "consent": card.consent_basis is not None,
        "residency": list(card.residency),
        "category": card.category,
        "stages": list(card.stages),
        "bytes": card.content.bytes,
        "documents": card.content.documents,
        "withdrawn": withdrawn,
    }
    if card.consent_until is not None:
        attrs["consent_until"] = _number(card.consent_until)
    if card.retention is not None:
        attrs["retain_until"] = _number(card.retention)
    return {"uid": {"type": "Dataset", "id": card.name}, "attrs": attrs, "parents": []}


@lru_cache(1024)
def _number(day: str) -> int:
    """Days since 1970-01-01."""
    return (datetime.date.fromisoformat(day) - datetime.date(1970, 1, 1)).days
