"""Whole federations of the fault simulator, whose nodes have cards and data manifests, to take leave from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tapestry.node.home import Home
from tapestry.protocol import canonical
from tapestry.training.spool import TrainResult
from tests.cards import give_card
from tests.sim import node_process
from tests.sim.bugs.kind import Places
from tests.sim.world import World

TOKENIZER: Final = canonical.sha256(b"tokenizer")


def give_data(home: Home, text: Path) -> str:
    """A text, its card, and the manifest that a trainer would keep of it; returns the manifest's hash."""
    text.mkdir(parents=True)
    (text / "train.txt").write_text(f"what {text.name} says\n" * 20)
    (text / "valid.txt").write_text(f"what {text.name} holds back\n" * 3)
    found = give_card(home.root, text, languages=["de"])
    content = found.card.content
    manifest = canonical.encode(
        {
            "format": "tapestry.data-manifest",
            "version": 2,
            "cards": [
                {
                    "name": found.card.name,
                    "card": found.digest,
                    "root": content.root,
                    "documents": content.documents,
                    "bytes": content.bytes,
                    "tokenizer": TOKENIZER,
                    "tokens": {"train": 1000, "valid": 100},
                    "stage": "base",
                }
            ],
            "files": [
                {"bytes": each.bytes, "path": each.path, "sha256": each.sha256, "split": each.split}
                for each in found.card.files
            ],
        }
    )
    path = home.cache / "manifests" / f"{canonical.sha256(manifest)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(manifest)
    return canonical.sha256(manifest)


class ExitWorld(World):
    """Cuts the power of all nodes' machines when the run is over, and calls `then` before the homes go."""

    def __init__(self, seed: int, then: Callable[[ExitWorld], None], **given: Any) -> None:
        super().__init__(seed, **given)
        self._then = then
        self._manifests = {
            node.name: give_data(node.home, self.root / "texts" / node.folder) for node in self.nodes.values()
        }

    def own_places(self) -> Places:
        plain = node_process.result_of

        def result_of(job: Any, node: str, delta: Any) -> TrainResult:
            made = plain(job, node, delta)
            return made.model_copy(update={"data_manifest": self._manifests[node]})

        return {**super().own_places(), (node_process, "result_of"): result_of}

    @contextmanager
    def _installed(self) -> Iterator[None]:
        with super()._installed():
            yield
        for name in self.homes:  # the power of every machine is cut when nobody looks any more
            self.machines[name].disk.lose(self.rng)
        self._then(self)
