"""`superbatch datasets`: register the shards to curate, and list what is registered."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from superbatch.cli.client import Service
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.patterns import shard_refs
from superbatch.cli.roots import in_folder, list_roots, root_of
from superbatch.cli.text import count, shown, table
from superbatch.formats.canonical import JsonObject, JsonValue, parse_json
from superbatch.formats.json_fields import JsonFields

POLL_S = 0.5

ADD_HELP = """Register a data set: a named list of shards in a root. It never changes afterwards.

    superbatch datasets add ./pictures
        registers every *.tar of a folder, in the root of the service that contains it
    superbatch datasets add pool --root data --shards 'pool-{00..08}.tar' --source 'emoji=pool-0[0-3].tar'
        names the shards; --source labels those that match, for the report by source
"""


def add_parsers(parser: argparse.ArgumentParser, connection: argparse.ArgumentParser) -> None:
    """Describe `datasets add` and `datasets list`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="add | list")
    add = verbs.add_parser(
        "add",
        help="register shards",
        parents=[connection],
        description=ADD_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("name", metavar="NAME | FOLDER", nargs="?", help="its name, or a folder with tar files")
    add.add_argument("--name", dest="as_name", metavar="NAME", help="name for a FOLDER (else the folder's own)")
    add.add_argument("--root", help="root that holds the shards")
    add.add_argument("--shards", nargs="+", default=[], metavar="PATTERN", help="keys; {00..08} is a range")
    add.add_argument("--source", action="append", default=[], metavar="LABEL=PATTERN", help="label of matching shards")
    add.add_argument("--manifest", type=Path, metavar="FILE", help="the whole manifest as JSON, in place of all above")
    add.add_argument("--wait", action="store_true", help="wait until it is READY or INVALID")
    add.set_defaults(run=add_dataset)
    verbs.add_parser("list", help="list data sets", parents=[connection]).set_defaults(run=list_datasets)


def add_dataset(options: argparse.Namespace, service: Service, *, sleep: Callable[[float], None] = time.sleep) -> Exit:
    """Register a data set and print its id."""
    dataset = service.post("/v1/datasets", _manifest(options, service))
    dataset_id = dataset.text("id")
    print(f"{dataset_id}  {dataset.text('state')}")
    return _wait(service, dataset_id, sleep) if options.wait else Exit.OK


def list_datasets(options: argparse.Namespace, service: Service) -> Exit:  # noqa: ARG001  (every command takes options)
    """Print every data set."""
    print(
        table(
            ("id", "name", "state", "rows", "shards"),
            [_row(item) for item in service.items("/v1/datasets", "datasets")],
        )
    )
    return Exit.OK


def read_json(path: Path) -> JsonObject:
    """Return a JSON object from a local file. Raises: CommandError, CorruptFile."""
    try:
        return JsonFields(parse_json(path.read_bytes(), where=str(path)), str(path)).value
    except OSError as error:
        raise CommandError(
            f"a file must be readable; got {error.strerror} ({shown(str(path))}). Check its name."
        ) from error


def _manifest(options: argparse.Namespace, service: Service) -> JsonObject:
    if options.manifest is not None:
        return read_json(options.manifest)
    if options.name is None:
        raise CommandError(
            "a data set needs a name, a folder or --manifest; got none. See superbatch datasets add --help."
        )
    if options.root is None:
        return _folder_manifest(Path(options.name), options, service)
    if not options.shards and not options.source:
        raise CommandError("--shards must name at least one shard; got none. For example --shards 'pool-{00..08}.tar'.")
    return _document(options.as_name or options.name, options.root, shard_refs(options.shards, options.source))


def _folder_manifest(folder: Path, options: argparse.Namespace, service: Service) -> JsonObject:
    if not folder.is_dir():
        raise CommandError(
            f"without --root a folder is needed; {shown(str(folder))} is none. Give --root and --shards."
        )
    root, folder_key = root_of(folder, list_roots(service))
    names = options.shards or sorted(path.name for path in folder.glob("*.tar"))
    if not names:
        raise CommandError(
            f"a folder must hold *.tar shards; {shown(str(folder))} holds none. Name them with --shards."
        )
    refs = [{**ref, "key": in_folder(folder_key, str(ref["key"]))} for ref in shard_refs(names, options.source)]
    return _document(options.as_name or folder.resolve().name, root.name, refs)


def _document(name: str, root: str, refs: list[JsonObject] | list[dict[str, JsonValue]]) -> JsonObject:
    return {"name": name, "format": "webdataset", "root": root, "shards": refs}


def _wait(service: Service, dataset_id: str, sleep: Callable[[float], None]) -> Exit:
    while (dataset := service.get(f"/v1/datasets/{dataset_id}")).text("state") == "VERIFYING":
        sleep(POLL_S)
    if dataset.text("state") == "READY":
        rows, shards = count(dataset.integer("rows"), "row"), count(dataset.integer("num_shards"), "shard")
        print(f"{dataset_id}  READY  {rows} in {shards}")
        return Exit.OK
    print(
        f"{dataset_id}  INVALID  {shown(dataset.optional_text('error') or '')} [{dataset.optional_text('error_code')}]"
    )
    return Exit.ENDED_BADLY


def _row(dataset: JsonFields) -> tuple[str, ...]:
    rows = dataset.optional_integer("rows")
    return (
        dataset.text("id"),
        dataset.text("name"),
        dataset.text("state"),
        "-" if rows is None else f"{rows:,}",
        f"{dataset.integer('num_shards'):,}",
    )
