"""docs/formats.md names every column, JSON key, metadata key and digest prefix that the formats have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import superbatch.formats
from superbatch.formats.batch_list import BATCH_DIGESTS_KEY, BATCH_LIST_SCHEMA
from superbatch.formats.bucket import LogEnd, LogHead, LogSegment
from superbatch.formats.canonical import JsonValue, parse_json
from superbatch.formats.parquet_file import FILE_KIND_KEY, FINGERPRINT_KEY, VERSION_KEY
from superbatch.formats.score_shard import SCORE_SHARD_SCHEMA
from tests.superbatch.formats.sample_batches import FINGERPRINT, a_manifest, a_segment, a_shard_table

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
TYPES = {"fixed_size_binary[16]": "fixed 16 bytes", "float": "float32"}


def section(title: str) -> str:
    """The text of one section of the page."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/formats.md has no section {title!r}"
    return found[1]


def keys_of(value: JsonValue) -> Iterator[str]:
    """Every key of a JSON document, at any depth, without the parts of a numerics profile."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner if key != "numerics_profile" else {"digest": ""})
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


@pytest.mark.parametrize(("title", "schema"), [("Batch list", BATCH_LIST_SCHEMA), ("Score shard", SCORE_SHARD_SCHEMA)])
def test_every_column_is_described_with_its_type_and_in_order(title: str, schema: object) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (.*)\|$", section(title), re.MULTILINE)
    described = [(name, type) for name, type, _ in rows]
    assert described == [(field.name, TYPES.get(str(field.type), str(field.type))) for field in schema]
    if title == "Batch list":
        assert [name for name, _, rest in rows if rest.startswith("yes ")] == [
            field.name for field in schema if not field.nullable
        ]


@pytest.mark.parametrize(
    ("title", "document"),
    [
        ("Manifest", a_manifest().to_json()),
        ("Shard table", a_shard_table(1).to_json()),
        ("The log in a bucket", parse_json(LogEnd("j", "h", "failed", 1, "08" * 32).render(), where="end")),
    ],
)
def test_every_key_is_described(title: str, document: JsonValue) -> None:
    missing = {key for key in keys_of(document) if f"`{key}`" not in section(title)}
    assert not missing, f"docs/formats.md, {title}, does not name {sorted(missing)}"


@pytest.mark.parametrize(
    "file",
    [
        LogHead("j", "h", FINGERPRINT.hex(), None, a_manifest().policy),
        LogSegment("j", "h", FINGERPRINT.hex(), "07" * 32, a_segment()),
    ],
)
def test_the_files_of_a_log_are_described(file: LogHead | LogSegment) -> None:
    document = parse_json(file.render(), where="file")
    assert isinstance(document, dict)
    assert {key for key in document if f"`{key}`" not in section("The log in a bucket")} == set()


def test_every_metadata_key_is_described() -> None:
    for key in (FILE_KIND_KEY, VERSION_KEY, FINGERPRINT_KEY, BATCH_DIGESTS_KEY):
        assert f"`{key}`" in section("Batch list"), key


def test_every_digest_prefix_is_described() -> None:
    source = "".join(path.read_text() for path in Path(superbatch.formats.__file__).parent.glob("*.py"))
    prefixes = set(re.findall(r'b"(superbatch-[a-z]+-v\d+)\\0"', source))
    assert len(prefixes) == 7
    for prefix in prefixes:
        assert f'"{prefix}" 0x00' in section("Digests"), prefix
