"""Nothing is trained without a card: which are a corpus', whether they still hold, and what they permit.

Cards are held against all documents once; from then on a file counts as the same while its identity is. A
decision of the policy is taken anew for each round, since consents end.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.catalog.croissant import CardFile
from tapestry.catalog.policy import MAX_RULES_BYTES, Decision, Policy
from tapestry.catalog.protected import FILE as PROTECTED
from tapestry.catalog.protected import MAX_FILE_BYTES, Protected
from tapestry.catalog.words import Stage
from tapestry.errors import CardError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.protocol.plan import Plan
from tapestry.training.cards import cards_of, hold_all
from tapestry.training.corpus import Corpus, find_files
from tapestry.training.holding import identity
from tapestry.training.home import TrainerHome, log
from tapestry.training.settings import TrainerSettings
from tapestry.training.shelf import Shelf
from tapestry.training.stale import list_of
from tapestry.training.withdrawals import Withdrawals

RULES: Final = "rights.cedar"
"""Of a node's home: rules that its owner adds."""


def stage_of(plan: Plan) -> Stage:
    """What a run is to a dataset."""
    return plan.stage or "base"


def today() -> str:
    """By this machine's clock, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@dataclass(frozen=True)
class Admitted:
    """Datasets that may be trained on together: the text of one folder.

    Args:
        cards: by name; each of files of its own.
        stage: that they enter.
    """

    cards: tuple[CardFile, ...]
    stage: Stage

    @property
    def files_manifest(self) -> bytes:
        """As `corpus.manifest_of` the files, which the cards were held against."""
        return list_of(file for each in self.cards for file in each.card.files)

    @property
    def key(self) -> tuple[str, str]:
        """The same for the same cards and stage."""
        return _digest(self.cards), self.stage

    def require(self, corpus: Corpus) -> None:
        """Raise `CardError` where text was read before it became what the cards describe."""
        if corpus.manifest != self.files_manifest:
            names = ", ".join(each.card.name for each in self.cards)
            raise CardError(
                f"the text in {corpus.folder} and its card {names} were changed after the trainer had read "
                "what was there before",
                hint="start the node again, which reads the text anew",
            )

    def data_manifest(self, corpus: Corpus, tokenizer: str) -> bytes:
        """What a contribution names by its hash: card, files, and what the run's tokenizer makes of them."""
        values: dict[str, Any] = {
            "cards": [self._of_card(each, corpus, tokenizer) for each in self.cards],
            "files": json.loads(corpus.manifest)["files"],
            "format": "tapestry.data-manifest",
            "version": 2,
        }
        if (without := corpus.withheld) is not None:
            documents = {"train": without.train, "valid": without.valid}
            values["protected"] = {"sha256": without.protected, "withheld": documents}
        return canonical.encode(values)

    def _of_card(self, file: CardFile, corpus: Corpus, tokenizer: str) -> dict[str, Any]:
        card = file.card
        tokens = {"train": 0, "valid": 0}
        for each in card.files:
            tokens[each.split] += corpus.tokens[each.path]
        return {
            "name": card.name,
            "card": file.digest,
            "root": card.content.root,
            "documents": card.content.documents,
            "bytes": card.content.bytes,
            "tokenizer": tokenizer,
            "tokens": tokens,
            "stage": self.stage,
        }


class Rights:
    """The rights of one node's corpus.

    Args:
        home: the node's.
        settings: of the node.
    """

    def __init__(self, home: TrainerHome, settings: TrainerSettings) -> None:
        self._home = home
        self._settings = settings
        self._folder = settings.corpus_path(home.root)
        self._seen: dict[Path, tuple[list[int], CardFile]] = {}
        self._policy: tuple[str, Policy] | None = None
        self._held: str | None = None
        """Digest of the cards that were held against the files."""
        self.withdrawals = Withdrawals(home.root)

    def admit(self, stage: Stage, day: str) -> Admitted:
        """The cards of the corpus, if they hold and all let their text into a stage on a day.

        Raises:
            CardError: none, two of one file, or some that are not of these files.
            RightsRefused: a rule forbids it.
            SettingsError: the owner's rules are none.
        """
        try:
            found = cards_of(self._folder, self._cards(), Shelf.of_node(self._home.root).folder)
            gone = [self.withdrawals.covers(each.card) for each in found]
            held = _digest(found)
            if self._held != held and not any(gone):  # its files may be gone by now
                self._hold(found)
                self._held = held
            for each, withdrawn in zip(found, gone, strict=True):
                self._decide(each, stage, day, withdrawn).enforce()
        except TapestryError as e:
            log("dataset refused", stage=stage, reason=e.message)
            raise
        return Admitted(found, stage)

    def stop(self, admitted: Admitted) -> None:
        """Raise `RightsRefused` where a dataset was withdrawn since it was admitted. Asked at every step."""
        for each in admitted.cards:
            if self.withdrawals.covers(each.card):
                log("dataset withdrawn", dataset=each.card.name)
                self._decide(each, admitted.stage, today(), withdrawn=True).enforce()

    def _decide(self, found: CardFile, stage: Stage, day: str, withdrawn: bool) -> Decision:
        return self._rules().decide(
            found.card,
            stage,
            node=self._settings.node,
            member=self._settings.member,
            residency=self._settings.residency,
            today=day,
            withdrawn=withdrawn,
        )

    def _cards(self) -> list[CardFile]:
        shelf = Shelf.of_node(self._home.root)
        found = []
        for name in shelf.names():
            path = shelf.path(name)
            now = identity(path)
            if path not in self._seen or self._seen[path][0] != now:
                self._seen[path] = (now, shelf.read(name))
            found.append(self._seen[path][1])
        return found

    def _hold(self, found: tuple[CardFile, ...]) -> None:
        """Hold the cards against the folder, unless that was done and no file has another identity since."""
        name = found[0].digest if len(found) == 1 else _digest(found)
        place = self._home.cache / "cards" / f"{name}.json"
        known = json.dumps([[file.name, *identity(file.path)] for file in find_files(self._folder)]).encode()
        if _content(place) == known:
            return
        log("holding the card against the text", dataset=" ".join(each.card.name for each in found))
        hold_all(self._folder, found)
        with files.full_disk(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place, known, durable=False)

    def _rules(self) -> Policy:
        added = owners_rules(self._home.root)
        if self._policy is None or self._policy[0] != added:
            self._policy = (added, Policy(added))
        return self._policy[1]


def rules(home: Path) -> Policy:
    """Of a node, with those its owner adds. Raises `SettingsError`."""
    return Policy(owners_rules(home))


def protected_data(home: Path) -> bytes:
    """The node's protected.toml, empty where it has none.

    Raises:
        SettingsError: it cannot be read; or there was one when this node last trained. What was protected
            is not trained on because a file is lost.
    """
    path, seen = home / PROTECTED, home / "cache" / "protected"
    data = _owners(path, MAX_FILE_BYTES)
    if not data and seen.exists():
        raise SettingsError(
            f"{path} was there when this node last trained, and is gone or empty",
            hint="put it back; to protect nothing any more, leave only its lines `format` and `version`",
        )
    return data


def protected_of(home: Path) -> Protected | None:
    """What a node's owner protects; None where there is no such file. Raises `SettingsError`."""
    return parse_protected(home, protected_data(home))


def parse_protected(home: Path, data: bytes) -> Protected | None:
    """As `protected_of`, of bytes that were read."""
    return Protected.parse(data, str(home / PROTECTED)) if data else None


def owners_rules(home: Path) -> str:
    """Rules that the owner of a node adds, as they stand in the file. Raises `SettingsError`."""
    path = home / RULES
    try:
        return _owners(path, MAX_RULES_BYTES).decode("utf-8")
    except UnicodeDecodeError as e:
        raise SettingsError(f"{path} cannot be read: {e}") from e


def _owners(path: Path, max_bytes: int) -> bytes:
    """A file that the node's owner writes; empty where there is none."""
    try:
        return files.read_limited(path, max_bytes)
    except FileNotFoundError as e:
        if path.is_symlink():
            raise SettingsError(f"{path} leads nowhere", hint="mend the link") from e
        return b""
    except (OSError, TapestryError) as e:
        raise SettingsError(f"{path} cannot be read: {e}") from e


def _digest(cards: tuple[CardFile, ...]) -> str:
    """Stands for all of them."""
    return canonical.sha256(" ".join(each.digest for each in cards).encode())


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
