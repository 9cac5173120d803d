"""The image's file, as far as it can be held without building it: what it copies and installs is there, it
runs as nobody in particular, and names no host."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/container/Containerfile"
KNOWN = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", FILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_it_is_made_of_known_instructions() -> None:
    assert {word for word, _ in instructions()} == KNOWN
    assert instructions()[0][0] == "FROM"


def test_the_base_image_is_a_python_that_tapestry_runs_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    bases = [rest.split(" AS ")[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(bases)) == 1  # what was built in one runs in the other
    match = re.fullmatch(r"python:(\d+)\.(\d+)-slim", bases[0])
    assert match and (int(match[1]), int(match[2])) >= least


def test_what_it_copies_is_there() -> None:
    arguments = dict(rest.split("=") for word, rest in instructions() if word == "ARG")
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            for source in sources:
                for name, value in arguments.items():
                    source = source.replace(f"${{{name}}}", value)
                assert (ROOT / source).exists(), source


def test_the_extras_it_installs_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"\"\.\[([a-z,]+)\]\"", FILE.read_text())
    assert {"core", "node", "metrics", "web"} <= set(asked.split(",")) <= set(extras)


def test_it_runs_as_a_user_who_is_nobody() -> None:
    words = [(word, rest) for word, rest in instructions()]
    last = max(i for i, (word, _) in enumerate(words) if word == "FROM")
    users = [rest for word, rest in words[last:] if word == "USER"]
    assert users == ["10001:10001"]
    made = next(rest for word, rest in words[last:] if word == "RUN")
    assert "--uid 10001" in made and "--gid 10001" in made
    start = max(i for i, (word, _) in enumerate(words) if word == "USER")
    assert not [word for word, _ in words[start:] if word in ("RUN", "COPY")]


def test_it_starts_the_command_that_the_package_brings() -> None:
    (entry,) = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert entry == ["tapestry"] and "tapestry" in scripts


def test_no_host_is_named() -> None:
    assert not re.search(r"https?://|\b[a-z0-9-]+\.(io|com|org|net|ai)\b", FILE.read_text())
