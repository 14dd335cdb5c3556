"""`superbatch delete`: forget data sets, models and jobs that nothing refers to."""

from __future__ import annotations

import argparse

from superbatch.cli.client import Service
from superbatch.cli.errors import Exit
from superbatch.cli.submit import object_id

HELP = """Forget data sets, models or jobs.

    superbatch delete job JOB ...             jobs that have ended; `superbatch gc --delete` removes their lists
    superbatch delete dataset ID|NAME ...     the shards themselves are yours and stay
    superbatch delete model ID|NAME ...       so do the files of a model

Refused while something refers to it: a job to its data set and models, a replay to the job whose schedule it repeats.
"""

COLLECTIONS = {"job": "jobs", "dataset": "datasets", "model": "models"}


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("kind", choices=tuple(COLLECTIONS))
    parser.add_argument("objects", nargs="+", metavar="ID", help="ids; names will do for data sets and models")
    parser.set_defaults(run=delete)


def delete(options: argparse.Namespace, service: Service) -> Exit:
    """Delete one object after the other; the first that is refused ends the command."""
    collection = COLLECTIONS[options.kind]
    for text in options.objects:
        named = text if collection == "jobs" else object_id(service, collection, text)
        service.delete(f"/v1/{collection}/{named}")
        print(f"{named}  deleted")
    return Exit.OK
