"""A candidate as lm-evaluation-harness asks one. Imported only where `lm_eval` is."""

from __future__ import annotations

from typing import Any, Final

from lm_eval.api.model import LM

from tapestry.sovereign.evaluation.candidate import Candidate, Ids

MAX_TOKENS: Final = 256


class Asked(LM):  # type: ignore[misc]
    """Text in, log-probabilities and text out; tasks see nothing of the tokenizer."""

    def __init__(self, model: Candidate) -> None:
        super().__init__()
        self._model = model

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Of a continuation behind a context, tokenized together and parted where the context ends."""
        rows = [self._parted(*each.args) for each in requests]
        nats, greedy = self._model.log_probs(rows)
        return [(float(a), bool(b)) for a, b in zip(nats, greedy, strict=True)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Of whole texts, in windows that do not see each other."""
        found = []
        for (text,) in (each.args for each in requests):
            ids, width = self._model.answer(text), self._model.context
            rows = [([self._model.words.end_id], ids[i : i + width]) for i in range(0, len(ids), width)]
            found.append(float(self._model.log_probs(rows)[0].sum()) if rows else 0.0)
        return found

    def generate_until(self, requests: list[Any]) -> list[str]:
        """The likeliest token each time, up to one of the texts that end an answer."""
        found = []
        for context, given in (each.args for each in requests):
            until = given.get("until") or []
            tokens = int(given.get("max_gen_toks", MAX_TOKENS))
            room = max(1, self._model.context - tokens)
            ids: Ids = [self._model.words.end_id, *self._model.answer(context)][-room:]
            text = self._model.words.decode(self._model.generate([ids], tokens)[0])
            ends = [text.find(end) for end in ([until] if isinstance(until, str) else until) if end]
            found.append(text[: min([at for at in ends if at >= 0], default=len(text))])
        return found

    def _parted(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        whole, before = self._model.answer(context + continuation), self._model.answer(context)
        at = min(len(before), len(whole) - 1)
        return [self._model.words.end_id, *whole[:at]], whole[at:]
