"""The text of a trainer: admitted by its card, tokenized, named by a data manifest; the same at every rank.

The rank that leads decides what is admitted and writes what is kept; the others read the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tapestry.protocol.canonical import sha256
from tapestry.protocol.plan import Plan
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.home import TrainerHome, log
from tapestry.training.island import Island
from tapestry.training.loaded import Loaded
from tapestry.training.manifests import store_card, store_manifest
from tapestry.training.rights import Admitted, Rights, parse_protected, protected_data, stage_of, today
from tapestry.training.settings import TrainerSettings
from tapestry.training.stale import files_of, take_out


class Text:
    """Of one home. All ranks call each method together, unless it says who does.

    Args:
        home: the node's.
        settings: of the node.
        island: the ranks.
    """

    def __init__(self, home: TrainerHome, settings: TrainerSettings, island: Island) -> None:
        self._home = home
        self._settings = settings
        self._island = island
        self.rights = Rights(home, settings)
        self.corpus: Corpus | None = None
        self.admitted: Admitted | None = None
        """What is trained on, at the rank that leads."""
        self._manifests: dict[tuple[str, str], str] = {}
        """Of the corpus as it is, by digest of its card and stage."""
        self._protected = b""
        """The file of what is withheld, as the corpus was read with it."""

    def admit(self, plan: Plan) -> None:
        """Ask whether the text may be trained on in a run. Raises as `Rights.admit`."""
        self.admitted = self.rights.admit(stage_of(plan), today()) if self._island.lead else None

    def protect(self) -> bool:
        """Look at what the owner protects; True where text was read otherwise, which then goes."""
        data = self._island.share(protected_data(self._home.root) if self._island.lead else b"")
        if data == self._protected:
            return False
        self._protected = data
        self.forget()
        return True

    def forget(self) -> None:
        """It is to be tokenized anew, for another model say."""
        self.corpus, self._manifests = None, {}

    def read(self, loaded: Loaded) -> tuple[Corpus, str]:
        """The text that is admitted, and the digest of its data manifest, which is kept at the node; "" at
        ranks that do not lead. Raises `CardError` where it is not what was admitted."""
        corpus = self.corpus = self.corpus or self._opened(loaded)
        admitted = self.admitted
        if admitted is None:
            return corpus, ""
        key = admitted.key
        if key not in self._manifests:
            admitted.require(corpus)
            manifest = admitted.data_manifest(corpus, loaded.tokenizer.digest)
            store_manifest(self._home.cache, manifest)
            for each in admitted.cards:
                store_card(self._home.cache, each)
            self._drop_stale(admitted, corpus)
            self._manifests = {key: sha256(manifest)}
        return corpus, self._manifests[key]

    def is_withdrawn(self) -> bool:
        """Whether the text that is trained on just now was withdrawn; False at ranks that do not lead. Any
        rank alone."""
        covers, admitted = self.rights.withdrawals.covers, self.admitted
        return admitted is not None and any(covers(each.card) for each in admitted.cards)

    def has_withdrawn(self, manifests: Iterable[str]) -> bool:
        """Whether something made of text with these data manifests has any that was withdrawn by now."""
        covers = self.rights.withdrawals.covers_manifest
        return self._island.any(self._island.lead and any(map(covers, manifests)))

    def _opened(self, loaded: Loaded) -> Corpus:
        """The lead tokenizes it where that was not done before."""
        folder = self._settings.corpus_path(self._home.root)
        protected = parse_protected(self._home.root, self._protected)

        def opened(manifest: bytes) -> Corpus:
            return open_corpus(
                folder, loaded.tokenizer, self._home.cache, manifest=manifest, protected=protected
            )

        found, manifest = None, b""
        if self.admitted is not None:
            manifest = self.admitted.files_manifest
            found = opened(manifest)
            if (without := found.withheld) is not None:
                self._home.seen_protected()
                log("documents withheld", train=without.train, valid=without.valid)
        manifest = self._island.share(manifest)
        return found or opened(manifest)

    def _drop_stale(self, admitted: Admitted, corpus: Corpus) -> None:
        """The tokens of what a dataset was before it was changed, or before less of it was withheld or more:
        nobody reads them any more."""
        of = self.rights.withdrawals.manifests
        earlier = {sha for each in admitted.cards for sha in of(each.card.name)}
        lists = files_of(self._home.cache, earlier) - {admitted.files_manifest}
        protected = corpus.withheld.protected if corpus.withheld is not None else None
        removed = take_out(self._home.cache, lists, read=(corpus.manifest, protected))
        if removed.folders:
            removed.erase()
            log("old tokens removed", folders=len(removed.folders), bytes=removed.bytes)
