"""`superbatch plan`: its figures, flags, refusals and JSON; and docs/planning.md against the program."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from superbatch.cli.errors import Exit
from superbatch.cli.main import run
from superbatch.cli.plan_report import digits, scaled
from superbatch.selection.cost.presets import ARCHITECTURES, DEVICES
from superbatch.selection.cost.steps import POLICIES, candidates_per_row, step_cost
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.flops import forward_flops_per_example

DOCS = Path(__file__).parents[3] / "docs" / "planning.md"
SMALL = ("--forward-gflops", "1", "--width", "8", "--rows", "1000", "-b", "10", "-N", "5", "--batches", "40")


def no_service(_: object) -> Any:
    raise AssertionError("superbatch plan must not look for a service")


def plan(*arguments: str) -> int:
    return run(["plan", *arguments], environment={}, connect=no_service)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert plan("--json", *arguments) == Exit.OK
    return dict(json.loads(capsys.readouterr().out))


def policy(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in found["policies"] if item["policy"] == name)


def test_the_table_shows_the_paper_s_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan() == Exit.OK
    text = capsys.readouterr().out
    costs = dict(re.findall(r"^(\S+) +(\d\.\d{3}) +\d\.\d{4} ", text, re.MULTILINE))
    assert costs == {
        "uniform": "1.000",
        "jest": "2.667",
        "jest-inline": "2.333",
        "jest-online": "4.333",
        "flexi-jest": "1.107",
        "easy-reference": "1.000",
        "independent": "2.667",
    }
    assert list(costs) == [found.name for found in POLICIES]
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_small_run_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """3 * 1e9 * 10 FLOPs a step, 40 of them: 1.2e12; at 1e12 * 0.5 a second 2.4 s; 500 W * 1.2 for that long."""
    device = ("--device", "mine", "--peak-tflops", "1", "--watts", "500", "--price", "3600", "--utilisation", "0.5")
    found = document(capsys, *SMALL, *device, "--devices", "2")
    spent = policy(found, "uniform")["total"]
    assert spent["flops"] == 1.2e12
    assert spent["device_hours"] == pytest.approx(2.4 / 3600)
    assert spent["wall_hours"] == pytest.approx(1.2 / 3600)
    assert spent["kwh"] == pytest.approx(0.5 * 1.2 * 2.4 / 3600)
    assert spent["money"] == pytest.approx(2.4)
    assert policy(found, "jest")["pool_pass"]["flops"] == 1e12
    assert found["rates"]["device"] == "mine"


def test_text_and_json_show_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys)
    plan()
    text = capsys.readouterr().out
    for item in found["policies"]:
        row = re.search(rf"^{item['policy']} .*$", text, re.MULTILINE)
        assert row is not None
        cells = row[0].split()[1:]
        assert cells[0] == f"{item['step_of_uniform']:.3f}"
        assert cells[2:6] == [
            digits(item["total"]["flops"] / 1e18),
            digits(item["total"]["wall_hours"]),
            digits(item["total"]["kwh"]),
            digits(item["total"]["money"]),
        ]
        assert cells[7] == f"{item['break_even_speed_up']:.3f}"
    for sentence in found["assumptions"]:
        assert sentence in re.sub(r"\n {4}", " ", text)


def test_everything_assumed_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    plan("--price-kwh", "0.25", "--pue", "1.5", "--utilisation", "0.4", "--currency", "EUR", "--price", "9.5")
    text = re.sub(r"\n {4}", " ", capsys.readouterr().out)
    stated = (
        "989 TFLOP/s",
        "bf16, dense",
        "0.4 is reached",
        "700 W",
        "1.5 for the site",
        "9.5 EUR a device-hour (as given)",
    )
    for words in (*stated, "0.25 a kWh", "25 kB", "blocks of 256 rows", "0.28 of a full one", "it would be 0.389"):
        assert words in text, words
    plan()
    assert "a round figure: give yours with --price" in capsys.readouterr().out


def test_flags_reach_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys,
        *("--model", "vit-l-14", "--reference-model", "ViT-B-32", "--reference-gflops", "10", "--loss", "softmax"),
        *("--rows", "1.5M", "-b", "4_096", "-f", "0.5", "-N", "8", "--examples", "40k", "--reference-examples", "2M"),
        *(
            "--example-kb",
            "12.5",
            "--checkpoint-every",
            "3",
            "--device",
            "t4",
            "--dtype",
            "fp32",
            "--flexi-cost",
            "0.4",
        ),
    )
    assert found["learner"]["name"] == "ViT-L-14"
    assert found["reference"]["name"] == "ViT-B-32 (FLOPs as given)"
    assert found["reference"]["forward_flops"] == 1e10
    assert (found["learner"]["width"], found["reference"]["width"]) == (768, 512)
    wanted = {"rows": 1_500_000, "b": 4096, "B": 8192, "f": 0.5, "N": 8, "loss": "softmax", "num_batches": 10}
    assert found["run"] | wanted == found["run"]
    assert (found["run"]["reference_examples"], found["run"]["checkpoint_pushes"]) == (2_000_000, 3)
    assert found["run"]["checkpoint_bytes"] == 3 * 4 * ARCHITECTURES["ViT-L-14"].parameters
    assert (found["rates"]["device"], found["rates"]["dtype"]) == ("T4", "fp32")
    assert found["rates"]["peak_flops_per_s"] == 8.1e12
    assert policy(found, "jest")["reads_per_step"]["scoring_bytes"] == 8192 * 12_500
    assert policy(found, "jest")["reference_training"]["flops"] == 3e10 * 2_000_000
    assert policy(found, "flexi-jest")["step_of_uniform"] == pytest.approx(0.7 + 0.4 * 2 / 3)


def test_the_length_is_one_pass_where_no_flag_says(capsys: pytest.CaptureFixture[str]) -> None:
    run_of = document(capsys, "--rows", "1M", "-b", "1000")["run"]
    assert (run_of["num_batches"], run_of["trained_passes"]) == (1000, 1.0)


def test_softmax_pays_for_its_probe(capsys: pytest.CaptureFixture[str]) -> None:
    sigmoid, softmax = (document(capsys, "--loss", loss) for loss in ("sigmoid", "softmax"))
    own = "selection_step_of_uniform"
    assert policy(softmax, "jest")[own] > policy(sigmoid, "jest")[own] > policy(sigmoid, "independent")[own] > 0


def test_a_reference_is_of_the_learner_s_size_where_no_flag_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--forward-gflops", "7")
    assert found["reference"] == found["learner"]
    assert (found["learner"]["forward_flops"], found["learner"]["width"]) == (7e9, 768)
    assert document(capsys, "--reference-gflops", "5")["reference"]["width"] == 768


def test_the_model_s_own_cost_at_low_resolution(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--flexi-cost", "model")
    low = found["learner"]["low_resolution_cost"]
    assert policy(found, "flexi-jest")["step_of_uniform"] == pytest.approx(1 - 0.5 * (1 - low) + low * 5 / 3)


@pytest.mark.parametrize("name", ["config.json", "."])
def test_a_tiny_model_is_read_from_its_config(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TinyConfig(width=64)
    (tmp_path / "config.json").write_bytes(config.to_bytes())
    found = document(capsys, "--model", str(tmp_path / name), "--rows", "5000", "-b", "128", "--device", "CPU-core")
    assert found["learner"]["forward_flops"] == forward_flops_per_example(config)
    assert found["learner"]["width"] == 64
    assert found["rates"]["dtype"] == "fp32"


def test_checkpoints_of_unknown_size_are_counted_without_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    plan(*SMALL, "--checkpoint-every", "10")
    assert "4 checkpoints, of unknown size" in capsys.readouterr().out
    plan("--checkpoint-every", "1000")
    assert "3 checkpoints, 2.438 GB in all" in capsys.readouterr().out


def test_a_run_too_short_to_pay_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan("--batches", "100")
    row = re.search(r"^easy-reference .*$", capsys.readouterr().out, re.MULTILINE)
    assert row is not None
    assert row[0].endswith(" -")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "1"), "f must be in [0, 1); got 1.0. Use 0.8 to keep one in five."),
        (("-b", "0"), "b must be at least 1; got 0."),
        (("-b", "32", "-N", "64"), "N must be in [1, b = 32]; got 64. Lower N or raise b."),
        (("--rows", "100k"), "a super-batch must fit into the data set of 100,000 rows; got 163840."),
        (("--batches", "0"), "a run must have at least 1 batch; got 0."),
        (("--examples", "0"), "a run must have at least 1 batch; got 0."),
        (("--price", "-1"), "the price of a device-hour must be at least 0; got -1.0."),
        (("--price", "nan"), "the price of a device-hour must be at least 0; got nan."),
        (("--device", "H10"), f"a device must be one of {', '.join(DEVICES)}; got 'H10' (did you mean H100?)."),
        (("--model", "ViT"), f"a model must be one of {', '.join(ARCHITECTURES)}; got 'ViT'"),
        (("--reference-model", "x"), f"a model must be one of {', '.join(ARCHITECTURES)}; got 'x'."),
        (("--model", "none/config.json"), "--model must be readable; got No such file or directory"),
        (("--dtype", "fp64"), "--dtype of H100 must be one of bf16, tf32, fp32; got 'fp64'."),
        (("--flexi-cost", "2"), "a pass at low resolution must cost a share in (0, 1] of a full one; got 2.0."),
        (("--forward-gflops", "3", "--flexi-cost", "model"), "--flexi-cost model needs an architecture by name"),
        (("--forward-gflops", "0"), "the forward FLOPs of a model must be above 0; got 0.0."),
        (("--forward-gflops", "inf"), "the forward FLOPs of a model must be above 0; got inf."),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*arguments) == Exit.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"superbatch: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", '{"points": [[0, 0.8]]}'), "f must be one number here; got '{\"points\": [[0, 0.8]]}': for a schedule"),
        (("--rows", "1.5"), "a count must be a whole number like 5000, 128M or 1.4B; got '1.5'"),
        (("--rows", "many"), "a count must be a whole number"),
        (("--rows", "nan"), "a count must be a whole number"),
        (("--rows", "1e400"), "a count must be a whole number"),
        (("--rows=-5",), "a count must be a whole number"),
        (("--rows", ""), "a count must be a whole number"),
        (("--flexi-cost", "cheap"), "must be a number in (0, 1], or 'model'; got 'cheap'"),
        (("--batches", "3", "--examples", "4"), "not allowed with argument --batches"),
        (("--modle", "x"), "every flag must be known; got '--modle' (did you mean --model?)"),
    ],
)
def test_a_wrong_flag_ends_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        plan(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == Exit.USAGE
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "count"), [("5_000", 5000), ("5,000", 5000), ("1.4B", 1_400_000_000), ("2.2m", 2_200_000)]
)
def test_counts_are_exact(text: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "--rows", text, "-b", "100")["run"]["rows"] == count


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.8192, "0.8192"), (9.9996, "10.000"), (12.345, "12.35"), (1234.5, "1,234"), (123456.0, "123,456")],
)
def test_numbers_keep_four_digits(value: float, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 "), (0.5, "0.5 "), (999, "999 "), (1000, "1 k"), (57.84e9, "57.84 G"), (2e30, "2,000,000 Y")],
)
def test_prefixes_are_decimal(value: float, text: str) -> None:
    assert scaled(value) == text


def test_help_shows_examples_that_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        plan("--help")
    examples = re.findall(r"^    superbatch (plan .*)$", capsys.readouterr().out, re.MULTILINE)
    (tmp_path / "config.json").write_bytes(TinyConfig().to_bytes())
    assert len(examples) == 2
    for example in examples:
        arguments = [str(tmp_path) if "/" in word else word for word in shlex.split(example)]
        assert run(arguments, environment={}, connect=no_service) == Exit.OK


def test_it_runs_without_torch_numpy_and_the_rest() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'pyarrow', 'httpx', 'pydantic'): sys.modules[name] = None\n"
        "from superbatch.cli.main import main\n"
        "sys.exit(main(['plan']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jest-inline" in found.stdout


def test_the_page_s_example_is_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```sh\nsuperbatch (plan .*?)\n```\n+```text\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example is not None, "docs/planning.md must show a command and what it prints"
    assert run(shlex.split(example[1]), environment={}, connect=no_service) == Exit.OK
    assert capsys.readouterr().out == example[2]


def test_the_page_names_every_policy_model_device_and_flag(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS.read_text()
    with pytest.raises(SystemExit):
        plan("--help")
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    names = {found.name for found in POLICIES} | set(ARCHITECTURES) | set(DEVICES) | flags
    missing = sorted(name for name in names if f"`{name}`" not in page)
    assert not missing, f"docs/planning.md does not name {missing}"


def test_the_page_s_table_is_the_formulas_at_three_filter_ratios() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| [^|]+ \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    shown = {name: [float(cell.strip(" *")) for cell in cells.split("|")] for name, cells in rows}
    ratios = [candidates_per_row(f) for f in (0.5, 0.8, 0.9)]
    assert shown == {found.name: [round(step_cost(found, R=R).total, 3) for R in ratios] for found in POLICIES}
