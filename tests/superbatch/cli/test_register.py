"""`datasets add`, `models add`: what is registered, from flags, manifests and local folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from superbatch.cli.datasets import add_dataset, list_datasets
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.main import build_parser
from superbatch.cli.models import add_model, list_models
from superbatch.cli.patterns import expand, shard_refs
from superbatch.cli.roots import local_directory
from tests.superbatch.cli.service import FakeService, Json

DATASET: Json = {
    "id": "dataset_1", "name": "pool", "state": "VERIFYING", "rows": None, "num_shards": 2, "error": None,
    "error_code": None,
}  # fmt: skip
MODEL: Json = {"id": "model_1", "name": "m", "state": "VERIFYING", "error": None}


def add(fake: FakeService, *arguments: str) -> Exit:
    options = build_parser().parse_args(["datasets", "add", *arguments])
    return add_dataset(options, fake.service(), sleep=lambda _: None)


def roots(**places: str) -> Json:
    return {"roots": [{"name": name, "url": url} for name, url in places.items()]}


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("a.tar", ["a.tar"]),
        ("p-{08..10}.tar", ["p-08.tar", "p-09.tar", "p-10.tar"]),
        ("{0..1}/{1..2}", ["0/1", "0/2", "1/1", "1/2"]),
    ],
)
def test_brace_ranges_expand_in_order(pattern: str, keys: list[str]) -> None:
    assert expand(pattern) == keys


@pytest.mark.parametrize("pattern", ["{2..1}", "{0..100000}"])
def test_a_bad_range_is_refused(pattern: str) -> None:
    with pytest.raises(CommandError, match="brace range"):
        expand(pattern)


def test_patterns_are_sent_as_they_are_without_labels() -> None:
    assert shard_refs(["pool-{00..08}.tar"], []) == [{"key": "pool-{00..08}.tar"}]


def test_labels_go_to_the_shards_that_match() -> None:
    assert shard_refs(["p-{0..3}.tar"], ["emoji=p-[01].tar", "flags=p-{2..2}.tar"]) == [
        {"key": "p-0.tar", "source": "emoji"},
        {"key": "p-1.tar", "source": "emoji"},
        {"key": "p-2.tar", "source": "flags"},
        {"key": "p-3.tar"},
    ]


def test_labels_alone_name_the_shards() -> None:
    assert shard_refs([], ["emoji=e-{0..9}.tar"]) == [{"key": "e-{0..9}.tar", "source": "emoji"}]


@pytest.mark.parametrize("label", ["emoji", "=x", "emoji="])
def test_a_label_needs_a_pattern(label: str) -> None:
    with pytest.raises(CommandError, match="label=pattern"):
        shard_refs(["a.tar"], [label])


def test_a_label_that_matches_nothing_is_refused() -> None:
    with pytest.raises(CommandError, match="matches none of 1"):
        shard_refs(["a.tar"], ["emoji=b*.tar"])


def test_a_data_set_is_registered_from_flags(capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeService({"POST /v1/datasets": (202, DATASET)})
    assert add(fake, "pool", "--root", "data", "--shards", "pool-{00..01}.tar") == Exit.OK
    assert fake.sent() == {
        "name": "pool",
        "format": "webdataset",
        "root": "data",
        "shards": [{"key": "pool-{00..01}.tar"}],
    }
    assert capsys.readouterr().out == "dataset_1  VERIFYING\n"


def test_waiting_ends_with_ready_or_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    ready = {**DATASET, "state": "READY", "rows": 3520}
    fake = FakeService({"POST /v1/datasets": (202, DATASET), "GET /v1/datasets/dataset_1": [DATASET, ready]})
    assert add(fake, "pool", "--root", "data", "--shards", "a.tar", "--wait") == Exit.OK
    assert "READY  3,520 rows in 2 shards" in capsys.readouterr().out
    bad = {**DATASET, "state": "INVALID", "error": "a shard must be a tar.", "error_code": "not_a_tar"}
    fake = FakeService({"POST /v1/datasets": (202, DATASET), "GET /v1/datasets/dataset_1": bad})
    assert add(fake, "pool", "--root", "data", "--shards", "a.tar", "--wait") == Exit.ENDED_BADLY
    assert "INVALID  a shard must be a tar. [not_a_tar]" in capsys.readouterr().out


def test_a_folder_is_registered_in_the_innermost_root_that_contains_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "my pictures"
    folder.mkdir(parents=True)
    for name in ("b.tar", "a.tar", "notes.txt"):
        (folder / name).touch()
    places = roots(outer=tmp_path.as_uri(), inner=(tmp_path / "data").as_uri(), bucket="s3://bucket/data")
    fake = FakeService({"GET /v1/roots": places, "POST /v1/datasets": (202, DATASET)})
    assert add(fake, str(folder)) == Exit.OK
    assert fake.sent() == {
        "name": "my pictures",
        "format": "webdataset",
        "root": "inner",
        "shards": [{"key": "my pictures/a.tar"}, {"key": "my pictures/b.tar"}],
    }


def test_a_folder_that_is_a_root_has_plain_keys(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    fake = FakeService({"GET /v1/roots": roots(all=tmp_path.as_uri()), "POST /v1/datasets": (202, DATASET)})
    add(fake, str(tmp_path), "--name", "mine", "--source", "emoji=*.tar")
    assert fake.sent()["name"] == "mine"
    assert fake.sent()["shards"] == [{"key": "a.tar", "source": "emoji"}]


def test_a_folder_outside_all_roots_gets_the_line_to_add(tmp_path: Path) -> None:
    folder = tmp_path / "7 My Pictures"
    folder.mkdir()
    (folder / "a.tar").touch()
    fake = FakeService({"GET /v1/roots": roots(other=(tmp_path / "other").as_uri())})
    with pytest.raises(CommandError) as refused:
        add(fake, str(folder))
    assert f"superbatch serve ... --root 'data-7-my-pictures={folder}'" in str(refused.value)
    assert fake.posts() == []
    taken = {name: f"s3://{name}" for name in ("data-7-my-pictures", "data-7-my-pictures-2")}
    with pytest.raises(CommandError, match="data-7-my-pictures-3="):
        add(FakeService({"GET /v1/roots": roots(**taken)}), str(folder))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "needs a name"),
        (("nowhere",), "a folder is needed"),
        (("pool", "--root", "data"), "--shards must name"),
        (("--manifest", "/no/such/file"), "must be readable"),
    ],
)
def test_what_is_missing_is_said(arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        add(FakeService(), *arguments)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds none"):
        add(FakeService({"GET /v1/roots": roots(all=tmp_path.as_uri())}), str(tmp_path))


def test_a_manifest_is_sent_as_it_is(tmp_path: Path) -> None:
    manifest = {"name": "x", "root": "r", "shards": [{"key": "a.tar", "rows": 3}]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    fake = FakeService({"POST /v1/datasets": (202, DATASET)})
    add(fake, "--manifest", str(tmp_path / "m.json"))
    assert fake.sent() == manifest


def test_a_local_root_is_a_file_url_or_a_path() -> None:
    assert local_directory("file:///data/my%20pool") == Path("/data/my pool")
    assert local_directory("/data") == Path("/data")
    assert local_directory("s3://bucket/data") is None
    assert local_directory("file://other-host/data") is None


def model(fake: FakeService, *arguments: str) -> Exit:
    options = build_parser().parse_args(["models", "add", *arguments])
    return add_model(options, fake.service(), sleep=lambda _: None)


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "notes.txt"):
        (folder / name).write_text(name)
    return folder


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_model_folder_is_hashed_and_registered(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "runs" / "ref")
    fake = FakeService({"GET /v1/roots": roots(r=tmp_path.as_uri()), "POST /v1/models": (202, MODEL)})
    assert model(fake, str(folder)) == Exit.OK
    by_folder = fake.sent()
    assert by_folder == {
        "name": "ref",
        "family": "tiny",
        "files": [
            {"role": role, "root": "r", "key": f"runs/ref/{name}", "sha256": sha256(name)}
            for role, name in zip(
                ("weights", "config", "tokenizer"), ("model.safetensors", "config.json", "tokenizer.json"), strict=True
            )
        ],
    }
    for arguments in (("ref",), ()):
        model(fake, *arguments, "--root", "r", "--dir", "runs/ref")
        assert fake.sent() == by_folder


def test_weights_can_be_left_out(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "learner")
    fake = FakeService({"GET /v1/roots": roots(r=tmp_path.as_uri()), "POST /v1/models": (202, MODEL)})
    model(fake, str(folder), "--no-weights")
    files = fake.sent()["files"]
    assert isinstance(files, list)
    assert [file["role"] for file in files] == ["config", "tokenizer"]


def test_files_elsewhere_are_named_with_their_digests() -> None:
    fake = FakeService({"POST /v1/models": (202, MODEL)})
    model(fake, "m", "--root", "r", "--file", f"config=a:b/c.json:{'0' * 64}")
    assert fake.sent()["files"] == [{"role": "config", "root": "r", "key": "a:b/c.json", "sha256": "0" * 64}]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "needs a folder"),
        (("--root", "r", "--file", "config=a:b"), "and a name"),
        (("m", "--file", "config=a:b"), "--file needs --root"),
        (("m", "--root", "r", "--file", "config"), "ROLE=KEY:SHA256"),
        (("m", "--dir", "x"), "--dir is a key in a root"),
        (("m", "--root", "nope", "--dir", "x"), "got 'nope', known: r, s"),
        (("m", "--root", "s", "--dir", "x"), "s is elsewhere"),
        (("m", "--root", "r", "--dir", "x"), "holds neither"),
        (("/no/folder",), "a folder is needed"),
    ],
)
def test_what_a_model_lacks_is_said(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    fake = FakeService({"GET /v1/roots": roots(r=tmp_path.as_uri(), s="s3://bucket")})
    with pytest.raises(CommandError, match=reason):
        model(fake, *arguments)


def test_waiting_for_a_model_ends_with_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    bad = {**MODEL, "state": "INVALID", "error": "a digest must match."}
    fake = FakeService({"POST /v1/models": (202, MODEL), "GET /v1/models/model_1": [MODEL, bad]})
    assert model(fake, "m", "--root", "r", "--file", f"config=c:{'0' * 64}", "--wait") == Exit.ENDED_BADLY
    assert "model_1  INVALID  a digest must match." in capsys.readouterr().out


def test_lists_are_tables(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {**MODEL, "manifest": {"family": "tiny", "files": [{"role": "config"}, {"role": "tokenizer"}]}}
    fake = FakeService(
        {
            "GET /v1/datasets": {"datasets": [{**DATASET, "rows": 3520, "state": "READY"}], "next_page_token": None},
            "GET /v1/models": {"models": [listed], "next_page_token": None},
        }
    )
    list_datasets(build_parser().parse_args(["datasets", "list"]), fake.service())
    list_models(build_parser().parse_args(["models", "list"]), fake.service())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "name", "state", "rows", "shards"]
    assert lines[1].split() == ["dataset_1", "pool", "READY", "3,520", "2"]
    assert lines[3].split(maxsplit=4) == ["model_1", "m", "tiny", "VERIFYING", "config, tokenizer"]
