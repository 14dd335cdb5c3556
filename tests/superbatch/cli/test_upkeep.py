"""`exclusions`, `delete` and `gc`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from superbatch.cli import exclusions, gc
from superbatch.cli.delete import delete
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.main import build_parser
from superbatch.formats.errors import ServiceError
from tests.superbatch.cli.service import FakeService, Json

JOB = "job_00000000000000aa"
UIDS = [f"{number:032x}" for number in range(3)]


def excluded(**more: object) -> Json:
    version = {"version": 1, "num_uids": 3, "reason": "take\x1bdown", "created_at": "2026-01-02T03:04:05.678Z"}
    return {"num_uids": 3, "num_revoked": 1, "is_searching": True, "versions": [version], **more}


def test_rows_of_a_file_are_excluded_once_each_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({f"POST /v1/jobs/{JOB}/exclusions": excluded()})
    file = tmp_path / "uids.txt"
    file.write_text("\n".join([UIDS[2].upper(), *UIDS, ""]))
    options = build_parser().parse_args(["exclusions", JOB, "--uids", str(file), "--reason", "takedown"])
    assert options.run(options, fake.service()) is Exit.OK
    assert fake.sent() == {"uids": UIDS, "reason": "takedown"}
    shown = capsys.readouterr().out
    assert "take down" in shown
    assert "3 rows excluded, 1 published batch revoked; published batches are still searched" in shown


def test_more_rows_than_a_request_takes_are_sent_in_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusions, "UIDS_AT_ONCE", 2)
    fake = FakeService({f"POST /v1/jobs/{JOB}/exclusions": excluded()})
    file = tmp_path / "uids.txt"
    file.write_text("\n".join(UIDS))
    options = build_parser().parse_args(["exclusions", JOB, "--uids", str(file)])
    assert exclusions.exclusions(options, fake.service()) is Exit.OK
    assert [fake.sent(0), fake.sent(1)] == [{"uids": UIDS[:2]}, {"uids": UIDS[2:]}]


def test_what_is_excluded_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({f"GET /v1/jobs/{JOB}/exclusions": excluded(num_uids=0, num_revoked=0, versions=[])})
    options = build_parser().parse_args(["exclusions", JOB])
    assert exclusions.exclusions(options, fake.service()) is Exit.OK
    assert capsys.readouterr().out.startswith("0 rows excluded, 0 published batches revoked")


@pytest.mark.parametrize(("text", "said"), [("", "at least one row"), ("ab\n", "line 1"), (f"{UIDS[0]}\nzz", "line 2")])
def test_a_file_that_names_no_rows_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "uids.txt"
    file.write_text(text)
    with pytest.raises(CommandError, match=said):
        exclusions.read_uids(str(file))
    with pytest.raises(CommandError, match="readable"):
        exclusions.read_uids(str(tmp_path / "none"))


def test_a_reason_alone_excludes_nothing() -> None:
    options = build_parser().parse_args(["exclusions", JOB, "--reason", "why"])
    with pytest.raises(CommandError, match="--uids"):
        exclusions.exclusions(options, FakeService().service())


def test_objects_are_deleted_by_id_and_a_refusal_says_who_refers(capsys: pytest.CaptureFixture[str]) -> None:
    data_set = "dataset_0123456789abcdef"
    detail = f"a data set can be deleted when no job refers to it; got {JOB}."
    listed = {"datasets": [{"id": data_set, "name": "pool", "state": "READY"}], "next_page_token": None}
    fake = FakeService(
        {
            f"DELETE /v1/jobs/{JOB}": (204, None),
            "GET /v1/datasets": listed,
            f"DELETE /v1/datasets/{data_set}": (409, {"code": "in_use", "detail": detail}),
        }
    )
    options = build_parser().parse_args(["delete", "job", JOB])
    assert delete(options, fake.service()) is Exit.OK
    assert capsys.readouterr().out == f"{JOB}  deleted\n"
    with pytest.raises(ServiceError, match=JOB):
        delete(build_parser().parse_args(["delete", "dataset", "pool"]), fake.service())


def report(files: int, **more: object) -> Json:
    found = [{"kind": "score_shard", "files": files, "bytes": 3400 * files, "examples": ["jobs/a/scores/0"]}]
    counts = {"found": found if files else [], "files": files, "bytes": 3400 * files, "looked_at": 1200}
    return {**counts, "young_files": 0, "young_bytes": 0, "unknown_files": 0, "unknown_examples": [], **more}


def run(state: str, files: int = 0, *, dry_run: bool = True, error: str | None = None, **more: object) -> Json:
    return {
        "id": "gc_1", "state": state, "dry_run": dry_run, "min_age_s": 86_400.0, "report": report(files, **more),
        "error": error,
    }  # fmt: skip


def gone(fake: FakeService, *arguments: str) -> str:
    out = io.StringIO()
    options = build_parser().parse_args(["gc", *arguments])
    assert gc.collect(options, fake.service(), out=out, sleep=lambda _: None) is Exit.OK
    return out.getvalue()


def test_a_collection_is_a_dry_run_that_says_what_would_go() -> None:
    states = [run("PENDING"), run("RUNNING", 1), run("SUCCEEDED", 2, young_files=1, young_bytes=5)]
    fake = FakeService({"POST /v1/gc": (202, run("PENDING")), "GET /v1/gc/gc_1": states})
    shown = gone(fake)
    assert fake.sent(0) == {"dry_run": True}
    assert "score shard" in shown
    assert "jobs/a/scores/0" in shown
    assert "2 files, 6.8 kB may go. Nothing was removed; superbatch gc --delete removes them." in shown
    assert "1 file more, 5 bytes, younger than 24h00m: kept for now" in shown


def test_a_collection_removes_when_asked_and_leaves_what_is_not_ours() -> None:
    left = {"unknown_files": 1, "unknown_examples": ["notes\x07.txt"]}
    fake = FakeService({"POST /v1/gc": (202, run("SUCCEEDED", 3, dry_run=False, **left))})
    shown = gone(fake, "--delete", "--min-age", "12h")
    assert fake.sent() == {"dry_run": False, "min_age_s": 43_200.0}
    assert "removed 3 files, 10.2 kB" in shown
    assert "left alone: 1 file that the service did not write, such as notes .txt" in shown
    assert gone(FakeService({"POST /v1/gc": (202, run("SUCCEEDED"))})).strip() == "nothing may go"


def test_a_collection_that_failed_says_why() -> None:
    fake = FakeService({"POST /v1/gc": (202, run("FAILED", error="OSError: why"))})
    with pytest.raises(CommandError, match="OSError: why"):
        gone(fake)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("0.5h", 1800), ("2d", 172_800)])
def test_ages_have_units(text: str, seconds: float) -> None:
    assert gc.age_s(text) == seconds


def test_an_age_without_a_unit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["gc", "--min-age", "12"])
    assert "an age is a number and s, m, h or d; got '12'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (3_400_000_000, "3.4 GB")]
)
def test_sizes_are_short(num_bytes: int, text: str) -> None:
    assert gc.size(num_bytes) == text
