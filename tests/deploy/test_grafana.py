"""The dashboard for Grafana: well-formed. That each figure exists is held in
tests/federation/test_operate.py."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema

BOARD = Path(__file__).parents[2] / "deploy/grafana/tapestry.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PLACE = {
    "type": "object",
    "required": ["x", "y", "w", "h"],
    "properties": {
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "y": {"type": "integer", "minimum": 0},
        "h": {"type": "integer", "minimum": 1},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time", "refresh"],
    "properties": {
        "uid": {"type": "string", "maxLength": 40},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {
            "type": "array",
            "minItems": 10,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos"],
                "properties": {
                    "id": {"type": "integer"},
                    "type": {"enum": ["row", "stat", "timeseries"]},
                    "title": {"type": "string", "minLength": 1},
                    "gridPos": PLACE,
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"required": ["refId", "expr", "datasource"]},
                    },
                },
            },
        },
    },
}


def board() -> dict[str, Any]:
    return dict(json.loads(BOARD.read_text(encoding="utf-8")))


def test_it_is_of_the_form_that_grafana_reads() -> None:
    jsonschema.validate(board(), SCHEMA)
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"] == SOURCE
            assert all(target["datasource"] == SOURCE for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_beside_each_other() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        return set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))

    for one, other in itertools.combinations(board()["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_every_variable_is_declared_and_used() -> None:
    declared = {each["name"] for each in board()["templating"]["list"]}
    text = json.dumps(board()["panels"])
    for name in declared:
        assert f"${name}" in text or f"${{{name}}}" in text
    for word in ("core", "node", "run", "datasource"):
        assert word in declared
