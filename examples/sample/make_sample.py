"""Make the committed sample from the npm package `@iconify/json`: about 6,000 picture-caption pairs in tar shards.

    python -m examples.sample.make_sample /tmp/iconify/package [OUTPUT]

The same package, the same resvg-py and the same numpy give byte-identical files. See README.md for what is in them.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from examples.sample import icons, pictures, publish, recipe, shards, split
from examples.sample.icons import Icon
from examples.sample.recipe import Source, Theme
from examples.sample.shards import Row, Shard
from examples.sample.split import Allocation, Group

OUTPUT = Path(__file__).parent / "data"
VARIANTS_PER_GROUP = 3
_CONCEPTS, _VARIANTS, _CLASSES, _ALLOCATION, _CAPTIONS, _PLANTED, _ORDER = range(7)

IconsByGroup = dict[Group, list[Icon]]
"""The plainest icon of each group first, then at most one other style."""


def generator(*position: int) -> np.random.Generator:
    """Return the generator of one step (and of one source in it)."""
    return np.random.default_rng(np.random.SeedSequence(recipe.SEED, spawn_key=position))


def variants(found: Iterable[Icon], chance: np.random.Generator) -> IconsByGroup:
    """Return for each group its shortest name, which is the best one, and one of its other styles."""
    groups: dict[Group, list[Icon]] = defaultdict(list)
    for icon in found:
        groups[icon.group].append(icon)
    chosen = {}
    for group, styles in sorted(groups.items()):
        plainest, *others = sorted(styles, key=lambda icon: (icon.name.count("-"), icon.name))
        chosen[group] = [plainest, *split.shuffled(others, chance)[: VARIANTS_PER_GROUP - 1]]
    return chosen


def most_drawn(groups: Iterable[Group], count: int, chance: np.random.Generator) -> set[str]:
    """Return the `count` concepts that the most sets draw; among equals, chance decides."""
    num_sets = Counter(concept for _, concept in groups)
    concepts = split.shuffled(sorted(num_sets), chance)
    return set(sorted(concepts, key=lambda concept: -num_sets[concept])[:count])


def read_theme(package: Path, theme: Theme, countries: dict[str, str], *, position: int) -> dict[str, IconsByGroup]:
    """Return the icons of the theme's chosen concepts by source and group."""
    found = {
        source.name: variants(
            (
                icon
                for set_name in source.sets
                for icon in icons.read_icons(package, source=source.name, set_name=set_name, countries=countries)
            ),
            generator(_VARIANTS, position, index),
        )
        for index, source in enumerate(theme.sources)
    }
    every = sorted(group for groups in found.values() for group in groups)
    wanted = most_drawn(every, theme.num_concepts, generator(_CONCEPTS, position))
    return {name: {group: own for group, own in groups.items() if group[1] in wanted} for name, groups in found.items()}


def render_distinct(found: dict[str, IconsByGroup]) -> tuple[dict[str, IconsByGroup], dict[Icon, bytes]]:
    """Return the icons without blank pictures and twins, by source and group, and the picture of each."""
    every = [(source, icon) for source, groups in found.items() for own in groups.values() for icon in own]
    drawn = [icons.render_png(icon.svg) for _, icon in every]
    stays = pictures.distinct([pictures.pixels_of(png) for png in drawn], [icon.group for _, icon in every])
    kept: dict[str, IconsByGroup] = {source: defaultdict(list) for source in found}
    png_of = {}
    for (source, icon), png, stay in zip(every, drawn, stays, strict=True):
        if stay:
            kept[source][icon.group].append(icon)
            png_of[icon] = png
    return kept, png_of


def choose_classes(theme: Theme, found: Mapping[str, IconsByGroup], chance: np.random.Generator) -> set[str]:
    """Return the zero-shot concepts of a theme: drawn often enough in each source to be tested and learned."""
    drawn = [Counter(concept for _, concept in found[source.name]) for source in theme.sources]
    fit = [concept for concept in sorted(drawn[0]) if all(count[concept] > theme.class_pictures for count in drawn)]
    ordered = sorted(split.shuffled(fit, chance), key=lambda concept: -sum(count[concept] for count in drawn))
    return set(ordered[: theme.num_classes])


def clean_rows(groups: Iterable[Group], found: IconsByGroup, png_of: Mapping[Icon, bytes]) -> list[Row]:
    """Return one row per group, its plainest drawing under the cleaned caption."""
    chosen = [found[group][0] for group in groups]
    return [Row(png_of[icon], icon.concept, icon.concept, icon.set_name) for icon in chosen]


def noisy_rows(groups: Iterable[Group], found: IconsByGroup, png_of: Mapping[Icon, bytes]) -> list[Row]:
    """Return all drawings of the groups under their natural captions; every group's plainest drawing comes first."""
    chosen = split.in_turns({group: found[group] for group in groups})
    return [Row(png_of[icon], icon.natural_caption, icon.concept, icon.set_name) for icon in chosen]


def with_wrong_captions(rows: list[Row], fraction: float, chance: np.random.Generator) -> list[Row]:
    """Return the rows in random order, the captions of the first `fraction` of them dealt anew among these."""
    ordered = split.shuffled(rows, chance)
    count = int(len(ordered) * fraction + 0.5)
    wrong, right = ordered[:count], ordered[count:]
    p = split.derangement([row.concept for row in wrong], chance)
    return [replace(row, caption=wrong[p[i]].caption, shuffled=True) for i, row in enumerate(wrong)] + right


def cut(split_name: str, source: Source, rows: list[Row], num_shards: int) -> list[Shard]:
    """Return the rows in shards of equal size (the first ones hold one more where that does not divide)."""
    return [Shard(split_name, source.name, index, 0, rows[index::num_shards]) for index in range(num_shards)]


def plant(pool: list[Shard], chance: np.random.Generator) -> None:
    """Add the damaged rows of the recipe to the pool, each made from another good, rightly captioned row."""
    by_place = {(shard.source, shard.index): shard for shard in pool}
    good = {
        place: split.shuffled([row for row in shard.rows if not row.shuffled], chance)
        for place, shard in by_place.items()
    }
    for planted in recipe.PLANTED:
        candidates = good[planted.source, planted.from_shard]
        original = candidates.pop()
        other = next(row for row in candidates if row.concept != original.concept)
        extra = shards.damaged(planted.kind, original, other_caption=other.caption)
        by_place[planted.source, planted.to_shard].rows.append(extra)


def read_all(package: Path) -> dict[str, IconsByGroup]:
    """Return the icons of all themes by source and group, twins included."""
    countries = icons.country_names(icons.load_set(package, recipe.NAMED_FLAGS_SET))
    found: dict[str, IconsByGroup] = {}
    for position, theme in enumerate(recipe.THEMES):
        found |= read_theme(package, theme, countries, position=position)
    return found


def allocate_all(found: Mapping[str, IconsByGroup]) -> dict[Source, Allocation]:
    """Return the groups of every source by split."""
    allocations: dict[Source, Allocation] = {}
    for theme_position, theme in enumerate(recipe.THEMES):
        classes = choose_classes(theme, found, generator(_CLASSES, theme_position))
        for position, source in enumerate(theme.sources):
            allocations[source] = split.allocate(
                found[source.name],
                classes,
                class_pictures=theme.class_pictures,
                clean_rows=source.clean_rows,
                test_rows=source.test_rows,
                concepts_in_test={concept for other in allocations.values() for _, concept in other.test},
                generator=generator(_ALLOCATION, theme_position, position),
            )
    return allocations


def pool_rows(
    source: Source, groups: list[Group], found: IconsByGroup, png_of: Mapping[Icon, bytes], *, position: int
) -> list[Row]:
    """Return the pool of one source, its share of wrong captions included."""
    rows = noisy_rows(groups, found, png_of)
    if len(rows) < source.pool_rows:
        raise ValueError(
            f"the pool of {source.name} needs {source.pool_rows} rows; got {len(rows)}. Raise num_concepts."
        )
    return with_wrong_captions(rows[: source.pool_rows], source.shuffled_fraction, generator(_CAPTIONS, position))


def make_shards(package: Path) -> list[Shard]:
    """Return all shards of the sample: clean, pool, test."""
    found, png_of = render_distinct(read_all(package))
    clean, pool, test = [], [], []
    for position, (source, groups) in enumerate(allocate_all(found).items()):
        own = found[source.name]
        rows = pool_rows(source, groups.pool, own, png_of, position=position)
        clean += cut("clean", source, clean_rows(groups.clean, own, png_of), 1)
        pool += cut("pool", source, rows, source.pool_shards)
        test += cut("test", source, clean_rows(groups.test, own, png_of), 1)
    plant(pool, generator(_PLANTED))
    return [
        replace(shard, number=number, rows=split.shuffled(shard.rows, generator(_ORDER, number)))
        for number, shard in enumerate(clean + pool + test)
    ]


def main() -> None:
    """Read the command line, make the sample, write it."""
    parser = argparse.ArgumentParser(description="Make the committed sample from the unpacked package @iconify/json.")
    parser.add_argument("package", type=Path, help="folder of the unpacked package (the one with collections.json)")
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT, help="folder for the tars and their manifest")
    arguments = parser.parse_args()
    made = make_shards(arguments.package)
    size_bytes = publish.write(made, package=arguments.package, output=arguments.output)
    print(f"{sum(len(shard.rows) for shard in made)} rows, {len(made)} shards, {size_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
