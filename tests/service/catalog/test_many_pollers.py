"""A hundred trainers that poll one job: told at once, and the catalog is read once for all of them."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import Engine

from superbatch.formats.manifest import Manifest
from superbatch_server.schemas.errors import NotFound, OtherHistory
from superbatch_server.service.catalog.engine import wakeups_of, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.manifest import Page
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.catalog.wakeups import LOOK_S
from superbatch_server.service.following.manifest_pages import ManifestPages, Place
from tests.service.catalog.builders import claim_it, job, record_rows, segment_commit, submit

NUM_POLLERS = 100


class Counted(ManifestPages):
    """Counts what it reads."""

    num_reads = 0

    def _read(self, place: Place) -> Page:
        self.num_reads += 1
        return super()._read(place)


def publish(engine: Engine, attempt: Attempt) -> None:
    """Publish the next batch."""
    row = job(engine, attempt.job_id)
    record_rows(engine, attempt, row["next_seq"])
    with write(engine) as connection:
        commit_segment(connection, attempt, segment_commit(row, row["next_seq"]))


def test_a_hundred_pollers_are_told_at_once_with_few_reads(engine: Engine) -> None:
    job_id = submit(engine)
    attempt = claim_it(engine)
    pages, wakeups = Counted(engine), wakeups_of(engine)

    async def poll() -> float:
        seen = wakeups.seen(job_id)
        page = await pages.page((job_id, None, 0))
        while not page.has_news:
            seen = await wakeups.wait(job_id, seen, LOOK_S / 2)
            page = await pages.page((job_id, None, 0), max_age_s=LOOK_S / 2)
        assert Manifest.from_json(page.text).next_seq == 1
        return time.monotonic()

    async def poll_all() -> tuple[list[float], int]:
        polls = [asyncio.create_task(poll()) for _ in range(NUM_POLLERS)]
        await asyncio.sleep(2.2 * LOOK_S)
        quiet = pages.num_reads
        await asyncio.to_thread(publish, engine, attempt)
        return await asyncio.gather(*polls), quiet

    told_s, quiet = asyncio.run(poll_all())
    assert quiet <= 1 + 2 * 2.2 + 1, f"{quiet} reads while nothing happened"
    assert pages.num_reads - quiet <= 4, f"{pages.num_reads - quiet} reads for one commit"
    assert max(told_s) - min(told_s) < LOOK_S / 2, "they were rung, and did not look by themselves"


def test_a_page_is_never_older_than_the_last_ring(engine: Engine) -> None:
    job_id = submit(engine)
    attempt, pages = claim_it(engine), ManifestPages(engine)

    async def look() -> int:
        return Manifest.from_json((await pages.page((job_id, None, 0), max_age_s=60)).text).next_seq

    for number in range(3):
        assert asyncio.run(look()) == number
        publish(engine, attempt)


def test_a_fault_is_told_to_all_who_asked_and_not_kept(engine: Engine) -> None:
    pages = ManifestPages(engine)

    async def ask_twice(place: Place) -> list[type]:
        both = await asyncio.gather(*(pages.page(place) for _ in range(2)), return_exceptions=True)
        return [type(each) for each in both]

    assert asyncio.run(ask_twice(("job_0000000000000000", None, 0))) == [NotFound, NotFound]
    job_id = submit(engine)
    assert asyncio.run(ask_twice((job_id, "hist_0000000000000000", 0))) == [OtherHistory, OtherHistory]
    assert asyncio.run(ask_twice((job_id, None, 0))) == [Page, Page]


def test_a_poller_that_goes_away_takes_nobodys_reading_with_it(engine: Engine) -> None:
    job_id, pages = submit(engine), ManifestPages(engine)

    async def leave_and_stay() -> bool:
        leaving, staying = (asyncio.create_task(pages.page((job_id, None, 0))) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return (await staying).has_news

    assert asyncio.run(leave_and_stay()) is False
