"""`superbatch demo`: the main job on the committed sample, end to end, everything through the REST API."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from superbatch_server.service.access.login_codes import new_login_code
from superbatch_server.service.demo import report
from superbatch_server.service.demo.api import Api, DemoFailed, JsonObject, read_token, say
from superbatch_server.service.demo.main_job import run_main_job
from superbatch_server.service.demo.plan import Plan
from superbatch_server.service.demo.processes import service
from superbatch_server.service.demo.stages import Stages


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
    plan.dataset("pool")  # says at once when the sample is missing
    shutil.rmtree(plan.work, ignore_errors=True)
    plan.models.mkdir(parents=True)
    data_dir = plan.work / "service"
    say("Starting the service on its embedded defaults: SQLite, a local folder, local Ray.")
    with service(data_dir, {"sample": plan.sample, "models": plan.models}, keep=keep) as served:
        say(f"It answers at {served.url}. Dashboard: {_dashboard(served.url, data_dir)}")
        with Api(served.url, read_token(data_dir)) as api:
            arms, stats = run_main_job(Stages(api, plan, token_file=data_dir / "token"))
        _print_report(arms, stats)
        say(f"Done in {time.monotonic() - began_s:.0f} s.")
        if keep:
            say(f"The service keeps running. Dashboard: {_dashboard(served.url, data_dir)}")
            say(f"End it with: kill {served.process.pid}")
        else:
            say(f"Dashboard: it was at {served.url} and stops now; `make demo KEEP=1` leaves it running.")


def _dashboard(url: str, data_dir: Path) -> str:
    """Return an address that signs in once."""
    return f"{url}/login?code={new_login_code(data_dir)}"


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
