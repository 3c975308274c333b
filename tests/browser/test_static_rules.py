"""The rules that keep the pages safe and simple to change, checked on their sources."""

import re
from pathlib import Path

import pytest

from api.figures import theme

STATIC = Path(theme.__file__).parents[1] / "static"
SCRIPTS = sorted((STATIC / "js").rglob("*.js"))
NAMES = [str(path.relative_to(STATIC)) for path in SCRIPTS]


def code_of(path: Path) -> str:
    """Return a module without its comments."""
    return re.sub(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", "", path.read_text(), flags=re.S)


def test_the_shell_has_two_scripts_and_no_inline_code() -> None:
    shell = (STATIC / "index.html").read_text()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", shell, flags=re.S)
    assert [body for _, body in scripts] == ["", ""]
    assert [re.search(r'src="([^"]+)"', tag)[1] for tag, _ in scripts] == [  # type: ignore[index]
        "ROOT/static/plotly-VERSION.min.js",  # the server puts in its path and the installed version
        "ROOT/static/js/main.js",
    ]
    assert not re.search(r'\son\w+=|<style|style="|javascript:|//[a-z]', shell)


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_text_enters_as_text_and_nothing_is_evaluated(path: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|localStorage"
    assert not re.search(forbidden, code_of(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_one_module_talks_to_the_server_and_one_to_plotly(path: Path) -> None:
    code = code_of(path)
    assert bool(re.search(r"\bfetch\(|new EventSource|XMLHttpRequest|sendBeacon", code)) == (path.name == "api.js")
    assert ("Plotly" in code) == (path.name == "plot.js")


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_a_module_says_what_it_is_for_and_stays_short(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("/**\n * ")
    assert text.count("\n") <= 250
