"""The machine-learning bill of materials of a release: CycloneDX 1.6, as plain JSON.

The library for CycloneDX knows no model cards, so the document is put together here; tests hold it against
the official schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from tapestry.release.card import Data, limits, public_parts, public_scores
from tapestry.release.contents import WEIGHTS, Chain
from tapestry.release.view import Facts

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bom(facts: Facts, chain: Chain, files: Mapping[str, str], data: tuple[Data, ...]) -> bytes:
    """As JSON; the same for everybody who makes it from the same ledger.

    Args:
        files: path → SHA-256 of the files that are of the state.
        data: what is public of the datasets.
    """
    name = f"{facts.run}/{facts.release}"
    value = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, facts.state + facts.decision)}",
        "version": 1,
        "metadata": {
            "timestamp": facts.at,
            "lifecycles": [{"phase": "post-build"}],
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": name,
                "version": facts.release,
                "description": f"Base of run {facts.run} after {facts.merges} merges",
                "hashes": [{"alg": "SHA-256", "content": files[WEIGHTS]}],
                "licenses": [{"expression": chain.model.licence}],
                "modelCard": _card(facts, data),
                "properties": _properties(facts, chain),
            },
        },
        "components": [
            {
                "type": "file",
                "bom-ref": f"file:{path}",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": sha}],
            }
            for path, sha in sorted(files.items())
        ],
        "dependencies": [{"ref": "model", "dependsOn": [f"file:{path}" for path in sorted(files)]}],
    }
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


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
