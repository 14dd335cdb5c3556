"""Page tokens are good for the list, the job and the filter that they were made for, and for nothing else."""

from __future__ import annotations

import itertools

from tests.service.api.world import World, answered, problem


def first_token(world: World, path: str, **query: str) -> str:
    token = world.get(path, params={"page_size": 1, **query})["next_page_token"]
    assert isinstance(token, str)
    return token


def test_a_token_of_another_list_job_or_filter_is_refused(world: World) -> None:
    jobs = [world.submit() for _ in range(2)]
    for job_id in jobs:
        answered(world.client.post(f"/v1/jobs/{job_id}:cancel"), 200)
    for _ in range(2):
        world.submit()
        world.model()
        world.post("/v1/tokens", {"name": "x", "scope": "read"}, status=201)
    lists: dict[str, dict[str, str]] = {
        "/v1/jobs": {},
        "/v1/jobs?": {"state": "CANCELLED"},
        "/v1/jobs??": {"state": "QUEUED"},
        "/v1/models": {},
        "/v1/tokens": {},
        f"/v1/jobs/{jobs[0]}/events": {},
        f"/v1/jobs/{jobs[1]}/events": {},
    }
    tokens = {name: first_token(world, name.rstrip("?"), **query) for name, query in lists.items()}
    for (made_for, token), (name, query) in itertools.product(tokens.items(), lists.items()):
        response = world.client.get(name.rstrip("?"), params={"page_token": token, **query})
        if made_for == name:
            answered(response, 200)
        else:
            problem(response, "page_token_refused", "page_token", "Start again without it")


def test_pages_stay_the_same_while_jobs_are_added(world: World) -> None:
    before = [world.submit() for _ in range(5)]
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        page = world.get("/v1/jobs", params={"page_size": 2} | ({"page_token": token} if token else {}))
        seen += [job["id"] for job in page["jobs"]]
        token = page["next_page_token"]
        world.submit()
    assert sorted(seen) == sorted(before), "each job once: none twice, none left out, none that came later"


def test_a_filter_by_state(world: World) -> None:
    job_id = world.submit()
    world.submit()
    answered(world.client.post(f"/v1/jobs/{job_id}:cancel"), 200)
    assert [job["id"] for job in world.get("/v1/jobs?state=CANCELLED")["jobs"]] == [job_id]
    problem(world.client.get("/v1/jobs?state=DONE"), "validation", "query state")


def test_a_changed_token_is_refused(world: World) -> None:
    world.submit()
    world.submit()
    token = first_token(world, "/v1/jobs")
    for index in range(0, len(token), 7):
        other = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        problem(world.client.get("/v1/jobs", params={"page_token": other}), "page_token_refused")
