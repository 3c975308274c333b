"""Text files and pipes are UTF-8 whatever the machine's locale is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import tuner

ROOT = Path(tuner.__file__).parent.parent
PROCESSES = {"Popen", "run", "check_output"}
TEXT = {"open", "fdopen", "read_text", "write_text", "TemporaryFile", "NamedTemporaryFile", *PROCESSES}
MODULES = {"os", "io", "Image", "webbrowser", "asyncio", "fsspec", "tokenize", "checkpoint"}


def test_no_code_of_ours_reads_or_writes_text_in_the_encoding_of_the_locale() -> None:
    files = [path for package in ("tuner", "storage", "api") for path in (ROOT / package).rglob("*.py")]
    found = [f"{path}:{line}" for path in files for line in _unspecified(ast.parse(path.read_text(encoding="utf-8")))]
    assert found == []
    assert list(_unspecified(ast.parse("open(p)\np.read_text()\nrun(c, text=True)\nopen(p, 'rb')"))) == [1, 2, 3]


def _unspecified(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_unspecified(node)]


def _is_unspecified(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if name not in TEXT or "encoding" in given:
        return False
    if name in PROCESSES:
        return bool({"text", "universal_newlines"} & set(given))
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if isinstance(function, ast.Attribute) and name == "open":
        owner = getattr(function.value, "id", "")
        if owner in MODULES or not (call.args or given):
            return False  # os.open gives a descriptor; methods named open of our own take no mode
    mode = given.get("mode") or next((a for a in call.args[:2] if isinstance(a, ast.Constant)), None)
    if name in ("TemporaryFile", "NamedTemporaryFile"):
        return isinstance(mode, ast.Constant) and "b" not in str(mode.value)
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


def test_the_shell_and_the_catalogue_are_read_where_the_locale_is_ascii() -> None:
    code = "from api.routes.dashboard import page; from tuner.study.catalogue import load_catalogue\n"
    code += "import locale; assert locale.getencoding() != 'UTF-8'; page(200, \"\"); load_catalogue()"
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **ascii_only}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
