"""What the guide shows of REST runs as printed, by curl, against a live server."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import LiveServer

import tuner
from tuner.document import parse_document

GUIDE = Path(tuner.__path__[0]).parent / "docs" / "own-loop.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_its_commands_train_a_trial(live_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    server = live_server("--no-worker")
    (document,) = [text for language, text in BLOCKS if language == "yaml"]
    server.submit(parse_document(document, "own-loop.md").values)
    (script,) = [text for language, text in BLOCKS if language == "sh"]
    path = tmp_path / "guide.sh"
    path.write_text(script.replace("http://127.0.0.1:8700", server.url))
    said = subprocess.run(["sh", "-eu", str(path)], capture_output=True, text=True, timeout=100, check=False)
    assert said.returncode == 0, said.stderr
    params, stop, state = said.stdout.splitlines()
    trial = server.get("/studies/own/trials/0")
    assert eval(params) == trial["params"] and (stop, state) == ("[]", "running")
    assert (trial["state"], trial["value"], trial["step"], trial["examples"]) == ("completed", 0.25, 1, 32)
    assert server.get("/studies/own/trials/0/curve")["value"] == [0.5]
