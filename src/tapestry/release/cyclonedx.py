"""A machine-learning bill of materials: CycloneDX 1.6, as plain JSON.

The library for CycloneDX knows no model cards, so the document is put together here; tests hold it against
the official schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"


@dataclass(frozen=True, kw_only=True)
class Component:
    """A model.

    Args:
        weights: SHA-256 of the file with its weights.
        card: as the schema has it.
        properties: `{name, value}` each.
        ancestors: models that it was made from, as components of the schema.
    """

    name: str
    version: str
    description: str
    licence: str
    weights: str
    card: dict[str, Any]
    properties: list[dict[str, str]]
    ancestors: Sequence[dict[str, Any]] = ()


def document(model: Component, files: Mapping[str, str], *, identity: str, at: str) -> bytes:
    """As JSON; the same for everybody who makes it from the same facts.

    Args:
        model: what it is about.
        files: path → SHA-256 of the files it consists of.
        identity: from which the serial number follows.
        at: the time.
    """
    component = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model.name,
        "version": model.version,
        "description": model.description,
        "hashes": [{"alg": "SHA-256", "content": model.weights}],
        "licenses": [{"expression": model.licence}],
        "modelCard": model.card,
        "properties": model.properties,
    }
    if model.ancestors:
        component["pedigree"] = {"ancestors": list(model.ancestors)}
    value = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": at,
            "lifecycles": [{"phase": "post-build"}],
            "component": component,
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
