"""docs/operating.md: a backup comes back; metrics, settings and figures are those of the program."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from superbatch.tiny.picture import BadRowReason
from superbatch_server.schemas.jobs import Phase
from superbatch_server.service.catalog.access_tokens import list_tokens
from superbatch_server.service.catalog.engine import create_engine, read, write
from superbatch_server.service.catalog.pages import PageQuery
from superbatch_server.service.catalog.tables import datasets
from superbatch_server.service.catalog.waiting import ROOM_PAUSE_MS
from superbatch_server.service.settings import PREFIX, Settings
from superbatch_server.service.supervisor import MIN_FREE_BYTES
from superbatch_server.service.watching.storage_report import FULL_BYTES, FULL_FRACTION, LOW_BYTES, LOW_FRACTION
from tests.docs.shell_page import DOCS, SAMPLE, run_script, script_of, why_not
from tests.e2e.house import running_house
from tests.service.api.world import World
from tests.service.catalog.builders import add_dataset
from tests.service.databases import needs_postgres
from tests.service.postgres import shared_server, template

PAGE = DOCS / "operating.md"
TEXT = PAGE.read_text()
SENTENCES = " ".join(TEXT.split())


def backup_blocks() -> tuple[str, str]:
    """Return the commands for SQLite and those for Postgres."""
    script = script_of(PAGE)
    start = script.index("pg_dump")
    return script[:start], script[start:]


@pytest.mark.long
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_sqlite_backup_of_a_running_service_comes_back(tmp_path: Path) -> None:
    roots = {"sample": SAMPLE}
    data_dir = tmp_path / ".local/share/superbatch"
    with running_house(data_dir, roots) as house:
        shards = [{"key": "clean-emoji-000.tar", "source": "emoji"}]
        dataset = house.post("/v1/datasets", {"name": "clean", "root": "sample", "shards": shards})["id"]
        house.ready(f"/v1/datasets/{dataset}")
        spec = {"dataset": dataset, "num_batches": 3, "selection": {"method": "uniform", "b": 16, "f": 0.0}}
        job = house.post("/v1/jobs", spec)["id"]
        house.wait_state(job, "SUCCEEDED")
        lists, stats = house.lists(job), house.get(f"/v1/jobs/{job}/stats")
        run_script(backup_blocks()[0], folder=tmp_path, home=tmp_path)
    shutil.rmtree(data_dir)
    with running_house(tmp_path / "restored", roots) as house:
        assert house.lists(job) == lists
        assert house.get(f"/v1/jobs/{job}/stats") == stats
        further = house.post("/v1/jobs", spec)["id"]
        house.wait_state(further, "SUCCEEDED")
        assert set(house.lists(further)), "the restored service works on"


@needs_postgres
@pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump is not installed")
def test_a_postgres_dump_comes_back(tmp_path: Path) -> None:
    server = shared_server()
    with server.database(template=template(add_dataset)) as url, server.database() as empty:
        run_script(backup_blocks()[1], folder=tmp_path, home=tmp_path, DATABASE=url, EMPTY=empty)
        engine = create_engine(empty)
        with read(engine) as connection:
            assert connection.execute(datasets.select()).mappings().one()["state"] == "READY"
            assert list_tokens(connection, PageQuery()) == ([], None)
        with write(engine) as connection:
            connection.execute(datasets.delete())
        engine.dispose()


def test_every_metric_that_it_names_is_scraped(one_world: World) -> None:
    one_world.submit()
    scraped = one_world.client.get("/metrics").text
    named = set(re.findall(r"`((?:superbatch|process)_[a-z_]+)", TEXT)) | set(
        re.findall(r" - (superbatch_[a-z_]+)", TEXT)
    )
    assert len(named) > 15
    assert [name for name in sorted(named) if f"# TYPE {name} " not in scraped] == []
    states = set(re.findall(r'superbatch_jobs\{state="(\w+)"\}', TEXT))
    assert [state for state in states if f'superbatch_jobs{{state="{state}"}}' not in scraped] == []


def test_every_setting_phase_and_reason_that_it_names_is_one() -> None:
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", TEXT)) <= settings
    assert set(re.findall(r"`(waiting_\w+)`", TEXT)) == {phase for phase in Phase if phase.startswith("waiting")}
    assert [reason for reason in BadRowReason if f"`{reason}`" not in TEXT] == []


def test_its_numbers_are_those_of_the_program() -> None:
    assert (LOW_FRACTION, LOW_BYTES, FULL_FRACTION, FULL_BYTES) == (0.1, 10 << 30, 0.02, 1 << 30)
    assert "`low` below 10% or 10 GiB and `full` below 2% or 1 GiB" in SENTENCES
    assert (ROOM_PAUSE_MS, MIN_FREE_BYTES) == (15_000, 1 << 20)
    assert "look again every 15 s; below 1 MiB no job is begun" in SENTENCES


def test_what_to_watch_leads_to_what_to_do() -> None:
    titles = re.findall(r"^### (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert [link for link in re.findall(r"\]\(#([\w-]+)\)", TEXT) if link not in anchors] == []
