"""A member that hands in again what was handed in before, and calls it its own work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapestry.protocol.encoding import PLAIN, Codec, Fp4, TopK
from tests.attacks.catalog import attacks, case
from tests.attacks.support import FEDAVG, LAYOUT, Game, send
from tests.attacks.switches import Switches

WHO = "a member that has done no work"
Given = tuple[Any, ...]
Values = list[np.ndarray]
"""Of each shard, fp32."""
CHECK = "found.copied and nearest is not None"
SAME = "other.delta == given.delta"
LIMITED = FEDAVG.model_copy(update={"largest_overlap": 0.6})
MANY = TopK(keep=64, side=16, bits=8)
SPARSE = Codec(matrices=MANY, embeddings=MANY, norms=MANY, error_feedback=0.95)
COARSE = Codec(matrices=Fp4(), embeddings=Fp4(), norms=Fp4())


def work(seed: int, part: float = 1.0) -> Values:
    """What a member has found: its own, and what all members find in the same text."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    return [
        (0.01 * (common.standard_normal(s.elements) + part * own.standard_normal(s.elements))).astype("<f4")
        for s in LAYOUT.shards
    ]


def noise(times: float) -> Values:
    rng = np.random.default_rng(99)
    return [(0.014 * times * rng.standard_normal(s.elements)).astype("<f4") for s in LAYOUT.shards]


def written(values: Values, codec: Codec) -> list[bytes]:
    """As shards of a delta."""
    if codec.plain:
        return [s.header + v.astype("<f4").tobytes() for s, v in zip(LAYOUT.shards, values, strict=True)]
    import torch

    from tapestry.codec.shards import ShardCodec

    encode = ShardCodec(codec).encode_
    return [encode(s, torch.tensor(v)) for s, v in zip(LAYOUT.shards, values, strict=True)]


def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Values]], Values]:
    return lambda seen: [change(values.copy()) for values in seen["ada"]]


def _few_changed(values: np.ndarray) -> np.ndarray:
    values[:: max(2, len(values) // 20)] *= -3
    return values


def _noisy(seen: dict[str, Values]) -> Values:
    return [a + b for a, b in zip(seen["ada"], noise(0.4), strict=True)]


def _mean(seen: dict[str, Values]) -> Values:
    return [sum(parts) / 3 for parts in zip(*seen.values(), strict=True)]  # type: ignore[misc]


def _own(seen: dict[str, Values]) -> Values:
    return [2 * values for values in seen["eve"]]


@attacks(
    case(
        "copies-an-update",
        "hands in the very bytes of ada's update of the round before",
        "a delta that was accepted before is accepted once",
        PLAIN,
        each(lambda values: values),
    ),
    case(
        "copies-an-update-scaled",
        "hands in ada's update of the round before, half as long and the other way round",
        "|cosine| of sketches, drawn with a secret while screening",
        PLAIN,
        each(lambda values: values * -0.5),
    ),
    case(
        "copies-an-update-with-some-values-changed",
        "hands in ada's update with one value in so many multiplied by −3",
        "overlap beyond what the round had in common",
        PLAIN,
        each(_few_changed),
    ),
    case(
        "copies-an-update-under-noise",
        "adds noise of two fifths of its length to ada's update",
        "overlap beyond what the round had in common",
        PLAIN,
        _noisy,
    ),
    case(
        "copies-the-mean-of-all-updates",
        "hands in the mean of a round's updates, which is the step the base took",
        "what is a sum of others overlaps with each of them beyond the rest",
        PLAIN,
        _mean,
    ),
    case(
        "copies-an-update-in-sparse-form",
        "scales ada's sparse update and encodes it again: other levels, other bytes",
        "sketches are of decoded values",
        SPARSE,
        each(lambda values: values * 1.7),
    ),
    case(
        "copies-an-update-coarsely",
        "scales ada's update in 4 bits by 1.4, so that most values are rounded another way",
        "sketches are of decoded values",
        COARSE,
        each(lambda values: values * 1.4),
    ),
    case(
        "hands-in-its-own-update-again",
        "hands in its own update of the round before, twice as long",
        "a node's own updates are compared, too",
        PLAIN,
        _own,
    ),
)
def test_a_copy(play: Any, switches: Switches, given: Given) -> None:
    codec, copy = given
    game: Game = play(merge=LIMITED, codec=codec, total=6)
    seeds = iter(range(1, 100))

    def hands_in(member: Any, values: Values, nonce: str = "0") -> None:
        delta = send(member, written(values, codec))
        signed = member.contribution(game.plan, delta, round=game.round, state=game.state, nonce=nonce * 32)
        answer = member.contribute(signed, game.run)
        assert answer.status_code == 200, answer.text

    def honest() -> dict[str, Values]:
        """What ada and bob give to the round in flight; what eve gives is for her to say."""
        seen = {"ada": work(next(seeds)), "bob": work(next(seeds))}
        for name, values in seen.items():
            hands_in(getattr(game, name), values)
            assert game.outcome(f"{name}-1") == ("accepted", None)
        return seen

    def ends() -> None:
        view = game.wait(lambda v: v.head.round >= game.round)
        game.round, game.state = game.round + 1, view.head.state

    mine = work(next(seeds))
    hands_in(game.eve, mine)
    seen = honest() | {"eve": mine}
    ends()

    hands_in(game.eve, copy(seen))
    assert game.outcome() == ("refused", "copied")
    mine = work(next(seeds))
    hands_in(game.eve, mine, "1")
    assert game.outcome() == ("accepted", None), "her own work may follow"
    seen = honest() | {"eve": mine}
    ends()

    screen = "tapestry.core.copies.Copies.screen"
    with switches.check_off(screen, SAME), switches.check_off(screen, CHECK):
        hands_in(game.eve, copy(seen))
        assert game.outcome() == ("accepted", None), "with no work at all"
    honest()
    ends()
    assert game.weights(3)["eve-1"] > 0
