"""Whole numbers in addresses of pages: the same bounds as in the API."""

from __future__ import annotations

import pytest

from superbatch_server.schemas.errors import Validation
from superbatch_server.service.catalog.pages import LARGEST_INTEGER
from superbatch_server.service.dashboard.scores.asked import whole
from tests.service.dashboard.scores.scored_world import ScoredWorld
from tests.service.dashboard.scores.test_score_pages import MIXED


def test_the_largest_number_of_an_address_is_that_of_the_api(scored: ScoredWorld) -> None:
    assert whole({"seq": str(LARGEST_INTEGER)}, "seq") == LARGEST_INTEGER
    with pytest.raises(Validation, match="seq must be a whole number of at least 0"):
        whole({"seq": str(LARGEST_INTEGER + 1)}, "seq")
    scored.publish(MIXED)
    scored.index()
    path = f"/v1/jobs/{scored.job_id}/batches"
    assert scored.world.client.get(f"{path}/{LARGEST_INTEGER}").status_code == 404
    assert scored.world.client.get(f"{path}/{LARGEST_INTEGER + 1}").status_code == 422
    scored.page(f"why?seq={LARGEST_INTEGER}&row=0", status=404)
