"""The Kubernetes manifests of deploy/, and their validation: unknown fields and wrong types are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
POD_CONTROLLERS = ("Deployment", "StatefulSet")


@cache
def schemas() -> tuple[dict[str, str], dict[str, Any]]:
    """Return the definition of each kind, and all definitions."""
    kinds: dict[str, str] = {}
    definitions: dict[str, Any] = {}
    for name in ("kubernetes", "kuberay"):
        found = json.loads((SCHEMAS / f"{name}.json").read_text())
        kinds |= found["kinds"]
        definitions |= found["definitions"]
    return kinds, definitions


def objects() -> list[tuple[str, dict[str, Any]]]:
    """Return every object of every manifest, with the name of its file."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        found += [(path.name, document) for document in yaml.safe_load_all(path.read_text())]
    return found


def faults(found: dict[str, Any]) -> list[str]:
    """Return what the schema of its kind finds wrong with an object."""
    kinds, definitions = schemas()
    if found.get("kind") not in kinds:
        return [f"kind {found.get('kind')!r} has no schema"]
    schema = {"$ref": f"#/definitions/{kinds[found['kind']]}", "definitions": definitions}
    return [
        f"{'/'.join(map(str, error.path))}: {error.message}" for error in Draft7Validator(schema).iter_errors(found)
    ]


def pod_templates(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the templates of pods in an object, each with its place."""
    name, spec = found["metadata"]["name"], found.get("spec", {})
    if found["kind"] in POD_CONTROLLERS:
        yield name, spec["template"]
    cluster = spec.get("rayClusterSpec", spec)
    if found["kind"] in ("RayCluster", "RayJob"):
        yield f"{name} head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]
