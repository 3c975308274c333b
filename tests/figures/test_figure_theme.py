"""Colours: fixed per optimizer, the same in figures and pages, readable on both backgrounds."""

import json
import re
from pathlib import Path

import pytest

from api.figures import theme
from tuner.study.catalogue import load_catalogue

PALETTE = Path(theme.__file__).parents[1] / "static" / "js" / "palette.js"
LIGHT, PAGE, DARK = "#ffffff", "#f5f6f8", "#171b21"


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    linear = []
    for i in (1, 3, 5):
        c = int(colour[i : i + 2], 16) / 255
        linear.append(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [*theme.COLOURS.values(), *theme.OTHER_COLOURS, theme.BAD])
def test_a_mark_is_seen_on_both_pages(colour: str) -> None:
    assert min(contrast(colour, LIGHT), contrast(colour, PAGE), contrast(colour, DARK)) >= 3


def test_neutral_text_is_read_on_both_pages() -> None:
    assert min(contrast(theme.INK, LIGHT), contrast(theme.INK, DARK)) >= 4


def test_pages_and_figures_have_the_same_colours() -> None:
    source = PALETTE.read_text()
    table = dict(re.findall(r'^  (\w+): "(#[0-9a-f]{6})",$', source, flags=re.M))
    others = json.loads(re.search(r"OTHER_COLOURS = (\[.*\]);", source)[1])  # type: ignore[index]
    assert table == theme.COLOURS
    assert tuple(others) == theme.OTHER_COLOURS


def test_every_optimizer_has_its_own_colour_and_symbol() -> None:
    names = list(load_catalogue().optimizers)
    marks = [(theme.colour(name), theme.symbol(name)) for name in names]
    assert len(set(marks)) == len(marks), dict(zip(names, marks, strict=True))
    assert theme.colour("an-optimizer-of-tomorrow") in theme.OTHER_COLOURS
