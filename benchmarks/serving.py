"""The endpoint of `tapestry serve`: first token and tokens a second, beside transformers' generate()."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch
from tests.sovereign.served import make, running

from benchmarks.report import Report, Settings, spread
from tapestry.cli.demo import defaults
from tapestry.sovereign.serve import engine as engines
from tapestry.sovereign.serve.engine import Engine, Wanted
from tapestry.sovereign.serve.loading import load

GOAL_MS = 100
PROMPTS = {"short": 4, "half of the context": 64}
TOKENS = 48
LARGER = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
Times = tuple[float, float]
"""Milliseconds to the first token, tokens a second after it."""


def measure(settings: Settings) -> Report:
    repeat = 3 if settings.quick else 15
    report = Report(
        what="serving",
        title="Answers of tapestry serve",
        not_shown=[
            "Several clients at once: one answer is made at a time.",
            "What the answers are worth: weights are random, so that every answer has its full length.",
            "A GPU, and programs made for load (vLLM, llama.cpp).",
        ],
    )
    sizes: dict[str, dict[str, Any]] = {"the demo's model": defaults.model_config()}
    if not settings.quick:
        sizes["512 wide, 8 layers"] = {**LARGER, "max_position_embeddings": defaults.SEQUENCE}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(sizes.items()):
            made = make(Path(folder) / str(number), config=config)
            _one(report, name, made, repeat)
    return report


def _one(report: Report, name: str, folder: Path, repeat: int) -> None:
    served = load(folder, device="cpu")
    engine = Engine(served)
    found: dict[tuple[str, str], list[Times]] = {}
    # No token ends an answer, so that all have the same length.
    draw = engines.draw
    with running(engine) as up, httpx.Client() as client:
        engines.draw = lambda logits, *rest: draw(logits[:256], *rest)
        try:
            for _ in range(repeat + 1):  # in turn, so that all see the same machine
                for what, length in PROMPTS.items():
                    prompt = "x" * length
                    ways: dict[str, Callable[[], Times]] = {
                        "over HTTP, streamed": lambda p=prompt: _over_http(client, up.url, served.name, p),
                        "the engine alone": lambda p=prompt: _engine(engine, p),
                        "transformers generate(), streamed": lambda p=prompt: _generate(served, p),
                    }
                    for way, ask in ways.items():
                        found.setdefault((way, what), []).append(ask())
        finally:
            engines.draw = draw
    threads = torch.get_num_threads()
    text = f"{served.parameters:,} parameters, fp32, {threads} threads, {TOKENS} tokens an answer"
    report.section(f"{name[:1].upper()}{name[1:]}", text)
    rows = []
    for (way, what), times in found.items():
        first, rate = zip(*times[1:], strict=True)  # the first warms up
        rows.append([way, what, spread(first, 1), GOAL_MS if "HTTP" in way else "", spread(rate, 0)])
    columns = ["way", "prompt", "ms to the first token", "goal, at most", "tokens/s after it"]
    report.table(columns, sorted(rows, key=lambda row: (row[1], row[0])))


def _over_http(client: httpx.Client, url: str, model: str, prompt: str) -> Times:
    body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    began, first, used = time.perf_counter(), 0.0, 0
    with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter()
                value = json.loads(line.removeprefix("data: "))
                used = (value.get("usage") or {}).get("completion_tokens", used)
    if used != TOKENS:
        raise AssertionError(f"an answer of {used} tokens, not {TOKENS}")
    return _times(began, first)


def _engine(engine: Engine, prompt: str) -> Times:
    began, first = time.perf_counter(), 0.0
    wanted = Wanted(prompt=engine.encode(prompt), max_tokens=TOKENS, temperature=0)
    for _ in engine.answer(wanted):
        first = first or time.perf_counter()
    return _times(began, first)


def _generate(served: Any, prompt: str) -> Times:
    """As its documentation shows it: generate() in a thread, a streamer that decodes."""
    from transformers import TextIteratorStreamer

    began, first = time.perf_counter(), 0.0
    streamer = TextIteratorStreamer(served.tokenizer, skip_prompt=True)
    ids = served.tokenizer(prompt, return_tensors="pt")
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 256}
    worker = threading.Thread(target=served.module.generate, kwargs={**ids, **options, "streamer": streamer})
    worker.start()
    for _ in streamer:
        first = first or time.perf_counter()
    worker.join()
    return _times(began, first)


def _times(began: float, first: float) -> Times:
    return (first - began) * 1000, (TOKENS - 1) / (time.perf_counter() - first)
