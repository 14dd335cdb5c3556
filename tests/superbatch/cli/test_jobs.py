"""`submit`, `watch` and the short job commands."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import pytest

from superbatch.cli import history, jobs
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.main import build_parser
from superbatch.cli.progress import ProgressLine, bar
from superbatch.cli.submit import FIELD_OF_FLAG, build_spec, submit
from superbatch.cli.text import duration, shown, table
from superbatch.cli.watch import PATIENCE_S, watch_job
from superbatch.formats.errors import ServiceUnreachable
from superbatch_server.schemas.selection import SelectionSpec
from tests.superbatch.cli.service import FakeService, Json, event, job, stats

JOB = "job_00000000000000aa"
DATASET, MODEL = "dataset_0123456789abcdef", "model_0123456789abcdef"


class Clock:
    """Seconds that pass only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def spec_of(fake: FakeService, *arguments: str) -> Json:
    return dict(build_spec(build_parser().parse_args(["submit", *arguments]), fake.service()))


def listing(collection: str, *named: tuple[str, str, str]) -> Json:
    return {
        collection: [{"id": i, "name": name, "state": state} for i, name, state in named],
        "next_page_token": None,
    }


def test_flags_make_a_spec_and_leave_the_rest_to_the_service() -> None:
    arguments = f"--dataset {DATASET} --reference {MODEL} --learner {MODEL} --pushed -b 128 -f 0.8 -N 16".split()
    more = (
        "--criterion learnability --method joint --num-batches 400 --seed 7 --max-staleness 60 --before-first uniform"
    )
    assert spec_of(FakeService(), *arguments, *more.split()) == {
        "kind": "curate",
        "dataset": DATASET,
        "reference": MODEL,
        "learner": {"model": MODEL, "updates": "pushed"},
        "selection": {"b": 128, "f": 0.8, "N": 16, "criterion": "learnability", "method": "joint"},
        "refresh": {"max_staleness": 60, "before_first": "uniform"},
        "num_batches": 400,
        "seed": 7,
    }


def test_every_parameter_of_a_selection_that_is_no_list_has_a_flag() -> None:
    flags = "--method hard_negatives --loss softmax --first-round diagonal --probe-size 64 --repetition-cap 3"
    more = "--max-cosine 0.95 --precision bf16 --gain 2 --sampling top_k -b 8 -f 0.5 -N 4 --criterion easy_reference"
    variants = "--variant resolution=224,patch=16,flops_fraction=1,share=0.5"
    variants += " --variant flops_fraction=0.28,share=0.5,resolution=112"
    assert spec_of(FakeService(), *f"{flags} {more} {variants}".split())["selection"] == {
        "method": "hard_negatives",
        "loss": "softmax",
        "first_round": "diagonal",
        "probe_size": 64,
        "repetition_cap": 3,
        "max_cosine": 0.95,
        "precision": "bf16",
        "gain": 2.0,
        "sampling": "top_k",
        "b": 8,
        "f": 0.5,
        "N": 4,
        "criterion": "easy_reference",
        "variants": [
            {"resolution": 224, "patch": 16, "flops_fraction": 1.0, "share": 0.5},
            {"flops_fraction": 0.28, "share": 0.5, "resolution": 112},
        ],
    }
    in_schema = set(SelectionSpec.model_fields) - {"weights"}
    assert {path.removeprefix("selection.") for path in FIELD_OF_FLAG.values() if "selection." in path} == in_schema


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resolution=224,share", "each once; got 'share'"),
        ("resolution=224,resolution=112", "got 'resolution=112'"),
        ("size=224", "got 'size=224'"),
        ("resolution=high", "resolution must be a number; got 'high'"),
    ],
)
def test_a_variant_that_is_spelled_wrong_is_named(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        spec_of(FakeService(), "--variant", text)
    assert said in capsys.readouterr().err


def test_flags_replace_fields_of_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"dataset": DATASET, "selection": {"b": 64, "gain": 2.0}, "num_batches": 10}))
    assert spec_of(FakeService(), str(path), "-b", "128", "--seed", "0") == {
        "kind": "curate", "dataset": DATASET, "selection": {"b": 128, "gain": 2.0}, "num_batches": 10, "seed": 0,
    }  # fmt: skip


def test_a_spec_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"num_batches": 3}'))
    assert spec_of(FakeService(), "-") == {"kind": "curate", "num_batches": 3}


def test_names_stand_for_ids() -> None:
    found = listing(
        "datasets", (DATASET, "pool", "READY"), ("dataset_b", "pool", "INVALID"), ("dataset_c", "x", "READY")
    )
    assert spec_of(FakeService({"GET /v1/datasets": found}), "--dataset", "pool")["dataset"] == DATASET


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ([], "stands for none"),
        ([("dataset_a", "pool", "INVALID")], "only INVALID ones"),
        ([("dataset_a", "pool", "READY"), ("dataset_b", "pool", "READY")], "dataset_a, dataset_b"),
    ],
)
def test_a_name_must_stand_for_one(named: list[tuple[str, str, str]], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        spec_of(FakeService({"GET /v1/datasets": listing("datasets", *named)}), "--dataset", "pool")


def test_pushed_needs_a_learner() -> None:
    with pytest.raises(CommandError, match="--pushed needs --learner"):
        spec_of(FakeService(), "--pushed")


def test_submitting_prints_the_id_alone(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({"POST /v1/jobs": (202, job("QUEUED"))})
    options = build_parser().parse_args(["submit", "--dataset", DATASET, "-b", "8", "--num-batches", "4"])
    assert submit(options, fake.service()) == Exit.OK
    assert capsys.readouterr().out == f"{JOB}\n"
    options.only_print = True
    submit(options, fake.service())
    assert json.loads(capsys.readouterr().out)["dataset"] == DATASET
    assert len(fake.posts()) == 1


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_verbs_print_the_new_state(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({f"POST /v1/jobs/{JOB}:{verb}": job("CANCELLING")})
    options = build_parser().parse_args([verb, JOB])
    assert options.run(options, fake.service()) == Exit.OK
    assert capsys.readouterr().out == f"{JOB}  CANCELLING\n"


def test_jobs_and_events_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService(
        {
            "GET /v1/jobs": {"jobs": [job(phase="composing", next_seq=7)], "next_page_token": None},
            f"GET /v1/jobs/{JOB}/events": {"events": [event(1, "submitted", "40 batches")], "next_page_token": None},
        }
    )
    jobs.list_jobs(build_parser().parse_args(["jobs", "list"]), fake.service())
    history.events(build_parser().parse_args(["events", JOB]), fake.service())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == [JOB, "curate", "RUNNING", "composing", "7/40"]
    assert lines[2].split() == ["2026-01-02", "03:04:05", "submitted", "40", "batches"]


def watched(*looks: tuple[Json, Json]) -> FakeService:
    sent: list[int] = []

    def events(request: httpx.Request) -> Json:
        number = int(request.url.params["after"]) + 1
        sent.append(number)
        return {"events": [event(number, "note", f"look {number}")] if number < 3 else [], "next_page_token": None}

    return FakeService(
        {
            f"GET /v1/jobs/{JOB}": [look for look, _ in looks],
            f"GET /v1/jobs/{JOB}/stats": [numbers for _, numbers in looks],
            f"GET /v1/jobs/{JOB}/events": events,
        }
    )


def look(fake: FakeService, out: io.StringIO) -> Exit:
    clock = Clock()
    return watch_job(fake.service(clock.sleep), JOB, out=out, sleep=clock.sleep, clock=clock)


QUARANTINED = {"undecodable_picture": 2, "empty_caption": 1}
SEGMENT: Json = {"first_seq": 8, "num_batches": 2, "generation": 3, "staleness": [4, 5]}


def test_watching_follows_a_job_to_its_success() -> None:
    counters = {"shards_done": 3, "shards_total": 12}
    fake = watched(
        (job("QUEUED"), stats()),
        (job(phase="indexing"), stats(counters=counters)),
        (job(phase="composing", next_seq=10), stats(filter_ratio=0.8, segments=[SEGMENT], counters=counters)),
        (job("SUCCEEDED", next_seq=40), stats(filter_ratio=0.8, loaded=25600, trained=5120, quarantined=QUARANTINED)),
    )
    out = io.StringIO()
    assert look(fake, out) == Exit.OK
    text = out.getvalue()
    assert "indexing  ######.................. 3/12 shards" in text
    assert "10/40 batches  filter ratio 0.800  generation 3  staleness 5" in text
    assert "5 batches/s  6s left" in text
    assert "SUCCEEDED: 40 of 40 batches, 5,120 of 25,600 candidates selected\n" in text
    assert text.endswith("3 rows quarantined: undecodable_picture 2, empty_caption 1\n")
    assert [f"look {number}" in text for number in (1, 2, 3)] == [True, True, False]


def test_watching_a_failure_says_why_and_what_to_do() -> None:
    failed = job("FAILED", next_seq=7, error="a shard must be the registered one.", error_code="shard_changed")
    out = io.StringIO()
    assert look(watched((failed, stats())), out) == Exit.ENDED_BADLY
    assert "FAILED after 7 of 40 batches: a shard must be the registered one. [shard_changed]" in out.getvalue()
    assert f"superbatch retry {JOB}" in out.getvalue()


def test_watching_ends_with_a_cancelled_job() -> None:
    assert look(watched((job("CANCELLED"), stats())), io.StringIO()) == Exit.ENDED_BADLY


def test_watching_outlives_a_restart_of_the_service() -> None:
    fake = watched((job("SUCCEEDED", next_seq=40), stats()))
    answers = fake.answers[f"GET /v1/jobs/{JOB}"]
    assert isinstance(answers, list)
    answers[:0] = [httpx.ConnectError("restarting")] * 12
    out = io.StringIO()
    assert look(fake, out) == Exit.OK
    assert "does not answer; trying again" in out.getvalue()


def test_watching_gives_up_on_a_service_that_stays_away() -> None:
    fake = FakeService({f"GET /v1/jobs/{JOB}": httpx.ConnectError("gone")})
    clock = Clock()
    with pytest.raises(ServiceUnreachable):
        watch_job(fake.service(clock.sleep), JOB, out=io.StringIO(), sleep=clock.sleep, clock=clock)
    assert PATIENCE_S < clock.now_s < PATIENCE_S + 30


def test_on_a_terminal_one_line_is_rewritten() -> None:
    out = Terminal()
    look(watched((job(phase="composing", next_seq=20), stats()), (job("SUCCEEDED", next_seq=40), stats())), out)
    assert "\r\x1b[2Kcomposing  ████████████░░░░░░░░░░░░ 20/40 batches" in out.getvalue()
    assert out.getvalue().count("\n") == 4, "two events, the line, the ending"


def test_elsewhere_lines_come_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    line = ProgressLine(out, clock=clock)
    for number in range(25):
        line.show("composing", f"{number}/25")
        clock.sleep(1.0)
    line.show("succeeded", "25/25")
    line.end()
    assert out.getvalue().splitlines() == [
        "composing  0/25",
        "composing  10/25",
        "composing  20/25",
        "succeeded  25/25",
    ]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "░░░░"), (0.5, "██░░"), (0.53125, "██▏░"), (1.0, "████"), (7.0, "████"), (-1.0, "░░░░")],
)
def test_bars_are_filled_in_eighths(fraction: float, text: str) -> None:
    assert bar(fraction, cells=4) == text
    assert len(bar(fraction, cells=4, plain=True)) == 4


def test_text_from_outside_cannot_move_the_cursor() -> None:
    assert shown("a\x1b[2Jb\r\nc\u202ed") == "a [2Jb  c d"
    assert "\x1b" not in table(("name",), [("\x1b[31mred",)])


def test_durations_are_short() -> None:
    assert [duration(seconds) for seconds in (0.4, 42, 185, 7620)] == ["0s", "42s", "3m05s", "2h07m"]
