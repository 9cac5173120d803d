"""What a plan's model is to compute and to send: floating point operations a token, bytes of a contribution.

Shape legend: P parameters, of which `products` take part in matrix products (all but an input embedding that
is not the output's as well).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tapestry.protocol.artifact import Artifact
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import ELEMENT_BYTES, Layout, Shard

_LAYER: Final = re.compile(r"\.layers\.(\d+)\.")
_QUERY: Final = re.compile(r"\.(q_proj|query|q_attn)\.weight$")
_INPUT: Final = ("embed_tokens", "wte", "embed_in")
_OUTPUT: Final = ("lm_head", "embed_out")
_MANIFEST_BYTES: Final = 144
"""Of a manifest but its shards: `Artifact` in canonical JSON."""
_SHARD_LINE_BYTES: Final = 87
"""Of one shard in it and a comma, without the digits of its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a token costs.

    Args:
        parameters: P.
        products: of these, in matrix products.
        layers: blocks with attention.
        width: of the queries of one block, all heads together.
        sequence: tokens.
    """

    parameters: int
    products: int
    layers: int
    width: int
    sequence: int

    @property
    def flops_per_token(self) -> float:
        """6 for each parameter in a product, and attention: forward and backward. Recomputed activations are
        not counted, as in model FLOPs utilisation (arXiv 2204.02311, appendix B)."""
        return 6.0 * self.products + 12.0 * self.layers * self.width * self.sequence

    @classmethod
    def of(cls, layout: Layout, sequence: int) -> Work:
        """From the names and shapes of the tensors. A model without layers of the usual names has no
        attention."""
        parts = {tensor.name: set(tensor.name.split(".")) for tensor in layout.tensors}
        has_output = any(found & set(_OUTPUT) for found in parts.values())
        lookup = sum(t.elements for t in layout.tensors if has_output and parts[t.name] & set(_INPUT))
        queries = [t for t in layout.tensors if _QUERY.search(t.name)]
        layers = {found[1] for t in layout.tensors if (found := _LAYER.search(t.name))}
        return cls(
            parameters=layout.elements,
            products=layout.elements - lookup,
            layers=len(layers),
            width=max((t.rows for t in queries), default=0),
            sequence=sequence,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What one contribution is, in the mean of the fragments, and the whole base. Bytes.

    `manifest` is of a delta; a base's has `base_shards` lines.
    """

    delta: float
    largest_delta: int
    dense: float
    """The fragment in fp32."""
    shards: float
    manifest: float
    base: int
    base_shards: int
    base_manifest: int

    @classmethod
    def of(cls, layout: Layout, codec: Codec, fragments: int | None = None) -> Load:
        """With the layout's own fragments; with another number, in equal parts of the whole."""
        by_fragment: dict[int, list[Shard]] = {}
        for shard in layout.shards:
            by_fragment.setdefault(shard.fragment, []).append(shard)
        known: Counter[tuple[object, ...]] = Counter()
        sizes = {
            number: [_encoded(shard, codec, known) for shard in shards]
            for number, shards in by_fragment.items()
        }
        parts = len(by_fragment) if fragments is None or len(by_fragment) == fragments else fragments
        base = sum(shard.total_bytes for shard in layout.shards)
        whole = sum(map(sum, sizes.values()))
        largest = max(map(sum, sizes.values())) if parts == len(by_fragment) else -(-whole // parts)
        shards = len(layout.shards)
        return cls(
            delta=whole / parts,
            largest_delta=largest,
            dense=layout.elements * ELEMENT_BYTES / parts,
            shards=shards / parts,
            manifest=_MANIFEST_BYTES + sum(map(_lines, sizes.values())) / parts,
            base=base,
            base_shards=shards,
            base_manifest=_MANIFEST_BYTES + _lines([shard.total_bytes for shard in layout.shards]),
        )


def _encoded(shard: Shard, codec: Codec, known: Counter[tuple[object, ...]]) -> int:
    """`Codec.most_bytes`, which a full update has exactly; of many shards alike it is worked out once."""
    key = (
        shard.total_bytes,
        *((codec.class_of(p.tensor.name, p.tensor.shape), p.shape) for p in shard.pieces),
    )
    if key not in known:
        known[key] = codec.most_bytes(shard)
    return known[key]


def _lines(sizes: Sequence[int]) -> int:
    """Bytes of shards in a manifest, a comma after each."""
    return sum(_SHARD_LINE_BYTES + len(str(size)) for size in sizes)


def manifest_too_long(load: Load) -> bool:
    """Whether a manifest of the base is longer than any message may be."""
    return load.base_manifest > Artifact.MAX_BYTES
