"""`superbatch submit`: a job from a spec in JSON, from flags, or from a spec that flags change."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from superbatch.cli import variant_flag
from superbatch.cli.client import Service
from superbatch.cli.datasets import read_json
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.watch import watch_job
from superbatch.formats.canonical import JsonObject, JsonValue, parse_json
from superbatch.formats.json_fields import JsonFields

HELP = """Submit a job.

    superbatch submit spec.json            the spec of POST /v1/jobs; '-' reads it from standard input
    superbatch submit --dataset pool --reference reference --learner learner --pushed -b 128 --num-batches 400
        data sets and models by id or by name; what no flag says keeps the service's default

Flags given beside a spec replace its fields.
"""

_OBJECT_ID = re.compile(r"[a-z]+_[0-9a-f]{16}")

FIELD_OF_FLAG = {
    "name": "name",
    "batch": "selection.b",
    "filter_ratio": "selection.f",
    "rounds": "selection.N",
    "criterion": "selection.criterion",
    "method": "selection.method",
    "gain": "selection.gain",
    "sampling": "selection.sampling",
    "loss": "selection.loss",
    "first_round": "selection.first_round",
    "probe_size": "selection.probe_size",
    "repetition_cap": "selection.repetition_cap",
    "max_cosine": "selection.max_cosine",
    "precision": "selection.precision",
    "variants": "selection.variants",
    "block_rows": "draw.block_rows",
    "max_staleness": "refresh.max_staleness",
    "on_stale": "refresh.on_stale",
    "before_first": "refresh.before_first",
    "replay": "refresh.replay",
    "batches_per_list": "lists.batches_per_list",
    "num_batches": "num_batches",
    "seed": "seed",
}
"""Flags whose value is a field of the spec as it stands."""


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the spec and the flags."""
    parser.add_argument(
        "spec", nargs="?", metavar="SPEC.json | -", help="job spec; may be left out where flags say all"
    )
    parser.add_argument("--dataset", metavar="ID|NAME", help="what to curate")
    parser.add_argument("--reference", metavar="ID|NAME", help="model trained on clean data")
    parser.add_argument("--learner", metavar="ID|NAME", help="model that is being trained")
    parser.add_argument("--pushed", action="store_true", help="the trainer pushes the learner's checkpoints")
    parser.add_argument("--name", help="shown to people")
    parser.add_argument("-b", "--batch", type=int, metavar="ROWS", help="rows of a batch, over all ranks")
    parser.add_argument("-f", "--filter-ratio", type=float, metavar="F", help="share thrown away, in [0, 1)")
    parser.add_argument("-N", "--rounds", type=int, metavar="N", help="rounds of a joint selection")
    parser.add_argument("--criterion", choices=("learnability", "easy_reference", "hard_learner"))
    parser.add_argument("--method", choices=("joint", "independent", "uniform", "hard_negatives"))
    parser.add_argument("--gain", type=float, help="inverse temperature of the score")
    parser.add_argument("--sampling", choices=("gumbel", "top_k"))
    parser.add_argument("--loss", choices=("sigmoid", "softmax"), help="loss of both models")
    parser.add_argument("--first-round", choices=("probe", "diagonal"), help="softmax: what scores the first chosen")
    parser.add_argument("--probe-size", type=int, metavar="ROWS", help="softmax: candidates in the probe")
    parser.add_argument("--repetition-cap", type=int, metavar="TIMES", help="how often an example may be chosen")
    parser.add_argument("--max-cosine", type=float, metavar="C", help="keeps rows as near as this apart, in (0, 1]")
    parser.add_argument("--precision", choices=("native", "bf16"), help="of the products that select")
    parser.add_argument(
        "--variant",
        dest="variants",
        action="append",
        type=variant_flag.variant,
        metavar=variant_flag.METAVAR,
        help="how a share of each batch is shown to the model; once per variant, the full one first",
    )
    parser.add_argument("--num-batches", type=int, metavar="K", help="length of the job")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--block-rows", type=int, metavar="ROWS", help="consecutive rows drawn together")
    parser.add_argument("--max-staleness", type=int, metavar="BATCHES", help="how old a score may be")
    parser.add_argument("--on-stale", choices=("wait", "use", "uniform"))
    parser.add_argument("--before-first", choices=("easy_reference", "uniform", "initial_weights"))
    parser.add_argument("--replay", metavar="JOB", help="job whose recorded schedule is used again")
    parser.add_argument("--batches-per-list", type=int, metavar="L")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the spec and submit nothing")
    parser.add_argument("--watch", action="store_true", help="follow the job to its end")
    parser.set_defaults(run=submit)


def submit(options: argparse.Namespace, service: Service) -> Exit:
    """Submit the job and print its id."""
    spec = build_spec(options, service)
    if options.only_print:
        print(_pretty(spec))
        return Exit.OK
    job = service.post("/v1/jobs", spec)
    print(job.text("id"), flush=True)
    return watch_job(service, job.text("id")) if options.watch else Exit.OK


def build_spec(options: argparse.Namespace, service: Service) -> dict[str, JsonValue]:
    """Return the spec: the file's, with the fields that flags name put in their place."""
    spec: dict[str, JsonValue] = {"kind": "curate", **_read(options.spec)}
    if options.dataset is not None:
        spec["dataset"] = object_id(service, "datasets", options.dataset)
    if options.reference is not None:
        spec["reference"] = object_id(service, "models", options.reference)
    if options.learner is not None:
        model = object_id(service, "models", options.learner)
        spec["learner"] = {"model": model, "updates": "pushed" if options.pushed else "none"}
    elif options.pushed:
        raise CommandError("--pushed needs --learner, whose checkpoints the trainer pushes; got none.")
    for flag, path in FIELD_OF_FLAG.items():
        if (value := getattr(options, flag)) is not None:
            _put(spec, path.split("."), value)
    return spec


def object_id(service: Service, collection: str, text: str) -> str:
    """Return the id that `text` is or, being a name, stands for.

    Raises: CommandError when no object has that name, or several have.
    """
    if _OBJECT_ID.fullmatch(text):
        return text
    found = [item for item in service.items(f"/v1/{collection}", collection) if item.text("name") == text]
    usable = [item for item in found if item.text("state") != "INVALID"]
    if len(usable) == 1:
        return usable[0].text("id")
    ids = ", ".join(item.text("id") for item in usable) or ("only INVALID ones" if found else "none")
    raise CommandError(
        f"a name must stand for exactly one of the {collection}; {text!r} stands for {ids}. "
        f"Give an id: superbatch {collection} list shows them."
    )


def _read(spec: str | None) -> JsonObject:
    if spec is None:
        return {}
    if spec == "-":
        return JsonFields(parse_json(sys.stdin.read(), where="standard input"), "standard input").value
    return read_json(Path(spec))


def _put(spec: dict[str, JsonValue], path: list[str], value: JsonValue) -> None:
    if len(path) == 1:
        spec[path[0]] = value
        return
    inner = spec.get(path[0])
    spec[path[0]] = {**(JsonFields(inner, path[0]).value if inner is not None else {}), path[1]: value}


def _pretty(spec: JsonObject) -> str:
    import json

    return json.dumps(spec, indent=2, ensure_ascii=False)
