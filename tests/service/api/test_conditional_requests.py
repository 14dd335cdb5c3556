"""ETag and If-None-Match: what the client holds already is not sent again."""

from __future__ import annotations

from tests.service.api.world import World, answered


def test_every_resource_has_an_etag_that_changes_with_it(world: World) -> None:
    dataset, model, job_id = world.dataset(), world.model(), world.submit()
    paths = [
        "/v1/roots",
        "/v1/datasets",
        f"/v1/datasets/{dataset}",
        f"/v1/datasets/{dataset}/shards",
        "/v1/models",
        f"/v1/models/{model}",
        "/v1/jobs",
        f"/v1/jobs/{job_id}",
        f"/v1/jobs/{job_id}/stats",
        f"/v1/jobs/{job_id}/events",
        f"/v1/jobs/{job_id}/logs",
        f"/v1/jobs/{job_id}/consumers",
        f"/v1/jobs/{job_id}/checkpoints",
        f"/v1/jobs/{job_id}/exclusions",
    ]
    etags = {}
    for path in paths:
        etags[path] = world.client.get(path).headers["etag"]
        for header in (etags[path], f'W/{etags[path]}, "other"', "*"):
            response = world.client.get(path, headers={"If-None-Match": header})
            assert response.status_code == 304, path
            assert response.content == b""
            assert response.headers["etag"] == etags[path]
        answered(world.client.get(path, headers={"If-None-Match": '"other"'}), 200)
    answered(world.client.post(f"/v1/jobs/{job_id}:cancel"), 200)
    changed = {path for path in paths if world.client.get(path).headers["etag"] != etags[path]}
    ours = f"/v1/jobs/{job_id}"
    assert changed == {"/v1/jobs", ours, f"{ours}/stats", f"{ours}/events", f"{ours}/logs"}
