"""Write the shards and what belongs to them: MANIFEST.json, truth.json, concepts.json, LICENSES.md."""

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from examples.sample import icons, recipe
from examples.sample.shards import Row, Shard, tar_bytes

SPLITS = ("clean", "pool", "test")


class ShardEntry(TypedDict):
    """One tar file."""

    path: str
    split: str
    source: str
    rows: int
    bytes: int
    sha256: str


class SetEntry(TypedDict):
    """One icon set: whom to credit, under which licence, and its rows in the sample."""

    set: str
    name: str
    author: str
    author_url: str
    licence: str
    licence_url: str
    rows: int


class Damage(TypedDict):
    """One planted row: what was done, in which shard, and the key of the row that it was made from."""

    kind: str
    shard: str
    of: str


class Concepts(TypedDict):
    """Zero-shot classes, and the class index of each test key whose picture shows one."""

    classes: list[str]
    class_of_key: dict[str, int]


class Manifest(TypedDict):
    """The content of MANIFEST.json; `counts` and `shards` include the planted rows."""

    package: dict[str, str]
    made_with: dict[str, str]
    seed: int
    counts: dict[str, dict[str, int]]
    shuffled_fraction: dict[str, float]
    shards: list[ShardEntry]
    sets: list[SetEntry]
    damaged: dict[str, Damage]


def keys_of(shards: list[Shard]) -> dict[Row, str]:
    """Return the key of every row."""
    return {row: shard.key(position) for shard in shards for position, row in enumerate(shard.rows)}


def concepts_of(shards: list[Shard]) -> Concepts:
    """Return as classes the concepts that two or more test pictures show and the clean split knows, most shown first.

    The list is cut at recipe.MAX_CLASSES, then sorted by name.
    """
    known = {row.concept for shard in shards if shard.split == "clean" for row in shard.rows}
    shown = {key: row.concept for row, key in keys_of([shard for shard in shards if shard.split == "test"]).items()}
    by_count = sorted(Counter(shown.values()).items(), key=lambda item: (-item[1], item[0]))
    fit = [concept for concept, count in by_count if count > 1 and concept in known]
    index_of = {concept: index for index, concept in enumerate(sorted(fit[: recipe.MAX_CLASSES]))}
    return {
        "classes": list(index_of),
        "class_of_key": {key: index_of[concept] for key, concept in shown.items() if concept in index_of},
    }


def damage_of(shards: list[Shard]) -> dict[str, Damage]:
    """Return the planted rows by key."""
    keys = keys_of(shards)
    return {
        keys[row]: {"kind": row.planted, "shard": shard.path, "of": keys[row.original]}
        for shard in shards
        for row in shard.rows
        if row.original is not None
    }


def shuffled_keys(shards: list[Shard]) -> dict[str, list[str]]:
    """Return for each pool shard the keys of the rows whose caption belongs to another picture."""
    keys = keys_of(shards)
    return {shard.path: [keys[row] for row in shard.rows if row.shuffled] for shard in shards if shard.split == "pool"}


def sets_of(shards: list[Shard], package: Path) -> list[SetEntry]:
    """Return every set used, its author and licence as the package states them.

    Raises: ValueError for a licence that is not on the list of permissive ones.
    """
    entries: list[SetEntry] = []
    for set_name, rows in sorted(Counter(row.set_name for shard in shards for row in shard.rows).items()):
        about = icons.load_set(package, set_name)["info"]
        licence = about["license"]
        if licence["spdx"] not in recipe.PERMISSIVE_LICENCES:
            raise ValueError(f"every licence must be permissive; got {licence['spdx']} ({set_name}). Take another set.")
        entries.append(
            {
                "set": set_name,
                "name": about["name"],
                "author": about["author"]["name"],
                "author_url": about["author"]["url"],
                "licence": licence["spdx"],
                "licence_url": licence.get("url", about["author"]["url"]),
                "rows": rows,
            }
        )
    return entries


def licences_page(sets: list[SetEntry], package_version: str) -> str:
    """Return the page that credits every author."""
    lines = [
        "# Licences of the pictures",
        "",
        f"All drawings come from the npm package `@iconify/json` {package_version}. We changed each one: drawn on",
        f"white at {icons.SIDE_PX} x {icons.SIDE_PX} pixels. Names became captions. Each set keeps its own licence.",
        "",
        "| set | name | author | licence | text of the licence | rows |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{entry['set']}` | {entry['name']} | [{entry['author']}]({entry['author_url']}) | {entry['licence']} "
        f"| {entry['licence_url']} | {entry['rows']} |"
        for entry in sets
    ]
    return "\n".join(lines) + "\n"


def write_compact(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON with one line for each key, for long lists of keys."""
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def write_tars(shards: list[Shard], output: Path) -> list[ShardEntry]:
    """Write every shard and return what the manifest says of it; tars of an earlier recipe go."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("*.tar"):
        old.unlink()
    entries: list[ShardEntry] = []
    for shard in shards:
        content = tar_bytes(shard)
        (output / shard.path).write_bytes(content)
        entries.append(
            {
                "path": shard.path,
                "split": shard.split,
                "source": shard.source,
                "rows": len(shard.rows),
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    return entries


def count_rows(entries: list[ShardEntry]) -> dict[str, dict[str, int]]:
    """Return the rows per split and source."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for entry in entries:
        counts[entry["split"]][entry["source"]] += entry["rows"]
    return {name: dict(count) for name, count in counts.items()}


def write(shards: list[Shard], *, package: Path, output: Path) -> int:
    """Write the whole sample into a folder and return the size of its tars in bytes."""
    entries, sets = write_tars(shards, output), sets_of(shards, package)
    package_version = icons.package_version(package)
    manifest: Manifest = {
        "package": {"name": "@iconify/json", "version": package_version},
        "made_with": {
            "resvg-py": version("resvg-py"),
            "numpy": version("numpy"),
            "zlib": zlib.ZLIB_RUNTIME_VERSION,
        },
        "seed": recipe.SEED,
        "counts": count_rows(entries),
        "shuffled_fraction": {
            source.name: source.shuffled_fraction for theme in recipe.THEMES for source in theme.sources
        },
        "shards": entries,
        "sets": sets,
        "damaged": damage_of(shards),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (output / "MANIFEST.json").write_text(text + "\n", encoding="utf-8")
    write_compact(output / "concepts.json", concepts_of(shards))
    write_compact(output / "truth.json", shuffled_keys(shards))
    (output / "LICENSES.md").write_text(licences_page(sets, package_version), encoding="utf-8")
    return sum(entry["bytes"] for entry in entries)
