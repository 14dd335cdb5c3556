"""docker-compose.yml: valid, confined, no secret where it is not needed, every part watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from superbatch_server.service.settings import PREFIX, Settings
from tests.deploy.compose import load, stages

SCHEMA = json.loads((Path(__file__).parent / "schemas/compose.json").read_text())
FILE = load({})
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = sorted(name for name in SERVICES if name != "postgres")


def faults(document: dict[str, Any]) -> list[str]:
    """Return what the schema finds; `name` came into the specification after it."""
    checked = {key: value for key, value in document.items() if key != "name"}
    return [f"{list(error.path)}: {error.message}" for error in Draft7Validator(SCHEMA).iter_errors(checked)]


def test_the_file_is_valid() -> None:
    assert faults(FILE) == []


@pytest.mark.parametrize(
    "mistake",
    [
        {"health_check": {}},
        {"depends_on": {"postgres": {"condition": "healthy"}}},
        {"command": {"only": "api"}},
        {"restart": 1},
        {"ports": 8600},
    ],
)
def test_a_planted_mistake_is_found(mistake: dict[str, Any]) -> None:
    assert faults({**FILE, "services": {**SERVICES, "api": {**SERVICES["api"], **mistake}}}) != []


def test_names_meet() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed], f"{name} waits for the health of {needed}"
        assert set(service.get("secrets", [])) <= set(FILE["secrets"])
        assert set(service["networks"]) <= set(FILE["networks"])
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./"}
        assert named <= set(FILE["volumes"])
        for needed in service.get("depends_on", {}):
            assert set(service["networks"]) & set(SERVICES[needed]["networks"]), f"{name} cannot reach {needed}"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_pinned_watched_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert ":" in service["image"]
    assert not service["image"].endswith(":latest")
    assert {"test", "interval", "timeout", "retries"} <= service["healthcheck"].keys()
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


@pytest.mark.parametrize("name", OURS)
def test_ours_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert stages()[service["build"]["target"]].user == "10001:10001"
    assert "privileged" not in service


def test_secrets_are_files_and_only_where_they_are_needed() -> None:
    assert {name for name in SERVICES if "postgres_password" in SERVICES[name].get("secrets", [])} == {
        "api",
        "supervisor",
        "postgres",
    }
    for service in SERVICES.values():
        for key, value in service["environment"].items():
            if "PASSWORD" in key or "TOKEN" in key:
                assert value.startswith("/run/secrets/"), key
    assert "@postgres" in SERVICES["api"]["environment"]["SUPERBATCH_DATABASE_URL"]
    assert ":" not in SERVICES["api"]["environment"]["SUPERBATCH_DATABASE_URL"].split("//")[1].split("@")[0]


def test_ray_nodes_see_no_folder_that_holds_the_deployments_token() -> None:
    def mounted(name: str) -> set[str]:
        return {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}

    settings = SERVICES["api"]["environment"]
    assert settings["SUPERBATCH_DATA_DIR"] == "/data"
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        assert mounted(name) == {"/shared", "/datasets", "/models"}, "store, uploads and roots"
    for name in ("api", "supervisor"):
        assert mounted(name) == {"/data", "/shared", "/datasets", "/models"}
    for key in ("SUPERBATCH_STORE_URL", "SUPERBATCH_UPLOADS_DIR"):
        assert settings[key].startswith("/shared/")


def test_only_the_api_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8600:8600"]}
    assert FILE["networks"]["catalog"] == {"internal": True}
    assert "catalog" not in SERVICES["ray-head"]["networks"]


def test_the_gpu_worker_is_an_option() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["ray-worker-gpu"]
    [device] = SERVICES["ray-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_the_settings_are_the_programs() -> None:
    names = {key for service in SERVICES.values() for key in service["environment"] if key.startswith(PREFIX)}
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert SERVICES["api"]["environment"] == SERVICES["supervisor"]["environment"]


def test_the_cluster_has_room_for_the_workers() -> None:
    def num_cpus(name: str) -> int:
        [found] = [part for part in SERVICES[name]["command"] if part.startswith("--num-cpus=")]
        return int(found.partition("=")[2])

    workers = int(SERVICES["supervisor"]["environment"]["SUPERBATCH_NUM_WORKERS"])
    assert num_cpus("ray-head") + num_cpus("ray-worker") >= 2 * workers + 1, "two pools, and Ray Data"
