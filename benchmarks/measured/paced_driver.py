"""A driver that publishes a small batch every second, and says on its output when it sent each commit.

Each line is `commit <seq> <time.monotonic() just before the request>`: the machine's clock, so that a poller in another
process can subtract it. It sends no heartbeats; the service that starts it gives it a long first lease.
"""

from __future__ import annotations

import os
import time

from commit_driver import made_batch, schedule_row  # beside this script, and so on its path

from superbatch_server.schemas.attempts import Finish, SegmentCommit, SegmentCommitted, WalkPosition
from superbatch_server.storage.store import open_store
from superbatch_server.workers.client import AttemptClient
from superbatch_server.workers.lists import ListWriter, Timed, put_files

INTERVAL_S = 1.0
BATCH_ROWS, CANDIDATES = 256, 1280


class TimedClient(AttemptClient):
    """Says when it commits."""

    def commit_segment(self, commit: SegmentCommit) -> SegmentCommitted:
        """Publish a segment."""
        print(f"commit {commit.first_seq} {time.monotonic()}", flush=True)
        return super().commit_segment(commit)


def main() -> None:
    """Publish the job's batches at their times."""
    environment = os.environ
    client = TimedClient(
        environment["SUPERBATCH_SERVICE_URL"],
        job=environment["SUPERBATCH_JOB"],
        token=int(environment["SUPERBATCH_TOKEN"]),
        secret=environment["SUPERBATCH_ATTEMPT_SECRET"],
    )
    bundle = client.bundle()
    store = open_store(bundle.runtime.store_url)
    writer = ListWriter(bundle, client, store)
    begin_s = time.monotonic()
    for seq in range(bundle.next_seq, bundle.spec.num_batches):
        row = client.record_schedule(schedule_row(seq, num_candidates=CANDIDATES))
        batch = made_batch(seq, num_candidates=CANDIDATES, num_rows=BATCH_ROWS)
        time.sleep(max(0.0, begin_s + INTERVAL_S * (seq - bundle.next_seq + 1) - time.monotonic()))
        writer.add(Timed(row, batch, next_walk=WalkPosition(), score_s=0.0, select_s=0.0))
    put_files(store, client.finish(Finish(outcome="SUCCEEDED")).log_files)


if __name__ == "__main__":
    main()
