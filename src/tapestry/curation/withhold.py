"""Leaves out what a community protects, as the trainer would."""

from __future__ import annotations

from tapestry.catalog.protected import Protected
from tapestry.curation.letters import Document
from tapestry.curation.step import Look, Step


class Withhold(Step):
    """By topic and by the document's hash.

    Args:
        protected: of the node; holdings that name files are the pipeline's to know.
    """

    name = "protected"

    def __init__(self, protected: Protected) -> None:
        self._protected = protected

    def look(self, document: Document) -> Look:
        return Look(why=self._protected.look((document.text,)))
