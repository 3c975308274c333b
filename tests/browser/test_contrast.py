"""Text and controls are told from their background by readers with low vision: WCAG 2.2 AA, in both themes."""

import re
from pathlib import Path

import pytest

from api.figures import theme

CSS = (Path(theme.__file__).parents[1] / "static" / "css" / "app.css").read_text(encoding="utf-8")
ROOTS = re.findall(r":root \{(.*?)\}", CSS, re.S)
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in ROOTS)
TEXT, CONTROL = 4.5, 3.0
Colour = tuple[float, float, float]


def rgb(text: str) -> Colour:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def mixed(colour: Colour, below: Colour, share: float) -> Colour:
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(colour, below, strict=True))
    return red, green, blue


def contrast(a: Colour, b: Colour) -> float:
    def luminance(colour: Colour) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, LIGHT | DARK], ids=["light", "dark"])
def test_text_badges_and_controls_are_seen(colours: dict[str, str]) -> None:
    share = int(re.search(r"\.badge \{.*?var\(--tone\) (\d+)%", CSS, re.S)[1]) / 100  # type: ignore[index]
    hover = int(re.search(r"tbody tr:hover \{.*?var\(--soft\) (\d+)%", CSS)[1]) / 100  # type: ignore[index]
    for ground in (rgb(colours["card"]), rgb(colours["page"])):
        hovered = mixed(rgb(colours["soft"]), ground, hover)
        for tone in ("run", "good", "warn", "bad", "muted"):
            ink = rgb(colours[tone])
            for below in (ground, hovered):
                assert contrast(ink, below) >= TEXT, tone
                assert contrast(ink, mixed(ink, below, share)) >= TEXT, f"badge {tone}"
        for name in ("text", "accent"):
            assert contrast(rgb(colours[name]), ground) >= TEXT, name
        assert contrast(rgb(colours["control"]), ground) >= CONTROL
    assert contrast(rgb(colours["accent-text"]), rgb(colours["accent"])) >= TEXT
    assert contrast(rgb(colours["page"]), rgb(colours["warn"])) >= TEXT, "banner"
    assert re.search(r"button, select, input \{[^}]*border: 1px solid var\(--control\)", CSS)
    assert "opacity" not in re.search(r"\.seg\.state-running \{([^}]*)\}", CSS)[1]  # type: ignore[index]
