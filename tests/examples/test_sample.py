"""The committed sample keeps what its MANIFEST.json says, and the pure functions that made it keep their laws."""

import hashlib
import io
import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from examples.sample import icons, pictures, publish, recipe, shards, split
from examples.sample.publish import Concepts, Manifest

FOLDER = Path(icons.__file__).parent / "data"


@cache
def manifest() -> Manifest:
    read: Manifest = json.loads((FOLDER / "MANIFEST.json").read_text(encoding="utf-8"))
    return read


@cache
def concepts() -> Concepts:
    read: Concepts = json.loads((FOLDER / "concepts.json").read_text(encoding="utf-8"))
    return read


@cache
def members(path: str) -> list[tuple[str, bytes]]:
    """Return (name, content) of every member of one tar."""
    found = []
    with tarfile.open(FOLDER / path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None, member.name
            found.append((member.name, content.read()))
    return found


@cache
def pairs_of(split_name: str) -> dict[str, tuple[bytes, bytes]]:
    """Return {key: (png, caption)} of one split."""
    pairs = {}
    for shard in manifest()["shards"]:
        if shard["split"] == split_name:
            listed = members(shard["path"])
            for (png_name, png), (_, caption) in zip(listed[::2], listed[1::2], strict=True):
                pairs[png_name.removesuffix(".png")] = png, caption
    return pairs


@cache
def good_pictures(split_name: str) -> dict[str, npt.NDArray[np.uint8]]:
    """Return {key: pixels} of the rows that nobody planted."""
    damaged = manifest()["damaged"]
    return {key: pictures.pixels_of(png) for key, (png, _) in pairs_of(split_name).items() if key not in damaged}


def planted(kind: str) -> list[tuple[tuple[bytes, bytes], tuple[bytes, bytes]]]:
    """Return (planted pair, the pair that it was made from) for each row of a kind."""
    pool = pairs_of("pool")
    return [(pool[key], pool[damage["of"]]) for key, damage in manifest()["damaged"].items() if damage["kind"] == kind]


# What is on disk


def test_each_tar_is_the_one_in_the_manifest() -> None:
    for shard in manifest()["shards"]:
        content = (FOLDER / shard["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"], shard["path"]
        assert len(content) == shard["bytes"]
        assert len(members(shard["path"])) == 2 * shard["rows"]
    assert {path.name for path in FOLDER.glob("*.tar")} == {shard["path"] for shard in manifest()["shards"]}


def test_the_counts_are_the_sums_of_the_shards() -> None:
    assert publish.count_rows(manifest()["shards"]) == manifest()["counts"]
    total = {name: len(pairs_of(name)) for name in publish.SPLITS}
    assert total == {name: sum(count.values()) for name, count in manifest()["counts"].items()}
    assert total == {"clean": 1500, "pool": 3500 + len(recipe.PLANTED), "test": 1000}


def test_each_picture_stands_directly_before_its_caption_and_keys_are_unique() -> None:
    names = [name for shard in manifest()["shards"] for name, _ in members(shard["path"])]
    keys = [name.removesuffix(".png") for name in names[::2]]
    assert names == [f"{key}.{suffix}" for key in keys for suffix in ("png", "txt")]
    assert len(set(keys)) == len(keys)


def test_every_source_has_two_pool_shards_and_is_in_every_split() -> None:
    for source in ("emoji", "flags", "material", "line"):
        of_source = [shard["split"] for shard in manifest()["shards"] if shard["source"] == source]
        assert sorted(of_source) == ["clean", "pool", "pool", "test"]


def test_the_sample_stays_under_20_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20_000_000


def test_every_licence_is_permissive_and_credited() -> None:
    page = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for entry in manifest()["sets"]:
        assert entry["licence"] in recipe.PERMISSIVE_LICENCES, entry["set"]
        assert f"| `{entry['set']}` |" in page
        assert entry["author"] in page
    assert sum(entry["rows"] for entry in manifest()["sets"]) == sum(shard["rows"] for shard in manifest()["shards"])


# The good rows


def test_every_good_picture_has_32_pixels_a_side_and_is_not_blank() -> None:
    for name in publish.SPLITS:
        for key, pixels in good_pictures(name).items():
            assert pixels.shape == (32, 32, 3), key
            assert not pictures.is_blank(pixels), key


def test_no_good_caption_is_empty() -> None:
    damaged = manifest()["damaged"]
    for name in publish.SPLITS:
        assert all(caption for key, (_, caption) in pairs_of(name).items() if key not in damaged)


def test_no_picture_is_in_the_sample_twice_but_for_the_planted_ones() -> None:
    contents = [pixels.tobytes() for name in publish.SPLITS for pixels in good_pictures(name).values()]
    assert len(set(contents)) == len(contents)


def test_no_near_twins_are_in_two_splits() -> None:
    keys = [key for name in publish.SPLITS for key in good_pictures(name)]
    split_of = {key: name for name in publish.SPLITS for key in good_pictures(name)}
    thumbnails = [pictures.thumbnail(good_pictures(split_of[key])[key]) for key in keys]
    pairs = pictures.near_pairs(np.stack(thumbnails))
    assert [(keys[i], keys[j]) for i, j in pairs if split_of[keys[i]] != split_of[keys[j]]] == []


# Wrong captions and planted damage


def test_the_stated_share_of_captions_is_wrong() -> None:
    truth: dict[str, list[str]] = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))
    for source, fraction in manifest()["shuffled_fraction"].items():
        paths = [
            shard["path"] for shard in manifest()["shards"] if (shard["split"], shard["source"]) == ("pool", source)
        ]
        keys = {name.removesuffix(".png") for path in paths for name, _ in members(path)[::2]}
        good = keys - manifest()["damaged"].keys()
        wrong = {key for path in paths for key in truth[path]}
        assert wrong <= good
        assert len(wrong) == int(len(good) * fraction + 0.5)


def test_the_manifest_lists_every_planted_row_of_the_recipe() -> None:
    kinds = sorted(damage["kind"] for damage in manifest()["damaged"].values())
    assert kinds == sorted(row.kind for row in recipe.PLANTED)


def test_truncated_pictures_do_not_decode() -> None:
    assert len(planted("truncated_picture")) == 2
    for (png, _), (whole, _) in planted("truncated_picture"):
        assert whole.startswith(png)
        with pytest.raises(OSError, match="truncated"):
            pictures.pixels_of(png)


def test_empty_captions_have_no_bytes() -> None:
    assert [caption for (_, caption), _ in planted("empty_caption")] == [b"", b""]


def test_the_oversized_picture_is_large_in_pixels_and_small_in_bytes() -> None:
    [((png, _), _)] = planted("oversized_picture")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (5000, 5000)
        picture.load()
    assert len(png) < 50_000


def test_exact_duplicates_repeat_both_members_in_the_same_and_in_another_shard() -> None:
    assert len(planted("exact_duplicate")) == 8
    assert all(copy == original for copy, original in planted("exact_duplicate"))
    damaged = manifest()["damaged"]
    in_same_shard = {key[:2] == row["of"][:2] for key, row in damaged.items() if row["kind"] == "exact_duplicate"}
    assert in_same_shard == {True, False}


def test_picture_duplicates_repeat_the_picture_under_another_caption() -> None:
    assert len(planted("picture_duplicate")) == 4
    for (png, caption), (original_png, original_caption) in planted("picture_duplicate"):
        assert png == original_png
        assert caption not in (b"", original_caption)


# Zero-shot concepts


def test_each_class_has_test_pictures_and_words_that_the_clean_split_teaches() -> None:
    classes, class_of_key = concepts()["classes"], concepts()["class_of_key"]
    taught = {caption.decode() for _, caption in pairs_of("clean").values()}
    assert 50 <= len(classes) == len(set(classes)) <= 150
    assert set(classes) <= taught
    assert len(class_of_key) >= 300
    for index, name in enumerate(classes):
        keys = [key for key, of_key in class_of_key.items() if of_key == index]
        assert len(keys) >= 2, name
        assert {pairs_of("test")[key][1].decode() for key in keys} == {name}


# The pure functions


@pytest.mark.parametrize("seed", range(20))
def test_a_derangement_is_a_permutation_that_leaves_no_label_in_its_place(seed: int) -> None:
    labels = ["home", "home", "star", "heart", "home", "sun"]
    p = split.derangement(labels, np.random.default_rng(seed))
    assert sorted(p) == list(range(6))
    assert all(labels[p[i]] != labels[i] for i in range(6))


def test_a_derangement_of_two_swaps_them() -> None:
    assert split.derangement(["a", "b"], np.random.default_rng(0)) == [1, 0]


def test_a_label_on_more_than_half_of_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="2 equal labels of 3"):
        split.derangement(["a", "a", "b"], np.random.default_rng(0))


def test_turns_take_one_of_each_queue() -> None:
    assert split.in_turns({"a": [1, 2], "b": [3, 4, 5], "c": []}) == [1, 3, 2, 4, 5]


def test_allocation_gives_each_group_to_one_split_and_spares_concepts_of_other_tests() -> None:
    groups = [(set_name, concept) for set_name in ("x", "y", "z") for concept in ("home", "star", "sun")]
    made = split.allocate(
        groups,
        {"home"},
        class_pictures=2,
        clean_rows=3,
        test_rows=3,
        concepts_in_test={"sun"},
        generator=np.random.default_rng(0),
    )
    assert sorted(made.clean + made.test + made.pool) == sorted(groups)
    assert sorted(concept for _, concept in made.test) == ["home", "home", "star"]
    assert {concept for _, concept in made.clean} == {"home", "star", "sun"}


@pytest.mark.parametrize(
    ("source", "set_name", "name", "concept"),
    [
        ("material", "material-symbols", "home-outline-rounded", "home"),
        ("material", "fluent", "home-24-filled", "home"),
        ("material", "mdi", "traffic-light", "traffic light"),
        ("line", "ph", "house-line-duotone", "house line"),
        ("line", "tabler", "filled", ""),
        ("emoji", "noto", "red-heart", "red heart"),
        ("emoji", "noto", "waving-hand-light-skin-tone", ""),
        ("flags", "circle-flags", "de", "flag germany"),
        ("flags", "flag", "de-4x3", "flag germany"),
        ("flags", "emojione", "flag-for-germany", "flag germany"),
        ("flags", "flag", "de-1x1", ""),
        ("flags", "circle-flags", "klingon", ""),
    ],
)
def test_a_concept_is_the_name_without_its_noise(source: str, set_name: str, name: str, concept: str) -> None:
    assert icons.concept_of(source, set_name, name, countries={"de": "germany"}) == concept


def test_country_names_come_from_regional_indicators() -> None:
    emoji: icons.IconSet = {"chars": {"1f1e9-1f1ea": "flag-germany", "1f6a9": "triangular-flag", "2764": "red-heart"}}
    assert icons.country_names(emoji) == {"de": "germany"}


def test_the_later_of_two_twins_goes_and_variants_of_one_group_may_be_near() -> None:
    black_square = np.full((32, 32, 3), 255, np.uint8)
    black_square[8:24, 8:24] = 0
    nearly = black_square.copy()
    nearly[8, 8] = 255
    blank = np.full((32, 32, 3), 255, np.uint8)
    drawn = [black_square, nearly, nearly, black_square, blank]
    stays = pictures.distinct(drawn, [("x", "square"), ("x", "square"), ("y", "stop"), ("x", "square"), ("x", "void")])
    assert stays == [True, True, False, False, False]


def test_the_same_rows_make_the_same_tar() -> None:
    row = shards.Row(png=b"picture", caption="home", concept="home", set_name="mdi")
    shard = shards.Shard("pool", "material", index=1, number=9, rows=[row, row])
    assert shards.tar_bytes(shard) == shards.tar_bytes(shard)
    with tarfile.open(fileobj=io.BytesIO(shards.tar_bytes(shard))) as tar:
        assert tar.getnames() == ["090000.png", "090000.txt", "090001.png", "090001.txt"]
        assert {(member.mtime, member.uid, member.gid, member.mode) for member in tar} == {(0, 0, 0, 0o644)}


def test_an_unknown_kind_of_damage_is_refused() -> None:
    row = shards.Row(png=b"picture", caption="home", concept="home", set_name="mdi")
    with pytest.raises(ValueError, match="got melted"):
        shards.damaged("melted", row, other_caption="star")
