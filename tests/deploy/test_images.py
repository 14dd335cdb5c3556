"""The Dockerfile: locked, confined, without secrets; and the list of what the small image holds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from tests.deploy.compose import ROOT, instructions, stages

IMAGES = ("service", "ray")
SERVICE_MODULES = (
    "api_process",
    "supervisor",
    "serve",
    "watching.health",
    "runners.ray_jobs",
    "runners.local",
    "describing.openapi",
)


def locked() -> dict[str, str]:
    """Return the versions of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def service_list() -> list[Requirement]:
    """Return what deploy/service.txt asks for."""
    lines = (ROOT / "deploy/service.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def closure(wanted: list[Requirement]) -> set[str]:
    """Return the names of all distributions that the requirements bring."""
    found: set[str] = set()
    waiting = [(normal(one.name), one.extras) for one in wanted]
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for line in requires(name) or []:
            need = Requirement(line)
            applies = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ["", *extras])
            if applies and normal(need.name) not in found:
                waiting.append((normal(need.name), need.extras))
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_is_watched(name: str) -> None:
    stage = stages()[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.user), "a user by number, not root"
    assert stage.health[:2] == ["python", "-m"]
    assert stage.health[2] == "superbatch_server.service.watching.health"
    assert stage.entrypoint
    assert f"COPY --from={name}-builder /opt/superbatch /opt/superbatch" in stage.lines


def test_every_installation_is_held_to_the_lock() -> None:
    installs = [part for line in instructions() for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 5
    for line in installs:
        assert any(held in line for held in ("-c /build/requirements.lock", "--no-deps", "tools.txt", "torch.txt")), (
            line
        )
    text = "\n".join(instructions())
    for file, package in (("tools.txt", "setuptools"), ("torch.txt", "torch")):
        [line] = [line for line in instructions() if f"> /build/{file}" in line]
        pattern = re.search(r"grep -E '([^']+)'", line)
        assert pattern is not None
        assert [name for name in locked() if re.search(pattern[1], f"{name}==")], package
    assert "ADD " not in text
    assert "http" not in text.replace("http://127.0.0.1:52365", "")


def test_the_base_is_one_pinned_tag_and_no_layer_holds_a_secret() -> None:
    lines = instructions()
    [python] = [line for line in lines if line.startswith("ARG PYTHON=")]
    assert re.fullmatch(r"ARG PYTHON=3\.\d+\.\d+-slim-\w+", python)
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"python:${PYTHON}", "builder", "base"}
    assert not [line for line in lines if re.search(r"TOKEN|PASSWORD|SECRET", line)]
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*", "what is not named is not sent"
    assert not [line for line in ignored if line.startswith("!") and "secret" in line]


def test_the_lock_can_hold_pip_down() -> None:
    assert not [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "[" in line or "://" in line]
    versions = locked()
    missing = closure(service_list()) - {normal(name) for name in versions} - {"tzdata"}
    assert missing == set()


BLOCKING = """
import importlib, sys

class Absent:
    names = set({absent!r})
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            raise ModuleNotFoundError(f'{{name}} is not in the image', name=name)

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
"""


def test_the_service_runs_with_what_the_small_image_holds() -> None:
    held = closure(service_list()) | {"superbatch", "superbatch-server", "setuptools"}
    absent = [name for name, owners in packages_distributions().items() if not {*map(normal, owners)} & held]
    assert {"torch", "ray"} <= set(absent)
    modules = [f"superbatch_server.service.{name}" for name in SERVICE_MODULES] + ["superbatch.cli.main"]
    script = BLOCKING.format(absent=absent, modules=modules)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"add it to deploy/service.txt: {done.stderr}"


def test_the_small_image_asks_for_nothing_that_the_project_does_not() -> None:
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {normal(Requirement(line).name) for line in asked["dependencies"]} | {"psycopg", "pillow"}
    assert {normal(one.name) for one in service_list()} <= named, "each is a dependency in pyproject.toml"
