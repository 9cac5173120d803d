"""The machine-learning bill of materials of a release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapestry.release import cyclonedx
from tapestry.release.card import Data, limits, public_parts, public_scores
from tapestry.release.contents import WEIGHTS, Chain
from tapestry.release.cyclonedx import Component
from tapestry.release.view import Facts


def bom(facts: Facts, chain: Chain, files: Mapping[str, str], data: tuple[Data, ...]) -> bytes:
    """As JSON; the same for everybody who makes it from the same ledger.

    Args:
        files: path → SHA-256 of the files that are of the state.
        data: what is public of the datasets.
    """
    return cyclonedx.document(
        Component(
            name=f"{facts.run}/{facts.release}",
            version=facts.release,
            description=f"Base of run {facts.run} after {facts.merges} merges",
            licence=chain.model.licence,
            weights=files[WEIGHTS],
            card=_card(facts, data),
            properties=_properties(facts, chain),
        ),
        files,
        identity=facts.state + facts.decision,
        at=facts.at,
    )


def _card(facts: Facts, data: tuple[Data, ...]) -> dict[str, Any]:
    scores = public_scores(facts) or ()
    return {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "text-generation",
            "datasets": [
                {
                    "type": "dataset",
                    "name": f"{each.member}/{each.dataset}",
                    "description": "; ".join(f"{field}: {text}" for field, text in each.fields),
                    "governance": {"owners": [{"organization": {"name": each.member}}]},
                }
                for each in data
            ],
            "inputs": [{"format": "string"}],
            "outputs": [{"format": "string"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": "bits per byte, as the node itself states it",
                    "value": repr(each.bits_per_byte),
                    "slice": f"validation text of node {each.node}, {each.bytes} bytes",
                }
                for each in scores
            ]
        },
        "considerations": {"technicalLimitations": list(limits(facts))},
    }


def _properties(facts: Facts, chain: Chain) -> list[dict[str, str]]:
    values = {
        "consortium": facts.consortium,
        "decision": facts.decision,
        "ledger-entry": str(facts.sequence),
        "charter": facts.charter.digest,
        "run": facts.run,
        "plan": facts.plan.digest,
        "merges": str(facts.merges),
        "state": facts.state,
        "base": chain.state.base,
        "model": chain.state.model,
        "parameters": str(chain.layout.elements),
    }
    members = [
        {
            "name": f"tapestry:member:{each.member}",
            "value": f"{each.rounds} rounds, {each.share:.6f} of the weight",
        }
        for each in public_parts(facts) or ()
    ]
    return [{"name": f"tapestry:{name}", "value": value} for name, value in values.items()] + members
