"""docker-compose.yml and the Dockerfile as data: what each service would run, with which environment."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy/Dockerfile"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with its variables filled in, as `docker compose config` would."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item) for item in value]
        if isinstance(value, str):
            return _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2], value)
        return value

    loaded: dict[str, Any] = filled(yaml.safe_load(COMPOSE.read_text()))
    return loaded


@dataclass(frozen=True)
class Stage:
    """What a stage of the Dockerfile says of the containers made of it, earlier stages included."""

    entrypoint: list[str]
    command: list[str]
    environment: dict[str, str]
    user: str
    health: list[str]
    lines: list[str]


def stages() -> dict[str, Stage]:
    """Return the stages of the Dockerfile by name; `FROM <stage>` inherits."""
    found: dict[str, Stage] = {}
    name = ""
    for line in instructions():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            base = found.get(parent, Stage([], [], {}, "root", [], []))
            found[name] = Stage(
                base.entrypoint, base.command, base.environment, base.user, base.health, [*base.lines, line]
            )
        elif name:
            found[name] = _with(found[name], word, rest, line)
    return found


def instructions() -> list[str]:
    """Return the instructions of the Dockerfile, one line each, without comments."""
    kept = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    return [" ".join(line.split()) for line in kept.replace("\\\n", " ").splitlines() if line.strip()]


def _with(stage: Stage, word: str, rest: str, line: str) -> Stage:
    changes: dict[str, Any] = {"lines": [*stage.lines, line]}
    if word == "ENTRYPOINT":
        changes |= {"entrypoint": json.loads(rest), "command": []}
    elif word == "CMD":
        changes["command"] = json.loads(rest)
    elif word == "USER":
        changes["user"] = rest
    elif word == "HEALTHCHECK":
        changes["health"] = json.loads(rest.partition(" CMD ")[2])
    elif word == "ENV":
        changes["environment"] = stage.environment | dict(part.split("=", 1) for part in rest.split(" "))
    return Stage(**{**stage.__dict__, **changes})


@dataclass(frozen=True)
class Places:
    """How names of the containers' world are said on this machine: folders, and addresses by `host:port`."""

    folders: Mapping[str, Path]
    addresses: Mapping[str, int]

    def said(self, text: str) -> str:
        """Return a text with every folder and address of the containers replaced."""
        for name, port in self.addresses.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?!\d)", f"127.0.0.1:{port}", text)
        for folder, path in self.folders.items():
            text = re.sub(rf"(?<![\w/]){re.escape(folder)}(?![\w-])", str(path), text)
        return text


def command_of(service: Mapping[str, Any], places: Places) -> list[str]:
    """Return what a service's container runs: the image's entry point, then the service's command."""
    stage = stages()[service["build"]["target"]]
    return [places.said(part) for part in [*stage.entrypoint, *(service.get("command") or stage.command)]]


def environment_of(service: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Return the variables of a service's container that are its own, and the search path of this environment."""
    stage = stages()[service["build"]["target"]] if "build" in service else None
    own = {**(stage.environment if stage else {}), **service.get("environment", {})}
    path = f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    return {name: places.said(value) for name, value in own.items()} | {"PATH": path}


def health_of(service: Mapping[str, Any], places: Places) -> list[str]:
    """Return the command of a service's health check."""
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD", "no shell is needed"
    return [places.said(part) for part in command]
