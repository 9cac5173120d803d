"""Folders that a less trusted process or a stranger filled: a trainer's round, blobs, a model's directory.

An input is its files, each as a line `name size` and its bytes.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tapestry.errors import ModelError, TapestryError
from tapestry.node.examiner import MANIFEST, RESULT, Examiner
from tapestry.node.outgoing import log_lines
from tapestry.protocol.canonical import is_sha256, sha256
from tapestry.protocol.layout import Layout, Tensor
from tapestry.replay.engine import Engine
from tapestry.storage.blobs import BlobStore
from tests.fuzz import made
from tests.fuzz.mutate import INTEGERS, encoded, json_bytes, json_changed, octets
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets.codecs import _mutate as shard_mutation
from tests.fuzz.targets.messages import RESULT as TRAIN_RESULT
from tests.fuzz.targets.signed import _memory_folder

Files = dict[str, bytes]


def packed(files: Files) -> bytes:
    return b"".join(b"%b %d\n%b" % (name.encode(), len(data), data) for name, data in files.items())


def unpacked(data: bytes) -> Files:
    """What `packed` wrote; of other bytes, something."""
    files: Files = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, _, size = line.rpartition(b" ")
        count = int(size) if size.isdigit() and len(size) < 10 else len(rest)
        files[name.decode("latin-1")] = rest[:count]
        data = rest[count:]
    return files


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder()))


# -- a round of the trainer, at the gate; a delta, at the replay worker ---------------------------


def _rehashed(files: Files) -> Files:
    """Names, manifest and result agree again, so that what is inside is looked at."""
    found: Files = {}
    try:
        manifest: Any = json.loads(files[MANIFEST])
        shards = manifest["shards"]
        for old, data in files.items():
            if is_sha256(old):
                new = sha256(data)
                found[new] = data
                for each in shards:
                    if isinstance(each, dict) and each.get("sha256") == old:
                        each |= {"sha256": new, "bytes": len(data)}
        found[MANIFEST] = encoded(manifest)
    except (KeyError, ValueError, TypeError, RecursionError):
        found |= {name: data for name, data in files.items() if name != RESULT}
    try:
        result: Any = json.loads(files[RESULT])
        result["delta"] = sha256(found[MANIFEST])
        found[RESULT] = encoded(result)
    except (KeyError, ValueError, TypeError, RecursionError):
        found[RESULT] = files.get(RESULT, b"")
    return found


def _round(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """One of the files changed; names and hashes mended afterwards, most of the time."""
    files = unpacked(seed)
    name = random.choice([RESULT, MANIFEST, *(each for each in files if is_sha256(each))])
    if name in files:
        change = shard_mutation if is_sha256(name) else json_bytes
        others = [made.encoded("topk", number) for number in range(3)]
        files[name] = change(random, files[name], others)
    if random.random() < 0.7:
        files = _rehashed(files)
    if random.random() < 0.1:
        files[random.choice(("x", "delta.json.tmp", "a" * 64))] = b"x"
    return packed(files)


def _round_seeds() -> list[bytes]:
    shard = made.encoded("topk", 0)
    files = {RESULT: TRAIN_RESULT.to_bytes(), MANIFEST: made.ARTIFACT.to_bytes(), sha256(shard): shard}
    return [packed(files)]


def _gate() -> Parser:
    root = _folder()
    store = BlobStore.open(root / "blobs")
    for message in (made.PLAN, made.LAYOUT):
        store.put(message.to_bytes(), durable=False)
    examiner, folder = Examiner(store), root / "run.1"
    folder.mkdir()

    def call(data: bytes) -> None:
        for old in folder.iterdir():
            old.unlink()
        for name, content in unpacked(data).items():
            if name and "/" not in name and "\0" not in name and len(name) < 200 and name not in (".", ".."):
                (folder / name).write_bytes(content)
        passed = examiner.examine(folder)
        examiner.take(folder, passed)
        log_lines(passed)
        for blob in passed.delta.shards if passed.delta is not None else ():
            store.delete(blob.sha256)

    return Parser(seeds=_round_seeds(), call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


def _screen() -> Parser:
    root = _folder()
    store = BlobStore.open(root / "blobs")
    store.put(made.LAYOUT.to_bytes(), durable=False)
    engine = Engine(store, threads=1)

    def call(data: bytes) -> None:
        files = unpacked(data)
        manifest = store.put(files.get(MANIFEST, b""), durable=False)
        shas = [store.put(each, durable=False) for name, each in files.items() if is_sha256(name)]
        try:
            engine.screen(manifest, made.LAYOUT.digest, made.CODECS["topk"], 0)
        finally:
            for sha in (manifest, *shas):
                if sha != made.LAYOUT.digest:
                    store.delete(sha)

    return Parser(seeds=_round_seeds(), call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


# -- a model's directory --------------------------------------------------------------------------

SMALL = Layout(
    shard_bytes=4096, tensors=(Tensor(name="a.weight", shape=(6, 4)), Tensor(name="b", shape=(8,)))
)
"""What the configuration asks for, in the tests of weights."""


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A file of tensors: dtype, shape and bytes of each."""
    table: dict[str, Any] = {}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def _weight_seeds() -> list[bytes]:
    a, b = struct.pack("<24f", *range(24)), struct.pack("<8f", *range(8))
    half = b"\x00\x3c" * 8
    one = {"model.safetensors": safetensors({"a.weight": ("F32", [6, 4], a), "b": ("F16", [8], half)})}
    index = {
        "metadata": {"total_size": 128},
        "weight_map": {"a.weight": "x-1.safetensors", "b": "x-2.safetensors"},
    }
    two = {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "x-1.safetensors": safetensors({"a.weight": ("BF16", [6, 4], a[:48])}),
        "x-2.safetensors": safetensors({"b": ("F32", [8], b)}),
    }
    return [packed(one), packed(two)]


def _weights_mutation(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """A header's fields with its length put right, its length alone, or the index."""
    files = unpacked(seed)
    name = random.choice(list(files))
    data = files[name]
    if name.endswith(".json"):
        files[name] = json_bytes(random, data, [data])
        return packed(files)
    kind = random.randrange(6)
    if kind == 0:
        files[name] = octets(random, data, [data])
    elif kind == 1:
        number = random.choice((*INTEGERS, len(data) - 8, len(data) - 9, 100_000_001)) & (1 << 64) - 1
        files[name] = struct.pack("<Q", number) + data[8:]
    else:
        (size,) = struct.unpack_from("<Q", data)
        head, body = data[8 : 8 + size], data[8 + size :]
        if kind == 2:
            value = bytearray(body)
            at = random.randrange(0, len(value) - 3, 2)
            value[at : at + 2] = random.choice((b"\x80\x7f", b"\xc0\x7f", b"\x00\x7c", b"\xff\xff"))
            body = bytes(value)
        elif kind == 3:
            head = json_bytes(random, head, [head])
        else:
            value = json_changed(random, json.loads(head))
            head = json.dumps(value, separators=(",", ":")).encode()
        files[name] = struct.pack("<Q", len(head)) + head + body
    return packed(files)


def _adopted() -> Parser:
    from tapestry.training.adopt import _Weights

    root = _folder()

    def call(data: bytes) -> None:
        for old in root.iterdir():
            old.unlink()
        for name, content in unpacked(data).items():
            if name and "/" not in name and "\0" not in name and len(name) < 200 and name not in (".", ".."):
                (root / name).write_bytes(content)
        with _Weights.open(root) as weights:
            weights.check(SMALL, set())
            for each in weights.shards(SMALL):
                assert len(each) < 1 << 20

    return Parser(seeds=_weight_seeds(), call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


def _config() -> Parser:
    from transformers.utils import logging

    from tapestry.training.adopt import _json_object
    from tapestry.training.architectures import MODEL_TYPES, Architecture
    from tapestry.training.model import LEFT_OUT, configured, layout_of

    logging.set_verbosity_error()
    root = _folder()
    path = root / "config.json"
    base = {
        **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64},
        **{"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": None, "tie_word_embeddings": True},
    }
    seeds = [json.dumps({"model_type": name, **base}).encode() for name in MODEL_TYPES]

    def call(data: bytes) -> None:
        path.write_bytes(data)
        given = _json_object(path)
        architecture = Architecture.of(given)
        settings = configured(architecture, {k: v for k, v in given.items() if k not in LEFT_OUT})
        if data not in seeds and sha256(data) > "2":
            return  # making a model takes fifty times as long: of one input in eight
        try:
            meta = architecture.without_values(settings)
        except Exception as e:
            raise ModelError("no model") from e
        assert len(layout_of(meta, 1 << 20).shards) < 1 << 20

    return Parser(seeds=seeds, call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


TEXT = "Ein Text, Grüße, <|endoftext|> 12\n"


def _tokenizers() -> Parser:
    from tapestry.training.tokenizer import Tokenizer, byte_tokenizer_json

    small = json.loads(byte_tokenizer_json())
    few = dict(list(small["model"]["vocab"].items())[:40])
    small["model"]["vocab"] = few
    small["model"]["merges"] = [["!", '"'], ["#", "$"]]
    small["model"]["vocab"] |= {'!"': 40, "#$": 41}
    small["added_tokens"][0]["id"] = 42
    pieces = dict(small)
    pieces["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "always",
        "split": True,
    }
    pieces["normalizer"] = {"type": "NFC"}
    words = {**small, "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}}
    seeds = [json.dumps(each).encode() for each in (small, pieces, words)]

    def call(data: bytes) -> None:
        found = Tokenizer.from_json(data)
        assert found.size < 1 << 40
        assert found.special
        found.unknown  # noqa: B018 - computed here
        found.is_bytes  # noqa: B018
        ids, widths = found.encode(TEXT)
        assert len(ids) == len(widths)
        found.decode(ids.tolist())

    return Parser(seeds=seeds, call=call)


def _token_lists() -> Parser:
    from tapestry.training.tokenizer import Tokenizer
    from tapestry.training.vocabulary import extend

    root = _folder()
    base = Tokenizer.byte_level()

    def call(data: bytes) -> None:
        name, _, content = data.partition(b"\n")
        path = root / ("tokens.json" if name == b"json" else "tokens.txt")
        path.write_bytes(content)
        extend(base, path)

    seeds = [
        b"json\n" + json.dumps(["hallo", " welt", "Grüße"]).encode(),
        "text\nhallo\n welt\nGrüße\n".encode(),
    ]
    return Parser(seeds=seeds, call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


def _token_list(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    name, _, content = seed.partition(b"\n")
    change = json_bytes if name == b"json" and random.random() < 0.8 else octets
    return name + b"\n" + change(random, content, [content])


def _cards() -> Parser:
    from tapestry.training.adopt import _licence

    root = _folder()
    path = root / "README.md"

    def call(data: bytes) -> None:
        path.write_bytes(data)
        assert len(_licence(path)) <= 128

    seeds = [b"---\nlanguage: en\nlicense: mit  # indeed\n---\n# A model\n", b"---\r\nlicense: 'x'\r\n---"]
    return Parser(seeds=seeds, call=call, close=lambda: shutil.rmtree(root, ignore_errors=True))


Open = Callable[[], Parser]
TARGETS: Sequence[Target] = (
    Target(name="trainer-round", open=_gate, mutate=_round, alone=True),
    Target(name="delta-screen", open=_screen, mutate=_round, alone=True),
    Target(
        name="safetensors", open=_adopted, mutate=_weights_mutation, alone=True, refusals=(TapestryError,)
    ),
    Target(name="model-config", open=_config, mutate=json_bytes, alone=True),
    Target(name="tokenizer", open=_tokenizers, mutate=json_bytes, alone=True),
    Target(name="token-list", open=_token_lists, mutate=_token_list, alone=True),
    Target(name="model-card", open=_cards, mutate=octets, alone=True),
)
