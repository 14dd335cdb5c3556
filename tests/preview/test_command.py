"""`superbatch preview` from end to end: files of embeddings and tars in, a picture, a document and a sentence out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from superbatch.cli.errors import Exit
from superbatch.cli.main import main
from superbatch_server.preview.command import command
from tests.encoders.made import a_pair, an_encoder, model_files
from tests.preview.made import npz
from tests.superbatch.formats.sample_batches import a_tar

SHORT = ("--seeds", "2", "--iterations", "6", "--threads", "1", "--chunks", "1", "2", "4", "-N", "4")


def run(folder: Path, *arguments: str) -> dict[str, object]:
    """Run the command and return its document."""
    assert command([*SHORT, *arguments, "--out", str(folder / "out")]) == 0
    return dict(json.loads((folder / "out" / "preview.json").read_text()))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_embeddings_give_a_picture_a_document_and_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    document = run(tmp_path, str(npz(tmp_path)), "--loss", loss, "-b", "6")
    assert document["format"] == "superbatch-preview-v1"
    assert document["selection"] == {"loss": loss, "criterion": "learnability", "gain": 1.0, "b": 6}
    assert document["sample"] == {
        "source": "embeddings.npz",
        "rows": 60,
        "left_out": {},
        "learner": {"D": 8, "logit_scale": 20.0, "logit_bias": -10.0},
        "reference": {"D": 6, "logit_scale": 40.0, "logit_bias": -10.0},
    }
    chunks, ratios = document["chunks"], document["ratios"]
    assert isinstance(chunks, dict)
    assert isinstance(ratios, dict)
    assert (chunks["f"], chunks["B"], [point["N"] for point in chunks["points"]]) == (0.8, 30, [1, 2, 4])
    assert chunks["gibbs"]["iterations"] == [6, 6]
    assert [(point["f"], point["B"]) for point in ratios["points"]] == [(0.0, 6), (0.5, 12), (0.8, 30), (0.9, 60)]
    assert all(len(point["learnability"]) == 2 for point in [*chunks["points"], *ratios["points"]])
    picture = ElementTree.fromstring((tmp_path / "out" / "preview.svg").read_text())
    findings = document["findings"]
    assert isinstance(findings, dict)
    assert picture.findtext("{http://www.w3.org/2000/svg}title") == findings["chunks"]
    printed = capsys.readouterr().out
    assert f"{findings['chunks']}. {findings['recommendation']}" in printed
    assert findings["ratios"] in printed


def test_the_same_file_gives_the_same_document(tmp_path: Path) -> None:
    path = str(npz(tmp_path))
    assert run(tmp_path, path, "-b", "6") == run(tmp_path, path, "-b", "6")


def test_without_gibbs_the_document_says_so(tmp_path: Path) -> None:
    document = run(tmp_path, str(npz(tmp_path)), "-b", "6", "--iterations", "0")
    chunks = document["chunks"]
    assert isinstance(chunks, dict)
    assert chunks["gibbs"] is None
    assert chunks["one"] == "N = 4"


def test_what_no_flag_says_fits_a_small_sample(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert command([str(npz(tmp_path)), "--seeds", "1", "--iterations", "2", "--out", out, "--threads", "1"]) == 0
    document = json.loads((tmp_path / "out" / "preview.json").read_text())
    assert document["selection"]["b"] == 6
    assert [point["N"] for point in document["chunks"]["points"]] == [1, 2, 4]
    assert document["ratios"]["N"] == 6
    assert [point["f"] for point in document["ratios"]["points"]] == [0.0, 0.5, 0.8, 0.9]


def test_the_criterion_says_which_model_is_needed(tmp_path: Path) -> None:
    path = npz(tmp_path, without=("learner_image", "learner_text", "learner_logit_scale", "learner_logit_bias"))
    document = run(tmp_path, str(path), "-b", "6", "--criterion", "easy_reference")
    sample = document["sample"]
    assert isinstance(sample, dict)
    assert set(sample) == {"source", "rows", "left_out", "reference"}


def shards(folder: Path, num_rows: int = 24) -> Path:
    """Two tars of pairs; one row has no caption, one is the copy of another."""
    files = []
    for row in range(num_rows):
        picture, caption = a_pair(row)
        files += [(f"{row:03d}.png", picture), (f"{row:03d}.txt", b" " if row == 3 else caption)]
    picture, caption = a_pair(5)
    files += [("copy.png", picture), ("copy.txt", caption)]
    folder.mkdir()
    half = len(files) // 4 * 2
    (folder / "a.tar").write_bytes(a_tar(files[:half]))
    (folder / "b.tar").write_bytes(a_tar(files[half:]))
    return folder


def test_tars_are_sampled_and_embedded_and_the_embeddings_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shards(tmp_path / "data")
    models = ("--learner", str(tmp_path / "l"), "--reference", str(tmp_path / "r"))
    model_files(tmp_path / "l", seed=1)
    model_files(tmp_path / "r", seed=2)
    document = run(tmp_path, "--data", str(data), *models, "-b", "4", "--ratios", "0.5", "0.8")
    sample = document["sample"]
    assert isinstance(sample, dict)
    assert (sample["source"], sample["rows"]) == ("2 tars of data", 23)
    assert sample["left_out"] == {"bad row: empty_caption": 1, "content of another row": 1}
    assert "embeddings.npz" in capsys.readouterr().out
    again = run(tmp_path, str(tmp_path / "out" / "embeddings.npz"), "-b", "4", "--ratios", "0.5", "0.8")
    assert (again["chunks"], again["ratios"]) == (document["chunks"], document["ratios"])


def test_a_sample_of_tars_has_its_rows_embedded_as_the_encoder_does(tmp_path: Path) -> None:
    model_files(tmp_path / "l", seed=3)
    model_files(tmp_path / "r", seed=2)
    models = ("--learner", str(tmp_path / "l"), "--reference", str(tmp_path / "r"))
    run(
        tmp_path,
        "--data",
        str(shards(tmp_path / "data")),
        *models,
        "--rows",
        "12",
        "-b",
        "2",
        "-N",
        "1",
        "--chunks",
        "1",
        "--ratios",
        "0.5",
    )
    held = np.load(tmp_path / "out" / "embeddings.npz")
    assert len(held["uid"]) in (11, 12)
    encoder = an_encoder(tmp_path / "again")  # seed 3
    truth = encoder.encode([encoder.prepare(*a_pair(row)) for row in range(24)])
    rows = []
    for image, text in zip(held["learner_image"], held["learner_text"], strict=True):
        # Forwards of another height may differ in the last bits of fp32.
        same = np.abs(truth.image_BD - image).max(1) < 1e-5
        assert same.sum() == 1
        assert np.abs(truth.text_BD[same][0] - text).max() < 1e-5
        rows.append(int(same.argmax()))
    assert min(rows) < 6, "drawn from both ends of the data, not its last rows"
    assert max(rows) >= 18, "drawn from both ends of the data, not its first rows"


REFUSED: list[tuple[Sequence[str], str]] = [
    ((), "either a file of embeddings or --data; give one"),
    (("{npz}", "--data", "{out}"), "either a file of embeddings or --data; give one"),
    (("{npz}", "-b", "32", "--rows", "60"), "b = 32 at f up to 0.9 needs 320 rows; got 60 (--rows)"),
    (("{npz}", "-b", "32"), "b = 32 at f up to 0.9 needs 320 rows; got 60 (embeddings.npz). Lower b to 6"),
    (("{npz}", "-b", "2", "--chunks", "3"), "N must be in [1, b]"),
    (("{npz}", "-b", "2", "-N", "3"), "N must be in [1, b]"),
    (("{npz}", "--rows", "1"), "a sample needs 2 rows or more; got 1"),
    (("{npz}", "--threads", "0"), "--threads must be at least 1"),
    (("{npz}", "--ratios", "1.5"), "must be in [0, 1); got 1.5"),
    (("{npz}.gone.npz",), "No such file"),
    (("--data", "{out}"), "--data with learnability needs --learner and --reference"),
    (("--data", "{out}", "--learner", "{out}", "--reference", "{out}"), "a model folder must hold model.safetensors"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    named = {"npz": str(npz(tmp_path)), "out": str(tmp_path)}
    written = [argument.format(**named) for argument in arguments]
    assert main(["preview", *written, "--out", str(tmp_path / "out")]) == Exit.USAGE
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("superbatch: ")
    assert message in said[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_tars_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [f"--{name}={tmp_path / name}" for name in ("learner", "reference")]
    for name in ("learner", "reference"):
        model_files(tmp_path / name)
    assert main(["preview", "--data", str(tmp_path), *models]) == Exit.USAGE
    assert "folders with *.tar; got" in capsys.readouterr().err


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command(["--embedings", "x"])
    assert end.value.code == Exit.USAGE
    assert "superbatch preview: every flag must be known" in capsys.readouterr().err


def test_the_page_names_every_flag_that_changes_what_is_measured_and_every_array() -> None:
    page = (Path(__file__).parents[2] / "docs" / "preview.md").read_text()
    towers = [f"{model}_{part}" for model in ("learner", "reference") for part in ("image", "text", "logit_scale")]
    flags = ["--data", "--reference", "--learner", "--rows", "--loss", "--criterion", "-f", "-b", "-N", "--iterations"]
    keys = ["sample", "selection", "chunks.points", "chunks.gibbs", "ratios.points", "ratios.independent_points"]
    names = [*towers, "learner_logit_bias", "reference_logit_bias", "uid", *flags, *keys, "findings"]
    assert [name for name in names if name not in page] == []
