"""Text can be read in the light and in the dark."""

from __future__ import annotations

import re

from superbatch_server.service.dashboard.rendering import STATIC


def test_text_and_ground_have_enough_contrast() -> None:
    css = (STATIC / "dashboard.css").read_text()
    light, dark = (dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", part)) for part in css.split("@media", 2)[:2])
    for theme in (light, dark):
        for ink in ("ink", "quiet", "accent", "good", "bad", "warn"):
            for ground in ("page", "card"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        assert contrast(theme["bad"], theme["bad-ground"]) >= 4.5
        assert contrast(theme["quiet"], theme["bad-ground"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
