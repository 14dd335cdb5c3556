"""`superbatch models`: register the files of a reference or a learner, and list what is registered."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from superbatch.cli.client import Service
from superbatch.cli.datasets import POLL_S
from superbatch.cli.errors import CommandError, Exit
from superbatch.cli.roots import Root, in_folder, list_roots, named_root, root_of
from superbatch.cli.text import shown, table
from superbatch.formats.canonical import JsonObject
from superbatch.formats.json_fields import JsonFields

ROLE_OF_NAME = {
    "model.safetensors": "weights",
    "config.json": "config",
    "tokenizer.json": "tokenizer",
    "preprocessor_config.json": "processor",
}

ADD_HELP = """Register a model: config.json, tokenizer.json and, unless they are pushed by a trainer, model.safetensors.

    superbatch models add ./reference
        registers the files of a folder, in the root of the service that contains it
    superbatch models add reference --root models --dir runs/reference
        names the folder by its key in a root that is a folder of this machine
    superbatch models add reference --root models --file config=c.json:SHA256 --file tokenizer=t.json:SHA256
        names each file and its digest, for roots elsewhere
"""


def add_parsers(parser: argparse.ArgumentParser, connection: argparse.ArgumentParser) -> None:
    """Describe `models add` and `models list`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="add | list")
    add = verbs.add_parser(
        "add",
        help="register a model's files",
        parents=[connection],
        description=ADD_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument(
        "name", metavar="NAME | FOLDER", nargs="?", help="its name (else that of --dir), or a folder with its files"
    )
    add.add_argument("--name", dest="as_name", metavar="NAME", help="name for a FOLDER (else the folder's own)")
    add.add_argument("--family", default="tiny", help="which encoder reads the files (default: tiny)")
    add.add_argument("--root", help="root that holds the files")
    add.add_argument("--dir", metavar="KEY", help="folder in the root; its files are hashed here")
    add.add_argument("--file", action="append", default=[], metavar="ROLE=KEY:SHA256", help="one file and its digest")
    add.add_argument(
        "--no-weights", action="store_true", help="leave the weights out: a learner whose weights are pushed"
    )
    add.add_argument("--wait", action="store_true", help="wait until it is READY or INVALID")
    add.set_defaults(run=add_model)
    verbs.add_parser("list", help="list models", parents=[connection]).set_defaults(run=list_models)


def add_model(options: argparse.Namespace, service: Service, *, sleep: Callable[[float], None] = time.sleep) -> Exit:
    """Register a model and print its id."""
    name, files = _name_and_files(options, service)
    model = service.post("/v1/models", {"name": name, "family": options.family, "files": files})
    print(f"{model.text('id')}  {model.text('state')}")
    if not options.wait:
        return Exit.OK
    while model.text("state") == "VERIFYING":
        sleep(POLL_S)
        model = service.get(f"/v1/models/{model.text('id')}")
    reason = f"  {shown(model.optional_text('error') or '')}" if model.text("state") == "INVALID" else ""
    print(f"{model.text('id')}  {model.text('state')}{reason}")
    return Exit.ENDED_BADLY if model.text("state") == "INVALID" else Exit.OK


def list_models(options: argparse.Namespace, service: Service) -> Exit:  # noqa: ARG001  (every command takes options)
    """Print every model."""
    print(
        table(
            ("id", "name", "family", "state", "files"), [_row(item) for item in service.items("/v1/models", "models")]
        )
    )
    return Exit.OK


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name_and_files(options: argparse.Namespace, service: Service) -> tuple[str, Sequence[JsonObject]]:
    name = options.as_name or options.name
    if options.file:
        if options.root is None or name is None:
            raise CommandError("--file needs --root, the root that holds the files, and a name; give both.")
        return name, [_given(text, options.root) for text in options.file]
    if options.dir is not None:
        if options.root is None:
            raise CommandError(
                "--dir is a key in a root; got no --root. Give one, or name a local folder without --dir."
            )
        root = named_root(options.root, list_roots(service))
        key = options.dir.rstrip("/")
        return name or key.rpartition("/")[2], _hashed(root, key, options.no_weights)
    if options.name is None:
        raise CommandError(
            "a model needs a folder, or --root with --dir or --file; got none. See superbatch models add --help."
        )
    folder = Path(options.name)
    if not folder.is_dir():
        raise CommandError(f"without --dir or --file a folder is needed; {shown(str(folder))} is none.")
    root, folder_key = root_of(folder, list_roots(service))
    return options.as_name or folder.resolve().name, _hashed(root, folder_key, options.no_weights)


def _hashed(root: Root, folder_key: str, without_weights: bool) -> list[JsonObject]:
    if root.directory is None:
        raise CommandError(
            f"--dir needs a root on this machine; {root.name} is elsewhere. Give --file ROLE=KEY:SHA256."
        )
    found: list[JsonObject] = []
    for name, role in ROLE_OF_NAME.items():
        path = root.directory / folder_key / name
        if path.is_file() and not (without_weights and role == "weights"):
            key = in_folder(folder_key, name)
            found.append({"role": role, "root": root.name, "key": key, "sha256": file_sha256(path)})
    if not found:
        folder = shown(str(root.directory / folder_key))
        raise CommandError(f"a model's folder must hold config.json and tokenizer.json; {folder} holds neither.")
    return found


def _given(text: str, root: str) -> JsonObject:
    role, _, rest = text.partition("=")
    key, _, digest = rest.rpartition(":")
    if not (role and key and digest):
        raise CommandError(f"--file must be ROLE=KEY:SHA256; got {text!r}.")
    return {"role": role, "root": root, "key": key, "sha256": digest}


def _row(model: JsonFields) -> tuple[str, ...]:
    manifest = model.object("manifest")
    roles = ", ".join(file.text("role") for file in manifest.objects("files"))
    return model.text("id"), model.text("name"), manifest.text("family"), model.text("state"), roles
