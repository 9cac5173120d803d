"""`tapestry serve`: a model behind an OpenAI-compatible endpoint on this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from tapestry.sovereign.serve.loading import Served

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A Hugging Face directory with safetensors, or a finished build."),
]
Adapter = Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter for the model.")]
DeviceName = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where it computes; auto: CUDA if there is one.")
]
PrecisionName = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Of its weights; auto: fp32 on a CPU, on CUDA bf16 if they are stored so."),
]


def offline() -> None:
    """No library may look for anything on a hub, nor report anything; before any of them is loaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def serve(
    model: Model,
    adapter: Adapter = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="To listen on; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address; beyond loopback only with --token-file.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="File of mode 0600 with a bearer token that every request must bring.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What requests call the model.")] = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    queue: Annotated[
        int, typer.Option(min=0, max=1000, help="Requests that may wait while one is answered.")
    ] = 16,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object with the URL on stdout, once it listens.")
    ] = False,
) -> None:
    """Put a model behind an OpenAI-compatible endpoint on this machine, to try it out.

    It has /v1/models, /v1/completions and /v1/chat/completions, with streaming, and needs no network. It
    keeps the terminal until Ctrl-C. One answer is made at a time; for load it prints commands of programs
    made for that. Neither prompts nor answers are logged.

    Example: tapestry serve tapestry-demo/model

    tapestry serve ./base --adapter ./build/adapter --port 8001
    """
    offline()
    from tapestry.cli.output import emit_json, emit_line, note
    from tapestry.sovereign.serve import gate, loading, server
    from tapestry.sovereign.serve.engine import Engine

    token = gate.read_token(token_file) if token_file is not None else None
    where = server.Where(host=host, port=port, token=token)
    where.check()
    if name is not None:
        loading.check_name(name)
    served = loading.load(model, adapter, name=name, device=device, precision=precision)

    def ready(url: str) -> None:
        if as_json:
            emit_json(described(served, url))
            return
        emit_line(f"{served.name} answers on {url}/v1")
        for line in told(served, url, protected=token is not None):
            note(line)

    server.serve(Engine(served), where, waiting=queue, ready=ready, tell=_tell)


def _tell(event: str, fields: Mapping[str, Any]) -> None:
    """One line a request on stderr: numbers, never text."""
    from tapestry.cli.output import note

    note(" ".join([event, *(f"{key}={_plain(value)}" for key, value in fields.items())]))


def _plain(value: Any) -> str:
    return shlex.quote(" ".join(value) if isinstance(value, list) else str(value))


def described(served: Served, url: str) -> dict[str, Any]:
    """The object of `--json`."""
    return {
        "url": url,
        "base_url": f"{url}/v1",
        "model": served.name,
        "chat": served.chat,
        "context": served.context,
        "parameters": served.parameters,
        "device": served.device.type,
        "precision": served.precision,
        "vllm": vllm(served),
        "llama_cpp": llama_cpp(served),
    }


def told(served: Served, url: str, *, protected: bool) -> list[str]:
    """How to use it, for people."""
    key = " -H 'Authorization: Bearer TOKEN'" if protected else ""
    path, what = "completions", '"prompt": "The "'
    if served.chat:
        path, what = "chat/completions", '"messages": [{"role": "user", "content": "Hello"}]'
    body = f'{{"model": "{served.name}", {what}, "max_tokens": 64, "stream": true}}'
    lines = [
        f"{served.parameters:,} parameters, {served.precision} on {served.device.type}, "
        f"{served.context} tokens of context; Ctrl-C stops",
        "",
        "try it:",
        f"  curl -N {url}/v1/{path} -H 'Content-Type: application/json'{key} \\",
        f"    -d {shlex.quote(body)}",
        "",
        "for load:",
        f"  {vllm(served)}",
    ]
    found = llama_cpp(served)
    return [*lines, f"  {found or 'llama-server -m FILE.gguf    (export one from the build first)'}", ""]


def vllm(served: Served) -> str:
    """What vLLM is started with to serve the same."""
    words = ["vllm", "serve", str(served.folder.absolute())]
    if served.adapter is None:
        words += ["--served-model-name", served.name]
    else:
        # vLLM calls an adapter by its own name, beside the base.
        words += ["--enable-lora", "--lora-modules", f"{served.name}-adapted={served.adapter.absolute()}"]
        if (rank := _rank(served.adapter)) is not None:
            words += ["--max-lora-rank", str(rank)]
    return shlex.join([*words, "--host", "127.0.0.1", "--max-model-len", str(served.context)])


def _rank(adapter: Path) -> int | None:
    """vLLM's smallest bound that an adapter's rank fits."""
    import json

    rank = json.loads((adapter / "adapter_config.json").read_bytes()).get("r")
    return (
        next((bound for bound in (8, 16, 32, 64, 128, 256, 320, 512) if rank <= bound), None)
        if rank
        else None
    )


def llama_cpp(served: Served) -> str | None:
    """What llama.cpp is started with, where a GGUF file lies with the model or in its build."""
    folders = (served.folder, served.folder.parent / "export", served.folder.parent / "export" / "gguf")
    found = [path for folder in folders for path in sorted(folder.glob("*.gguf"))]
    if not found:
        return None
    words = ["llama-server", "-m", str(found[0].absolute()), "-c", str(served.context), "--host", "127.0.0.1"]
    return shlex.join(words)
