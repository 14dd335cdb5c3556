"""Icons of the unpacked npm package `@iconify/json`: what they are called, and how they look at 32 pixels.

An icon's *name* is what its author wrote ("home-outline", "de-4x3"). Its *concept* is what a careful person would have
written under the picture ("home", "flag germany"): words in lower case, without style words and digits. All icons of
one set with one concept form a *group*; a group never lands in two splits.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import resvg_py

SIDE_PX = 32
MAX_CONCEPT_WORDS = 3

STYLE_WORDS: dict[str, frozenset[str]] = {
    "material-symbols": frozenset({"outline", "rounded", "sharp"}),
    "mdi": frozenset({"outline", "variant", "bold", "thick", "thin", "box"}),
    "fluent": frozenset({"filled", "regular", "light"}),
    "ri": frozenset({"line", "fill"}),
    "mingcute": frozenset({"line", "fill"}),
    "tabler": frozenset({"filled"}),
    "lucide": frozenset(),
    "ph": frozenset({"bold", "duotone", "fill", "light", "thin"}),
    "iconoir": frozenset({"solid"}),
    "bi": frozenset({"fill"}),
    "carbon": frozenset({"filled", "outline", "alt"}),
}
"""Words that name a drawing style, per interface set; they are noise at the end of a name only ("traffic-light")."""

UNWANTED_EMOJI_WORDS = frozenset(
    {"skin", "tone", "man", "woman", "men", "women", "person", "people", "family", "flag", "oclock", "thirty", "letter"}
)
"""At 32 px people and clock faces differ by a few pixels, and skin tones are five near-twins each."""


class Licence(TypedDict):
    """A set's licence; some sets give no address of its text."""

    title: str
    spdx: str
    url: NotRequired[str]


class Author(TypedDict):
    """Who drew a set, and where it lives."""

    name: str
    url: str


class SetInfo(TypedDict):
    """What a set says about itself."""

    name: str
    author: Author
    license: Licence


class Drawing(TypedDict, total=False):
    """One icon's inner SVG and its view box, where that differs from the set's."""

    body: str
    left: float
    top: float
    width: float
    height: float


class IconSet(TypedDict, total=False):
    """The part of one set's file that we read; sizes are the default of its drawings."""

    info: SetInfo
    icons: dict[str, Drawing]
    chars: dict[str, str]
    width: float
    height: float


@dataclass(frozen=True)
class Icon:
    """One drawing of one set; `name` as its author wrote it, `concept` cleaned."""

    set_name: str
    name: str
    concept: str
    svg: str

    @property
    def group(self) -> tuple[str, str]:
        """Return the identity that all style variants of this icon share."""
        return self.set_name, self.concept

    @property
    def natural_caption(self) -> str:
        """Return the name as its author left it, with spaces for dashes."""
        return self.name.replace("-", " ")


def load_set(package: Path, set_name: str) -> IconSet:
    """Read one icon set of the unpacked package."""
    loaded: IconSet = json.loads((package / "json" / f"{set_name}.json").read_text(encoding="utf-8"))
    return loaded


def package_version(package: Path) -> str:
    """Return the version written in the package itself."""
    return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])


def country_names(emoji: IconSet) -> dict[str, str]:
    """Return {"de": "germany", ...}, read from the code points of a set whose flags have names.

    A flag emoji is two regional indicators, U+1F1E6 for "a" to U+1F1FF for "z".
    """
    names = {}
    for code_points, name in emoji["chars"].items():
        points = [int(point, 16) - 0x1F1E6 for point in code_points.split("-")]
        if name.startswith("flag-") and len(points) == 2 and all(0 <= point < 26 for point in points):
            code = "".join(chr(ord("a") + point) for point in points)
            names[code] = name.removeprefix("flag-").replace("-", " ")
    return names


def interface_concept(set_name: str, name: str) -> str:
    """Return an interface icon's name without digits and without the style words at its end; "" if nothing is left."""
    words = [word for word in name.split("-") if word.isalpha()]
    while words and words[-1] in STYLE_WORDS[set_name]:
        words.pop()
    return " ".join(words)


def emoji_concept(name: str) -> str:
    """Return an emoji's name (the Unicode label) in words; "" for people, skin tones, flags and names with digits."""
    words = name.split("-")
    wanted = all(word.isalpha() for word in words) and UNWANTED_EMOJI_WORDS.isdisjoint(words)
    return " ".join(words) if wanted else ""


def flag_concept(name: str, *, countries: dict[str, str]) -> str:
    """Return "flag <country>" for "de", "de-4x3", "flag-germany" or "flag-for-germany"; "" for what is no country."""
    by_name = name.removeprefix("flag-for-").removeprefix("flag-").replace("-", " ")
    by_code = countries.get(name.removesuffix("-4x3"), "")
    country = by_name if by_name in countries.values() else by_code
    return f"flag {country}" if country else ""


def concept_of(source: str, set_name: str, name: str, *, countries: dict[str, str]) -> str:
    """Return the concept of a name under the rule of its source; "" for an icon that the sample leaves out."""
    if source == "flags":
        return flag_concept(name, countries=countries)
    concept = emoji_concept(name) if source == "emoji" else interface_concept(set_name, name)
    return concept if len(concept.split()) <= MAX_CONCEPT_WORDS else ""


def svg_of(drawing: Drawing, icon_set: IconSet) -> str:
    """Return one icon as a stand-alone SVG document; its own colour, or black."""
    width = drawing.get("width", icon_set.get("width", 16))
    height = drawing.get("height", icon_set.get("height", 16))
    view_box = f"{drawing.get('left', 0)} {drawing.get('top', 0)} {width} {height}"
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f'width="{SIDE_PX}" height="{SIDE_PX}"'
    return f'<svg {names} {size} viewBox="{view_box}" color="#000">{drawing["body"]}</svg>'


def read_icons(package: Path, *, source: str, set_name: str, countries: dict[str, str]) -> Iterator[Icon]:
    """Yield the icons of one set that have a concept, sorted by name."""
    icon_set = load_set(package, set_name)
    for name, drawing in sorted(icon_set["icons"].items()):
        concept = concept_of(source, set_name, name, countries=countries)
        if concept:
            yield Icon(set_name=set_name, name=name, concept=concept, svg=svg_of(drawing, icon_set))


def render_png(svg: str) -> bytes:
    """Return the SVG drawn on white as a 32 x 32 PNG; the bytes depend on the version of resvg-py only."""
    rendered = resvg_py.svg_to_bytes(
        svg_string=svg, width=SIDE_PX, height=SIDE_PX, background="#ffffff", skip_system_fonts=True
    )
    return bytes(rendered)
