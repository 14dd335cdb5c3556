"""Pages over a made-up catalog: every state renders, nothing from outside is markup, nobody gets in without cookie."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from superbatch_server.service.catalog.engine import write
from superbatch_server.service.catalog.events import add_event
from superbatch_server.service.catalog.revoked import revoke
from superbatch_server.service.dashboard.rendering import CONTENT_POLICY, STATIC
from tests.service.dashboard.conftest import make_app, new_engine, sign_in
from tests.service.dashboard.seed import HOSTILE, LEARNER, Made, publish, set_job

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "circle", "rect"}


class Outline(HTMLParser):
    """Checks that elements close in order, and collects what a page refers to and which elements it has."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "action", "data-live"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    return parsed


@pytest.fixture
def client(engine: Engine, made: Made, tmp_path: Path) -> TestClient:
    return sign_in(TestClient(make_app(engine, tmp_path)), now_s=time.time())


def figure(html: str, name: str) -> str:
    """Return the text of one key figure."""
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", html)
    assert found is not None, name
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


def pages(made: Made) -> list[str]:
    jobs = [f"/jobs/{job_id}" for job_id in made.jobs.values()]
    return ["/", "/health", *(f"{job}{below}" for job in jobs for below in ("", "/quarantine", "/logs"))]


def test_every_state_renders_as_well_formed_html(client: TestClient, made: Made) -> None:
    for path in pages(made):
        for address in (path, "/live" + ("/home" if path == "/" else path)):
            answer = client.get(address)
            assert answer.status_code == 200, address
            found = outline(answer.text)
            assert len(found.ids) == len(set(found.ids)), f"an id stands twice in {address}"
            assert found.tags.count("h1") == 1


def test_no_page_refers_to_another_host_or_holds_inline_code(client: TestClient, made: Made) -> None:
    for path in [*pages(made), "/jobs/none"]:
        answer = client.get(path)
        found = outline(answer.text)
        assert found.handlers == [], "the content policy would block it"
        assert all(re.match(r"(/(?!/)|#|\?|$)", link) for link in found.links), found.links
        assert re.findall(r"https?://", answer.text) == []
        assert answer.headers["Content-Security-Policy"] == CONTENT_POLICY
        assert "unsafe" not in CONTENT_POLICY


def test_names_from_outside_are_text_and_never_markup(client: TestClient, made: Made) -> None:
    for path in ("/", f"/jobs/{made.jobs['hostile']}", f"/jobs/{HOSTILE.replace('/', '')}"):
        html = client.get(path).text
        found = outline(html)
        assert found.tags.count("script") == 1, "the page's own script and no other"
        assert "img" not in found.tags
        assert "{{ 7 * 7 }}" in html, "a name must not be run as a template"
        assert "&lt;script&gt;" in html


def test_a_megabyte_of_text_and_turned_text_keep_the_layout(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    job_id = own.jobs["failed"]
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    before = len(client.get(f"/jobs/{job_id}").text)
    with write(own_engine) as connection:
        set_job(connection, job_id, error="word " * (1 << 18) + "\u202e", error_code="\u202eedoc\x1b")
        add_event(connection, job_id, "\x00kind\u2067", "\x07message \u202etxet" + "\u0301" * 500)
        excluded = "m" * 4000 + "\u2066"
        revoke(connection, job_id, {3: excluded})
    for path in (f"/jobs/{job_id}", "/"):
        html = client.get(path).text
        assert not set(html) & {"\x00", "\x07", "\x1b", "\u202e", "\u2066", "\u2067"}
        outline(html)
    html = client.get(f"/jobs/{job_id}").text
    assert "[U+202E]edoc[ESC]" in html
    assert "(1,310,721 characters)" in html
    assert len(html) < before + 20_000


def test_a_page_is_the_same_with_and_without_scripts(client: TestClient, made: Made) -> None:
    """What the script fetches is what the page has: nothing is shown only by it."""
    for path, live in (("/", "/live/home"), *((path, f"/live{path}") for path in pages(made)[2:])):
        whole = client.get(path).text
        in_page, fetched = outline(main_of(whole)), outline(client.get(live).text)
        assert (in_page.tags, in_page.ids, in_page.links) == (fetched.tags, fetched.ids, fetched.links), path
        assert '<noscript><a class="refresh" href="">Refresh</a></noscript>' in whole


def main_of(html: str) -> str:
    found = re.search(r"<main[^>]*>(.*)</main>", html, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_failed_job_shows_its_error_and_what_to_do(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['failed']}").text
    assert "shard_changed" in html
    assert "pool-03.tar" in html
    assert f"superbatch retry {made.jobs['failed']}" in html
    assert "The 87 published batches stay" in html


def test_a_running_job_shows_its_figures_charts_and_tables(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['running']}").text
    assert "Batches keep 20.0% of their candidates" in html
    assert "Chosen rows have a mean learnability of 0.528, their super-batch 0.00966" in html
    assert "The newest batch was scored 40 batches late, the oldest score was 45 late; 60 are allowed" in html
    assert "Generation 6 scored the newest batch" in html
    assert "Not drawn: 46 batches scored by easy reference instead." in html
    assert "Staleness in batches over seq: staleness newest 40" in html
    assert "Generation over seq: generation newest 6" in html
    assert ">0.800<" in html
    assert ">168,320<" in html
    assert "undecodable image" in html
    assert all(source in html for source in ("emoji", "flags", "interface-a", "interface-b"))


def test_a_uniform_job_has_no_scores_to_draw(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['uniform']}").text
    assert 'id="chart-score"' not in html
    assert 'id="chart-staleness"' not in html
    assert 'id="chart-filter"' in html


def test_a_job_says_how_it_selects_and_how_much_is_at_its_cap(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['done']}").text
    assert "joint learnability, softmax loss; f 0.8, b 128, N 16; at most 3 times, cosine below 0.95" in html
    assert "At the cap" in html
    assert "of the candidates; 3 allowed" in html
    assert "At the cap" not in client.get(f"/jobs/{made.jobs['running']}").text
    home = client.get("/").text
    assert "joint learnability, sigmoid loss" in home
    assert "f 0.8, b 128, at most 3 times, cosine below 0.95" in home


def test_a_waiting_job_says_for_whom_and_that_its_machine_is_free(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['waiting']}").text
    assert "Waits until trainer has trained more: it is 41 behind. Its machine is free meanwhile." in html


def test_generation_staleness_and_credit_are_named(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['running']}").text
    assert figure(html, "Generation") == "6 6 scored the newest batch"
    assert figure(html, "Staleness") == "40 batches; limit 60"
    assert figure(html, "Ahead") == "41 batches ahead of trainer; 19 of credit left"
    assert figure(client.get(f"/jobs/{made.jobs['failed']}").text, "Generation") == "1 2 scored the newest batch"


def test_withdrawn_batches_stand_with_their_reasons(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['running']}").text
    section = html[html.index('id="withdrawn"') : html.index('id="attempts"')]
    assert '<span class="tally">3</span>' in section
    assert section.index("217") < section.index("40 to 41"), "newest first"
    assert "holds an excluded row: withdrawn by the owner" in section
    assert "1,200 rows are left out of batches composed from now on. Published batches were searched." in section
    assert 'id="withdrawn"' not in client.get(f"/jobs/{made.jobs['done']}").text


def test_a_job_that_is_being_indexed_shows_its_shards(client: TestClient, made: Made) -> None:
    html = client.get(f"/jobs/{made.jobs['indexing']}").text
    assert '<progress max="12" value="7" aria-label="Shards">' in html
    assert "3 so far." in html


def test_an_unknown_job_is_a_page_of_its_own(client: TestClient) -> None:
    answer = client.get("/jobs/job_ffffffffffffffff")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "job_ffffffffffffffff" in answer.text
    assert 'href="/"' in answer.text


@pytest.mark.parametrize("path", ["/", "/live/home", "/jobs/job_0000000000000000", "/jobs/none"])
def test_without_a_cookie_only_the_way_in_is_shown(engine: Engine, made: Made, tmp_path: Path, path: str) -> None:
    anyone = TestClient(make_app(engine, tmp_path))
    answer = anyone.get(path)
    assert answer.status_code == 401
    assert "superbatch dashboard" in answer.text
    assert "curate emoji" not in answer.text
    late = sign_in(TestClient(make_app(engine, tmp_path)), now_s=time.time() - 30 * 24 * 3600)
    assert late.get(path).status_code == 401


def test_an_unchanged_page_is_not_sent_again(client: TestClient, made: Made) -> None:
    path = f"/live/jobs/{made.jobs['done']}"
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.content == b""


def test_pages_stop_asking_when_nothing_will_change(client: TestClient, made: Made) -> None:
    over, live = (f"/live/jobs/{made.jobs[what]}" for what in ("uniform", "running"))
    assert client.get(over).headers["X-Live"] == "over"
    assert client.get(live).headers["X-Live"] == "on"
    assert "data-live" not in client.get(over.removeprefix("/live")).text


def test_new_batches_appear_on_the_next_look(own_engine: Engine, own: Made, tmp_path: Path) -> None:
    job_id = own.jobs["running"]
    client = sign_in(TestClient(make_app(own_engine, tmp_path)), now_s=time.time())
    assert ">168,320<" in client.get(f"/jobs/{job_id}").text
    with write(own_engine) as connection:
        publish(connection, job_id, 10, pushes=True, first=263)
        set_job(connection, job_id, next_seq=273)
    assert ">174,720<" in client.get(f"/jobs/{job_id}").text
    assert "273</data> <span" in client.get(f"/jobs/{job_id}").text


def test_an_empty_catalog_says_how_to_begin(tmp_path: Path) -> None:
    engine = new_engine(tmp_path)
    client = sign_in(TestClient(make_app(engine, tmp_path)), now_s=time.time())
    html = client.get("/").text
    assert "superbatch datasets add ./pictures" in html
    assert "superbatch models add ./reference" in html
    engine.dispose()


def test_static_files_are_served_and_small(client: TestClient) -> None:
    for path in STATIC.iterdir():
        answer = client.get(f"/static/{path.name}")
        assert answer.status_code == 200
        assert answer.content == path.read_bytes()
        assert b"http://" not in answer.content.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in answer.content
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 100_000
    assert LEARNER in client.get("/").text
