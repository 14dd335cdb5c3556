"""Every page of the dashboard: a name for the test's report, the address, and the status that it answers with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.browser.place import HOSTILE, SCORED, Place


@dataclass(frozen=True)
class Address:
    """One page. `made`: a part of the address that only the seeded catalog knows."""

    name: str
    path: str
    made: Callable[[Place], str] | None = None
    status: int = 200
    signed_in: bool = True
    is_variant: bool = False
    """Another state of a page that the default run looks at already: among the long tests."""

    def of(self, place: Place) -> str:
        """Return the path."""
        return self.path if self.made is None else self.path.format(self.made(place))


def _job(what: str) -> Callable[[Place], str]:
    return lambda place: place.jobs[what]


ADDRESSES = (
    Address("signed out", "/", status=401, signed_in=False),
    Address("no such job", "/jobs/job_ffffffffffffffff", status=404),
    Address("jobs", "/"),
    Address("jobs of one state", "/?state=FAILED", is_variant=True),
    Address("jobs of no state", "/?state=CANCELLING", is_variant=True),
    Address("health", "/health"),
    Address("running", "/jobs/{}", _job("running")),
    Address("scored", f"/jobs/{SCORED}", is_variant=True),
    Address("failed", "/jobs/{}", _job("failed"), is_variant=True),
    Address("queued", "/jobs/{}", _job("queued"), is_variant=True),
    Address("waiting", "/jobs/{}", _job("waiting"), is_variant=True),
    Address("indexing", "/jobs/{}", _job("indexing"), is_variant=True),
    Address("done", "/jobs/{}", _job("done"), is_variant=True),
    Address("uniform", "/jobs/{}", _job("uniform"), is_variant=True),
    Address("hostile", "/jobs/{}", _job("hostile"), is_variant=True),
    Address("hostile and scored", f"/jobs/{HOSTILE}", is_variant=True),
    Address("learnability", f"/jobs/{SCORED}/learnability"),
    Address("examples", f"/jobs/{SCORED}/examples?seq=60"),
    Address("why", f"/jobs/{SCORED}/why?seq=60&row={{}}", lambda place: str(place.chosen_row(60))),
    Address("compare", f"/jobs/{SCORED}/compare?a=g1&b=g2"),
    Address("quarantine", f"/jobs/{SCORED}/quarantine"),
    Address("logs", f"/jobs/{SCORED}/logs"),
    Address("cancel", "/jobs/{}/cancel", _job("running")),
    Address("retry", "/jobs/{}/retry", _job("failed"), is_variant=True),
    Address("hostile learnability", f"/jobs/{HOSTILE}/learnability", is_variant=True),
    Address("hostile examples", f"/jobs/{HOSTILE}/examples?seq=49", is_variant=True),
    Address("hostile why", f"/jobs/{HOSTILE}/why?seq=49&row={{}}", lambda _: "0", is_variant=True),
    Address("hostile compare", f"/jobs/{HOSTILE}/compare?a=g0&b=g1", is_variant=True),
    Address("hostile quarantine", f"/jobs/{HOSTILE}/quarantine", is_variant=True),
    Address("hostile logs", f"/jobs/{HOSTILE}/logs", is_variant=True),
    Address("unscored learnability", "/jobs/{}/learnability", _job("queued"), is_variant=True),
    Address("unscored examples", "/jobs/{}/examples", _job("queued"), is_variant=True),
    Address("missing log", "/jobs/{}/logs", _job("done"), is_variant=True),
)
