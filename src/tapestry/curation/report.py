"""What a run of curation did: as JSON, and as the lineage of what came out. No text is in either."""

from __future__ import annotations

from typing import Any

from tapestry import __version__
from tapestry.catalog.content import Tally
from tapestry.catalog.lineage import Activity, Lineage, State
from tapestry.curation.pipeline import Pipeline, Told

Json = dict[str, Any]


def lineage(pipeline: Pipeline) -> Lineage:
    """Of the text that stayed."""
    steps, before = [], state(pipeline.before)
    for told in pipeline.told:
        after = state(told.after)
        stage = told.stage
        steps.append(
            Activity(
                name=stage.step.name,
                library=stage.step.library,
                version=stage.step.version,
                settings=stage.settings,
                before=before,
                after=after,
            )
        )
        before = after
    return Lineage(
        tool=f"tapestry {__version__}",
        source=state(pipeline.before),
        steps=tuple(steps),
        result=state(pipeline.after),
    )


def state(tally: Tally) -> State:
    content = tally.content()
    return State(documents=content.documents, bytes=content.bytes, root=content.root)


def report(pipeline: Pipeline, notes: list[str]) -> Json:
    """Numbers by step and language.

    Args:
        pipeline: after its run.
        notes: what a person ought to know of it.
    """
    return {
        "format": "tapestry.curation-report",
        "version": 1,
        "source": state(pipeline.before).model_dump(),
        "result": state(pipeline.after).model_dump(),
        "languages": {
            language: {"documents": count, "kept": pipeline.kept[language]}
            for language, count in sorted(pipeline.languages.items(), key=lambda item: (-item[1], item[0]))
        },
        "steps": [_step(told) for told in pipeline.told],
        "notes": notes,
    }


def _step(told: Told) -> Json:
    return {
        "name": told.stage.step.name,
        "library": told.stage.step.library,
        "library_version": told.stage.step.version,
        "action": told.stage.action,
        "settings": told.stage.settings,
        "after": state(told.after).model_dump(),
        "reasons": dict(sorted(told.reasons.items())),
        "counts": dict(sorted(told.counts.items())),
        "languages": dict(sorted(told.languages.items())),
        "examples": [
            {"why": each.why, "document": each.place, **({"like": each.of} if each.of else {})}
            for each in told.examples
        ],
    }
