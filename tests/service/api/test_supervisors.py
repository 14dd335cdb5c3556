"""GET /v1/supervisors: who looks at the queue."""

from __future__ import annotations

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.supervisors import Identity, beat
from tests.service.api.world import World, problem


def test_nobody_is_there_until_a_supervisor_says_so(world: World) -> None:
    assert world.get("/v1/supervisors") == {"supervisors": []}
    who = Identity("supervisor_a", host="lab-1", pid=7, runner="local", max_running=2)
    with write(world.engine) as connection:
        beat(connection, who, num_running=1)
    (found,) = world.get("/v1/supervisors")["supervisors"]
    assert found.pop("started_at") <= found.pop("seen_at")
    assert 0 <= found.pop("age_s") < 20
    assert found == {
        "id": "supervisor_a",
        "host": "lab-1",
        "pid": 7,
        "runner": "local",
        "max_running": 2,
        "num_running": 1,
        "is_live": True,
    }


def test_it_needs_a_credential(world: World) -> None:
    problem(world.client_with().get("/v1/supervisors"), "unauthorized")
