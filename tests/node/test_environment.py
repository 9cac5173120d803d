"""Words of a trainer: those of its machine, and no others."""

from __future__ import annotations

import pytest
import torch

from tapestry.errors import ArtifactError
from tapestry.host.isolation import measure
from tapestry.host.machine import torch_version
from tapestry.node.environment import CAPABILITIES, Forms
from tapestry.training.island import Island
from tapestry.training.machine import environment
from tapestry.training.settings import Training

HERE = environment(Training(corpus="text"), Island(), measure())
ELSEWHERE = {
    "torch": "2.13.0+cu128",
    "cpu": "AMD EPYC 9654 96-Core Processor AVX512",
    "threads": "96",
    "ranks": "16",
    "precision": "bf16",
    "isolation": "process",
    "system": "Linux x86_64",
    "accelerator": "NVIDIA A100-SXM4-80GB",
}


def test_what_the_trainer_says_here_passes_both_forms() -> None:
    Forms.here().check(HERE)
    Forms.elsewhere().check(HERE)
    assert torch_version() == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in CAPABILITIES


def test_what_other_machines_say_passes_the_form_of_theirs() -> None:
    Forms.elsewhere().check(ELSEWHERE)
    for key, values in {
        "cpu": [
            "Intel(R) Xeon(R) Platinum 8480+ AVX512",
            "Intel(R) Xeon(R) CPU 2.20GHz AVX2",
            "unknown DEFAULT",
            "Neoverse-V2 SVE",
        ],
        "torch": ["2.9.1", "2.10.0a0+git1a2b3c4", "2.8.0+rocm6.4", "2.13.0+cpu"],
        "accelerator": ["NVIDIA H200", "NVIDIA GeForce RTX 4090", "Tesla T4", "AMD Instinct MI300X"],
        "system": ["Linux aarch64"],
    }.items():
        for value in values:
            Forms.elsewhere().check({**ELSEWHERE, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpu", "a line of the text"),
        ("cpu", HERE["cpu"] + "x"),
        ("torch", "2.13.0+secret"),
        ("torch", "9.9.9"),
        ("system", "Linux secret"),
        ("threads", "0x41"),
        ("threads", "123456789"),
        ("ranks", ""),
        ("precision", "text"),
        ("isolation", "the text"),
        ("accelerator", "the owner said so"),
        ("accelerator", "NVIDIA " + "aaaa " * 9),
    ],
)
def test_other_words_are_refused_by_their_key(key: str, value: str) -> None:
    with pytest.raises(ArtifactError, match=rf"environment\.{key} "):
        Forms.here(cuda=True).check({**HERE, key: value})


def test_who_has_no_accelerator_names_none() -> None:
    named = {**HERE, "accelerator": "NVIDIA H200"}
    Forms.here(cuda=True).check(named)
    for forms in (Forms.here(), Forms.elsewhere(cuda=False)):
        with pytest.raises(ArtifactError, match="none of cpu"):
            forms.check(named)


def test_an_unknown_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(ArtifactError, match="none of cpu, inner, isolation") as caught:
        Forms.here().check({**HERE, "the-text": "1"})
    assert "the-text" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpu", "the text of the owner"),
        ("torch", "text"),
        ("system", "Windows NT"),
        ("cpu", "x" * 30 + " AVX2"),
    ],
)
def test_elsewhere_form_alone_is_known(key: str, value: str) -> None:
    with pytest.raises(ArtifactError, match=rf"environment\.{key} "):
        Forms.elsewhere().check({**ELSEWHERE, key: value})
