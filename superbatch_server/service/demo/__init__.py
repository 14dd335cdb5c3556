"""`superbatch demo`: the main job on the committed sample, end to end, everything through the REST API."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import cast

from superbatch_server.service.demo import report
from superbatch_server.service.demo.api import Api, DemoFailed, JsonObject, read_token, say
from superbatch_server.service.demo.plan import SEED_OF_LEARNERS, SEED_OF_REFERENCE, Plan
from superbatch_server.service.demo.processes import service
from superbatch_server.service.demo.stages import Stages, curation_flops
from superbatch_server.service.login_codes import new_login_code


def command(arguments: list[str]) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="superbatch demo", description="Run the main job on the sample, end to end.")
    parser.add_argument("--examples", type=Path, default=Path("examples"), help="folder of the repository's examples")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="folder for everything the demo writes")
    parser.add_argument("--trainer-python", default=sys.executable, help="Python of the trainer's own environment")
    parser.add_argument("--batches", type=int, default=Plan.learner_batches, help="batches that each learner trains on")
    parser.add_argument("--reference-batches", type=int, default=Plan.reference_batches)
    parser.add_argument("--keep", action="store_true", help="leave the service and its dashboard running")
    parsed = parser.parse_args(arguments)
    plan = Plan(
        examples=parsed.examples.absolute(),
        work=parsed.work.absolute(),
        trainer_python=str(Path(parsed.trainer_python).absolute()),
        learner_batches=parsed.batches,
        reference_batches=parsed.reference_batches,
    )
    try:
        _run(plan, keep=parsed.keep)
    except DemoFailed as error:
        print(f"The demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("The demo was interrupted; everything it started has been stopped.", file=sys.stderr)
        return 130
    return 0


def _run(plan: Plan, *, keep: bool) -> None:
    began_s = time.monotonic()
    shutil.rmtree(plan.work, ignore_errors=True)
    plan.models.mkdir(parents=True)
    data_dir = plan.work / "service"
    say("Starting the service on its embedded defaults: SQLite, a local folder, local Ray.")
    with service(data_dir, {"sample": plan.sample, "models": plan.models}, keep=keep) as url:
        stages = Stages(Api(url, read_token(data_dir)), plan, token_file=data_dir / "token")
        say(f"It answers at {url}. Dashboard: {url}/login?code={new_login_code(data_dir)}")
        arms, stats = _main_job(stages)
        _print_report(arms, stats)
        say(f"Done in {time.monotonic() - began_s:.0f} s.")
        if keep:
            say(f"The service keeps running. Dashboard: {url}/login?code={new_login_code(data_dir)}")
        else:
            say(f"Dashboard: it was at {url} and stops now; `make demo KEEP=1` leaves it running.")


def _main_job(stages: Stages) -> tuple[list[report.Arm], JsonObject]:
    plan = stages.plan
    say("1. Registering the clean split and the pool as data sets.")
    clean, pool = stages.register_dataset("clean"), stages.register_dataset("pool")
    stages.start_model()

    say("2. Training the reference on uniform batches of the clean split, with an initial seed of its own.")
    job = stages.submit(plan.uniform_job(clean, num_batches=plan.reference_batches, seed=1))
    reference_run = stages.train(
        job, "reference", num_batches=plan.reference_batches, seed=SEED_OF_REFERENCE, pushes=False
    )
    reference = stages.register_model("reference", "reference", weights=True)
    learner = stages.register_model("learner", "fresh", weights=False)

    say("3. Curating the pool: Ray workers index and embed it; each batch is the most learnable fifth, chosen jointly.")
    curated = stages.submit(plan.curate_job(pool, reference, learner, seed=2))
    say("4. Training a learner on the curated batches while it pushes its checkpoints back.")
    curated_run = stages.train(curated, "curated", num_batches=plan.learner_batches, seed=SEED_OF_LEARNERS, pushes=True)

    say("5. Training the same learner, from the same initial seed, on uniform batches of the same pool.")
    uniform = stages.submit(plan.uniform_job(pool, num_batches=plan.learner_batches, seed=2))
    uniform_run = stages.train(
        uniform, "uniform", num_batches=plan.learner_batches, seed=SEED_OF_LEARNERS, pushes=False
    )

    say("6. Measuring all three on the held-out split.")
    stats = stages.api.get(f"/v1/jobs/{curated}/stats")
    reference_flops = cast("float", reference_run["training_flops"])
    forward = reference_flops / report.FORWARD_AND_BACKWARD / cast("int", reference_run["examples_trained"])
    cost = curation_flops(stats, pool_rows=cast("int", stats["rows"]), forward_flops=forward)
    return [
        stages.arm("reference", reference_run, curation_flops=0.0, reference_flops=0.0),
        stages.arm("curated", curated_run, curation_flops=cost, reference_flops=reference_flops),
        stages.arm("uniform", uniform_run, curation_flops=0.0, reference_flops=0.0),
    ], stats


def _print_report(arms: list[report.Arm], stats: JsonObject) -> None:
    say("")
    say(report.budgets(arms))
    say("TFLOPs: training at three forward passes an example, plus curation; 'with reference' adds its training.")
    say("")
    say(report.sources(stats))
    say(report.quarantine(stats))
    say("")
    say(report.generations(stats))
    say("")
