"""Models: files by root, key and digest; nothing executable is let in."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from superbatch_server.schemas.models import ModelManifest
from superbatch_server.service.upkeep.verification import model_digest
from tests.service.api.world import Json, World, answered, problem, safetensors_of, sha256


def register(world: World, files: list[Json]) -> Json:
    found = world.post("/v1/models", {"name": "reference", "family": "tiny", "files": files})
    assert found["state"] == "VERIFYING"
    world.verify()
    return world.get(f"/v1/models/{found['id']}")


def invalid(world: World, files: list[Json], code: str, *said: str) -> None:
    found = register(world, files)
    assert (found["state"], found["error_code"]) == ("INVALID", code), found
    assert all(text in found["error"] for text in said), found["error"]


def test_a_model_becomes_ready_with_a_digest(world: World) -> None:
    files = world.model_files()
    found = register(world, files)
    assert found["state"] == "READY"
    assert found["digest"] == model_digest(ModelManifest.model_validate(found["manifest"]))


def test_the_digest_is_of_family_roles_and_contents_and_not_of_names(world: World) -> None:
    files = world.model_files()
    moved = [
        world.file_ref(file["role"], (world.data / file["key"]).read_bytes(), f"x/{i}") for i, file in enumerate(files)
    ]
    digests = [register(world, listed)["digest"] for listed in (files, moved[::-1], world.model_files(value=2.0))]
    assert digests[0] == digests[1] != digests[2]


def test_a_learner_may_come_without_weights(world: World) -> None:
    assert register(world, world.model_files()[1:])["state"] == "READY"


def test_a_pickle_is_refused_by_name(world: World) -> None:
    invalid(world, world.model_files(weights=pickle.dumps({"w": [1.0]})), "pickle_refused", "executed", "save_file")


def test_a_wrong_header_is_refused(world: World) -> None:
    invalid(world, world.model_files(weights=b"\x10" + bytes(40)), "not_safetensors", "header", "pool/models/")


def test_weights_that_were_cut_off_are_refused(world: World) -> None:
    invalid(world, world.model_files(weights=safetensors_of(1.0)[:-1]), "not_safetensors")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_file_of_another_digest_is_refused(world: World, index: int) -> None:
    files = world.model_files()
    files[index] = files[index] | {"sha256": sha256(b"")}
    invalid(world, files, "digest_mismatch", sha256(b""), files[index]["key"])


def test_a_missing_file_is_refused(world: World) -> None:
    files = world.model_files()
    files[2] = files[2] | {"key": "nowhere"}
    invalid(world, files, "object_missing", "nowhere")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\x80\x04", b"import os"])
def test_a_config_that_is_no_json_object_is_refused(world: World, content: bytes) -> None:
    files = world.model_files()
    files[1] = world.file_ref("config", content)
    invalid(world, files, "not_json", "config")


def test_an_unknown_root_and_an_unsafe_key_are_refused_at_once(world: World) -> None:
    files = world.model_files()
    for change, code in (
        ({"root": "other"}, "unknown_root"),
        ({"key": "../x"}, "unsafe_key"),
        ({"key": "/x"}, "unsafe_key"),
    ):
        body = {"name": "m", "family": "tiny", "files": [files[0] | change, *files[1:]]}
        problem(world.client.post("/v1/models", json=body), code)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": "open_clip"}, "family"),
        ({"files": []}, "files"),
        ({"code": "import os"}, "code is no field"),
    ],
)
def test_other_wrong_fields_are_refused(world: World, change: dict[str, Any], said: str) -> None:
    body = {"name": "m", "family": "tiny", "files": world.model_files()} | change
    problem(world.client.post("/v1/models", json=body), "validation", said)


def test_roles_must_be_complete_and_unique(world: World) -> None:
    files = world.model_files()
    for listed in (files[:1], [*files, files[0]]):
        problem(
            world.client.post("/v1/models", json={"name": "m", "family": "tiny", "files": listed}), "validation", "role"
        )


def test_models_are_listed_and_deleted(world: World) -> None:
    model = world.model()
    assert [found["id"] for found in world.get("/v1/models")["models"]] == [model]
    job = world.submit(world.spec(reference=model, selection={"criterion": "easy_reference", "method": "joint"}))
    problem(world.client.delete(f"/v1/models/{model}"), "in_use", job)
    world.post(f"/v1/jobs/{job}:cancel", {}, status=200)
    assert world.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert world.client.delete(f"/v1/models/{model}").status_code == 204
    assert answered(world.client.get("/v1/models"), 200) == {"models": [], "next_page_token": None}
