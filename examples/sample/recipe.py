"""The numbers of the committed sample: sets, rows per split, wrong captions, planted damage. Change them here only."""

from dataclasses import dataclass

SEED = 20240625
MAX_CLASSES = 140
"""Zero-shot classes at most; of the concepts with several test pictures, those with the most."""

NAMED_FLAGS_SET = "twemoji"
"""The set whose code points say which country a two-letter code is."""

PERMISSIVE_LICENCES = frozenset(
    {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-4.0", "OFL-1.1", "Unlicense", "BSD-2-Clause", "BSD-3-Clause"}
)


@dataclass(frozen=True)
class Source:
    """One source label: the sets behind it, its rows per split, and the share of wrong captions in its pool."""

    name: str
    sets: tuple[str, ...]
    clean_rows: int
    pool_rows: int
    test_rows: int
    pool_shards: int
    shuffled_fraction: float


@dataclass(frozen=True)
class Theme:
    """Sources that draw the same concepts; `num_classes` of them have `class_pictures` test pictures per source."""

    sources: tuple[Source, ...]
    num_concepts: int
    num_classes: int
    class_pictures: int


@dataclass(frozen=True)
class Planted:
    """One extra row of the pool: damage of `kind`, made from a row of one shard and put into another (or the same)."""

    kind: str
    source: str
    from_shard: int
    to_shard: int


THEMES = (
    Theme(
        sources=(
            Source(
                name="emoji",
                sets=("twemoji", "noto", "fluent-emoji-flat", "emojione", "noto-v1"),
                clean_rows=420,
                pool_rows=880,
                test_rows=300,
                pool_shards=2,
                shuffled_fraction=0.1,
            ),
        ),
        num_concepts=340,
        num_classes=45,
        class_pictures=2,
    ),
    Theme(
        sources=(
            Source(
                name="flags",
                sets=("twemoji", "emojione", "circle-flags", "flag", "flagpack"),
                clean_rows=260,
                pool_rows=700,
                test_rows=140,
                pool_shards=2,
                shuffled_fraction=0.1,
            ),
        ),
        num_concepts=250,
        num_classes=35,
        class_pictures=2,
    ),
    Theme(
        sources=(
            Source(
                name="material",
                sets=("material-symbols", "mdi", "fluent", "ri", "mingcute"),
                clean_rows=410,
                pool_rows=960,
                test_rows=280,
                pool_shards=2,
                shuffled_fraction=0.3,
            ),
            Source(
                name="line",
                sets=("tabler", "lucide", "ph", "iconoir", "carbon", "bi"),
                clean_rows=410,
                pool_rows=960,
                test_rows=280,
                pool_shards=2,
                shuffled_fraction=0.5,
            ),
        ),
        num_concepts=370,
        num_classes=60,
        class_pictures=2,
    ),
)

PLANTED = (
    Planted("truncated_picture", "emoji", 0, 0),
    Planted("truncated_picture", "line", 1, 1),
    Planted("empty_caption", "material", 0, 0),
    Planted("empty_caption", "flags", 1, 1),
    Planted("oversized_picture", "line", 0, 0),
    Planted("exact_duplicate", "emoji", 0, 0),
    Planted("exact_duplicate", "flags", 0, 0),
    Planted("exact_duplicate", "material", 1, 1),
    Planted("exact_duplicate", "line", 0, 0),
    Planted("exact_duplicate", "emoji", 0, 1),
    Planted("exact_duplicate", "flags", 1, 0),
    Planted("exact_duplicate", "material", 0, 1),
    Planted("exact_duplicate", "line", 1, 0),
    Planted("picture_duplicate", "emoji", 1, 1),
    Planted("picture_duplicate", "material", 1, 1),
    Planted("picture_duplicate", "flags", 0, 1),
    Planted("picture_duplicate", "line", 0, 1),
)
