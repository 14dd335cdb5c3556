"""/metrics: gauges of the catalog, counts by route, few labels."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert, update

from superbatch_server.service.catalog.clock import now_ms
from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.gauges import MAX_JOBS_OVER
from superbatch_server.service.catalog.tables import jobs, supervisors
from tests.service.api.world import World, answered, problem


def metrics(world: World) -> dict[str, float]:
    """Return every sample by its name and labels."""
    response = world.client.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/plain")
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_jobs_queue_and_supervisors_are_read_from_the_catalog(world: World) -> None:
    first = world.submit()
    world.publish(first, 3, per_source={"emoji": (8, 4)})
    world.submit()
    with write(world.engine) as connection:
        at_ms = now_ms(connection)
        rows = [("supervisor_live", at_ms), ("supervisor_dead", at_ms - 600_000)]
        for name, seen_ms in rows:
            connection.execute(
                insert(supervisors).values(
                    id=name,
                    host="h",
                    pid=1,
                    runner="local",
                    max_running=2,
                    num_running=1,
                    started_ms=1,
                    seen_ms=seen_ms,
                )
            )
    found = metrics(world)
    assert found["superbatch_catalog_up[]"] == 1
    assert found["superbatch_jobs['QUEUED']"] == found["superbatch_jobs['RUNNING']"] == 1
    assert found[f"superbatch_job_next_seq['{first}']"] == 3
    assert found[f"superbatch_job_num_batches['{first}']"] == 20
    assert found[f"superbatch_job_filter_ratio['{first}']"] == world.get(f"/v1/jobs/{first}/stats")["filter_ratio"]
    assert found["superbatch_supervisors_live[]"] == found["superbatch_drivers_running[]"] == 1
    assert found["superbatch_queue_age_seconds[]"] >= 0
    assert found["process_resident_memory_bytes[]"] > 1e6


def test_requests_are_counted_by_the_template_of_their_route(tmp_path: Path) -> None:
    (tmp_path / "counted").mkdir()
    world = World(tmp_path / "counted", micro_batch=8)
    for number in range(5):
        world.client.get(f"/v1/jobs/job_{number}")
        world.client.get(f"/nothing/{number}")
    world.client.request("BREW", "/v1/jobs")
    found = metrics(world)
    assert found["superbatch_requests_total['/v1/jobs/{job_id}', '404', 'GET']"] == 5
    assert found["superbatch_requests_total['404', 'GET', 'unmatched']"] == 5
    assert found["superbatch_request_seconds_count['/v1/jobs/{job_id}', 'GET']"] == 5
    assert found["superbatch_sent_bytes_total['/v1/jobs/{job_id}']"] > 0
    assert not [name for name in found if re.search("job_[0-9]|BREW", name)]
    world.close()


def test_jobs_that_are_over_are_bounded(world: World) -> None:
    for _ in range(MAX_JOBS_OVER + 3):
        answered(world.client.post(f"/v1/jobs/{world.submit()}:cancel"), 200)
    running = world.submit()
    named = {name for name in metrics(world) if name.startswith("superbatch_job_next_seq")}
    assert len(named) == MAX_JOBS_OVER + 1
    assert f"superbatch_job_next_seq['{running}']" in named


def test_a_credential_is_needed_unless_the_deployment_says_otherwise(one_world: World, tmp_path: Path) -> None:
    problem(one_world.client_with().get("/metrics"), "unauthorized")
    token = one_world.post("/v1/tokens", {"name": "prometheus", "scope": "read"}, status=201)
    assert one_world.client_with(Authorization=f"Bearer {token['secret']}").get("/metrics").status_code == 200
    (tmp_path / "open").mkdir()
    world = World(tmp_path / "open", open_metrics=True)
    assert world.client_with().get("/metrics").status_code == 200
    world.close()


def test_the_age_of_the_queue_is_that_of_jobs_that_may_be_started(world: World) -> None:
    waiting, ready = world.submit(), world.submit()
    with write(world.engine) as connection:
        for job_id, age_s, waits_for in ((waiting, 9_000, "trainer"), (ready, 90, None)):
            values = {"updated_ms": now_ms(connection) - 1000 * age_s, "waits_for": waits_for}
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))
    age_s = metrics(world)["superbatch_queue_age_seconds[]"]
    assert 90 <= age_s < 600, "a job that waits for its trainer is no delay"
    assert world.get("/v1/storage")["queue"]["oldest_queued_s"] >= age_s


def test_a_catalog_that_does_not_answer_is_a_figure(one_world: World) -> None:
    one_world.engine.dispose()
    (one_world.settings.data_dir / "catalog.sqlite").unlink()
    (one_world.settings.data_dir / "catalog.sqlite").mkdir()
    found = metrics(one_world)
    assert found["superbatch_catalog_up[]"] == 0
    assert "superbatch_queue_age_seconds[]" not in found
