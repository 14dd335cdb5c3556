"""The manifests are valid, agree with each other and with the program, and run nothing as root."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from superbatch_server.schemas.datasets import DatasetManifest
from superbatch_server.schemas.jobs import CurateSpec
from superbatch_server.service.settings import PREFIX, Settings
from tests.deploy.manifests import faults, objects, pod_templates

OBJECTS = objects()
TEMPLATES = [(place, template) for _, found in OBJECTS for place, template in pod_templates(found)]
Manifest = dict[str, Any]


def one(kind: str, name: str) -> Manifest:
    """Return a copy of an object."""
    [found] = [found for _, found in OBJECTS if (found["kind"], found["metadata"]["name"]) == (kind, name)]
    return copy.deepcopy(found)


def pod(found: Manifest) -> Manifest:
    """Return the specification of an object's first pod."""
    return next(template for _, template in pod_templates(found))["spec"]


@pytest.mark.parametrize(("file", "found"), OBJECTS, ids=[f"{o['kind']}-{o['metadata']['name']}" for _, o in OBJECTS])
def test_every_object_is_valid(file: str, found: Manifest) -> None:
    assert faults(found) == [], file


MISTAKES: list[tuple[str, str, str, Callable[[Manifest], object]]] = [
    ("RayJob", "superbatch-curation", "unexpected", lambda o: o["spec"].update(shutDownAfterJobFinishes=True)),
    ("RayJob", "superbatch-curation", "is not one of", lambda o: o["spec"].update(submissionMode="HttpMode")),
    ("RayJob", "superbatch-curation", "is not of type", lambda o: o["spec"].update(backoffLimit="2")),
    ("RayJob", "superbatch-curation", "required", lambda o: o["spec"]["rayClusterSpec"].pop("headGroupSpec")),
    ("RayJob", "superbatch-curation", "was expected", lambda o: o.update(apiVersion="ray.io/v1alpha2")),
    ("RayCluster", "superbatch-ray", "required", lambda o: o["spec"]["workerGroupSpecs"][0].pop("groupName")),
    (
        "RayCluster",
        "superbatch-ray",
        "is not of type",
        lambda o: o["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 2}),
    ),
    ("RayCluster", "superbatch-ray", "unexpected", lambda o: pod(o)["containers"][0].update(environment=[])),
    ("RayCluster", "superbatch-ray", "is not one of", lambda o: o["spec"]["authOptions"].update(mode="tokens")),
    ("Deployment", "superbatch-api", "unexpected", lambda o: pod(o)["securityContext"].update(runAsNonroot=True)),
    ("Deployment", "superbatch-api", "is not of type", lambda o: pod(o)["containers"][0].update(args="--only api")),
    ("Deployment", "superbatch-api", "required", lambda o: o["spec"].pop("selector")),
    ("StatefulSet", "superbatch-postgres", "unexpected", lambda o: o["spec"].update(replica=1)),
    ("Service", "superbatch-api", "unexpected", lambda o: o["spec"].update(selectors={})),
    ("NetworkPolicy", "superbatch-api", "unexpected", lambda o: o["spec"].update(egres=[])),
    ("ConfigMap", "superbatch", "is not of type", lambda o: o["data"].update(SUPERBATCH_NUM_WORKERS=4)),
]


@pytest.mark.parametrize(("kind", "name", "said", "mistake"), MISTAKES)
def test_a_planted_mistake_is_found(kind: str, name: str, said: str, mistake: Callable[[Manifest], object]) -> None:
    found = one(kind, name)
    mistake(found)
    assert any(said in fault for fault in faults(found)), faults(found)


def test_an_unknown_kind_is_a_fault() -> None:
    assert faults({"kind": "RayJobs"}) == ["kind 'RayJobs' has no schema"]


@pytest.mark.parametrize(("place", "template"), TEMPLATES, ids=[place for place, _ in TEMPLATES])
def test_every_pod_is_confined(place: str, template: Manifest) -> None:
    spec = template["spec"]
    context = spec["securityContext"]
    assert context["runAsNonRoot"], place
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service superbatch-api would set SUPERBATCH_API_PORT"
    volumes = {volume["name"] for volume in spec["volumes"]}
    claimed = {"data"} if place == "superbatch-postgres" else set()  # from volumeClaimTemplates
    for container in spec["containers"]:
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["capabilities"]) == (False, {"drop": ["ALL"]})
        assert "memory" in container["resources"]["limits"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert ":" in container["image"], "a pinned tag"
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes | claimed
        assert not [
            entry for entry in container.get("env", []) if "PASSWORD" in entry["name"] and "FILE" not in entry["name"]
        ]


def test_ray_nodes_see_no_folder_that_holds_the_deployments_token() -> None:
    data = one("ConfigMap", "superbatch")["data"]
    assert data["SUPERBATCH_DATA_DIR"] == "/data"
    assert all(data[f"SUPERBATCH_{name}"].startswith("/shared/") for name in ("STORE_URL", "UPLOADS_DIR"))
    claims = {
        place: {volume["persistentVolumeClaim"]["claimName"] for volume in template["spec"]["volumes"]
                if "persistentVolumeClaim" in volume}
        for place, template in TEMPLATES if template["metadata"]["labels"].get("superbatch-part") == "ray"
    }  # fmt: skip
    head_that_runs_a_service = "superbatch-curation head"
    assert claims.pop(head_that_runs_a_service) >= {"superbatch-data", "superbatch-shared"}
    assert len(claims) == 4
    assert all(found == {"superbatch-shared", "superbatch-datasets"} for found in claims.values()), claims


def test_the_settings_are_the_programs() -> None:
    names = set(one("ConfigMap", "superbatch")["data"])
    for _, template in TEMPLATES:
        for container in template["spec"]["containers"]:
            names |= {entry["name"] for entry in container.get("env", []) if entry["name"].startswith(PREFIX)}
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_settings_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    data = one("ConfigMap", "superbatch")["data"]
    password = tmp_path / "password"
    password.write_text("p@ss/word")
    for name, value in (data | {"SUPERBATCH_DATABASE_PASSWORD_FILE": str(password)}).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    url = settings.database_url.get_secret_value()
    assert url == "postgresql+psycopg://superbatch:p%40ss%2Fword@superbatch-postgres:5432/superbatch"
    assert settings.driver_url == "http://superbatch-api:8600"
    assert settings.runner == "ray_jobs"


def test_names_meet() -> None:
    data = one("ConfigMap", "superbatch")["data"]
    services = {found["metadata"]["name"] for _, found in OBJECTS if found["kind"] == "Service"}
    claims = {found["metadata"]["name"] for _, found in OBJECTS if found["kind"] == "PersistentVolumeClaim"}
    assert {"superbatch-api", "superbatch-postgres"} == services
    assert (
        data["SUPERBATCH_RAY_ADDRESS"]
        == f"http://{one('RayCluster', 'superbatch-ray')['metadata']['name']}-head-svc:8265"
    )
    assert "superbatch-api" in json.loads(data["SUPERBATCH_ALLOWED_HOSTS"])
    for place, template in TEMPLATES:
        for volume in template["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims, place
    selected = [service["spec"]["selector"].items() for _, service in OBJECTS if service["kind"] == "Service"]
    labels = [template["metadata"]["labels"].items() for _, template in TEMPLATES]
    assert all(any(wanted <= own for own in labels) for wanted in selected)


def test_the_clusters_have_room_for_the_workers() -> None:
    workers = int(one("ConfigMap", "superbatch")["data"]["SUPERBATCH_NUM_WORKERS"])
    spec = one("RayCluster", "superbatch-ray")["spec"]
    cpus = int(spec["headGroupSpec"]["rayStartParams"]["num-cpus"])
    cpus += sum(int(group["rayStartParams"]["num-cpus"]) * group["minReplicas"] for group in spec["workerGroupSpecs"])
    assert cpus >= 2 * workers + 1


def test_the_curation_is_a_script_with_a_manifest_and_a_spec_that_the_service_takes() -> None:
    data = one("ConfigMap", "superbatch-curation")["data"]
    DatasetManifest.model_validate_json(data["manifest.json"])
    CurateSpec.model_validate(
        {**json.loads(data["spec.json"]), "dataset": "dataset_" + "0" * 16, "reference": "model_" + "0" * 16}
    )
    subprocess.run(["sh", "-n"], input=data["curate.sh"].encode(), check=True)
    assert one("RayJob", "superbatch-curation")["spec"]["entrypoint"] == "sh /curation/curate.sh"
