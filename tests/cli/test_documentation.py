"""What the documentation prints runs as printed: Python is executed, studies are checked, commands are parsed."""

import re
import shlex
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
import yaml
from fake_server import FakeServer, answer, study, trial
from study_documents import study_document
from torch import nn

import tuner
from tuner import workloads
from tuner.cli import app
from tuner.client import Client
from tuner.document import parse_document
from tuner.engine import Ended, Row, Stack, TrialSpec
from tuner.study.catalogue import BUILT_IN_WORKLOADS, load_catalogue
from tuner.study.check import parse_study
from tuner.workloads.registry import _factories

ROOT = Path(tuner.__file__).parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    for file in FILES:
        for language, text in FENCE.findall(file.read_text(encoding="utf-8")):
            if language in languages:
                yield file.name, text


def of(name: str, language: str) -> list[str]:
    return [text for file, text in blocks(language) if file == name]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(_factories)
    yield
    _factories.clear()
    _factories.update(before)


def test_every_python_block_is_run_by_a_test_of_this_file() -> None:
    elsewhere = {"own-loop.md"}  # tests/ask/test_guide.py
    assert {file for file, _ in blocks("python", "py")} - elsewhere == {"README.md", "optimizers.md", "workloads.md"}


def test_the_readme_submits_watches_and_prints_the_snippet(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = of("README.md", "python")
    server.set("/api/v1/studies", answer(study(name="mine", state="running"), 201), "POST")
    server.set("/api/v1/studies/mine", answer(study(name="mine")))
    best = {"trial": trial(), "grade": "D", "interval": None, "evidence": "one seed", "snippet": "import torch"}
    server.set("/api/v1/studies/mine/best", answer(best))
    monkeypatch.setattr(tuner, "Client", lambda url: Client(server.url), raising=False)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "{'completed': 62, 'infeasible': 2}\nimport torch\n"
    document = parse_study(eval(re.search(r"submit\((\{.*\})\)", code)[1]), load_catalogue(), BUILT_IN_WORKLOADS)  # type: ignore[index]
    assert document.run_cap == 32


def test_the_guide_to_optimizers_steps_a_model() -> None:
    model = nn.Sequential(OrderedDict(body=nn.Linear(3, 3), head=nn.Linear(3, 2)))
    scope: dict[str, Any] = {"model": model, "loss_of": nn.MSELoss(), "data": [(torch.ones(4, 3), torch.zeros(4, 2))]}
    before = model.body.weight.detach().clone()
    for code in of("optimizers.md", "python"):
        exec(compile(code, "optimizers.md", "exec"), scope)
    assert not torch.equal(model.body.weight, before)
    assert len(scope["optimizer"].param_groups) == 4


def test_the_guide_to_workloads_registers_tasks_that_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train, valid = torch.randn(48, 20, generator=torch.Generator().manual_seed(0)).split(40)
    torch.save((train, torch.arange(40) % 4, valid, torch.arange(8) % 4), "data.pt")
    (np.arange(24) % 10).astype(np.uint8).tofile("labels.u8")
    np.zeros(24 * 3 * 64 * 64, np.uint8).tofile("images.u8")
    before = set(_factories)
    for code in of("workloads.md", "python"):
        exec(compile(code, "workloads.md", "exec"), {"__name__": "guide"})
    parameters: dict[str, dict[str, Any]] = {
        "my-network": {"hidden": 8},
        "photographs": {},
        "table": {},
        "tokens": {},
        "lora": {},
        "forecast": {"hidden": 4},
        "autoencoder": {},
        "many-images": {"directory": ".", "valid": 8},
        "my-values": {"dropout": 0.5, "smoothing": 0.1},
        "mixed-digits": {},
        "letters": {},
        "sentences": {},
    }
    assert set(_factories) - before == set(parameters)
    slot_by_slot = {"forecast"}
    for name, given in parameters.items():
        stack = Stack(workloads.load(name, given), width=2, micro_batch=8)
        assert stack.path == ("loop" if name in slot_by_slot else "eager"), name
        for key in range(2):
            params = {"optimizer": "adamw", "lr": 0.01, "batch_size": 8}
            stack.admit(TrialSpec(key, params, seed=key, examples=400, report_every=8))
        rows: list[Row] = []
        while stack.busy:
            for event in stack.tick():
                assert not isinstance(event, Ended) or event.outcome == "finished", (name, event)
                rows += [event] if isinstance(event, Row) else []
        stack.close()
        losses = [row.metrics["train_loss"] for row in rows if row.key == 0]
        assert sum(losses[-5:]) < sum(losses[:5]), name
        assert all(np.isfinite(value) for value in rows[-1].metrics.values()), name
    assert len(Stack(workloads.load("lora", {}), width=2, micro_batch=4)._architecture.shared.tensors) == 4
    assert Stack(workloads.load("my-values", {}, ["dropout", "smoothing"]), width=2, micro_batch=4).path == "eager"


def test_every_study_that_the_documentation_shows_is_accepted() -> None:
    known = {*BUILT_IN_WORKLOADS, "my-network"}
    seen = 0
    for file, text in blocks("yaml"):
        if "scrape_configs" in text:
            assert yaml.safe_load(text)
            continue
        values = {"budget": {"examples_per_trial": 20_000}, **parse_document(text, file).values}
        parse_study(study_document(**values), load_catalogue(), known)
        seen += 1
    assert seen >= 4


def test_the_study_that_the_empty_page_shows_is_accepted() -> None:
    source = (ROOT / "api/static/js/views/studies.js").read_text(encoding="utf-8")
    lines = re.search(r"const example = \[(.*?)\]\.join", source, re.DOTALL)
    assert lines is not None
    text = "\n".join(re.findall(r'"(.*)"', lines[1]))
    assert parse_study(parse_document(text, "page").values, load_catalogue(), BUILT_IN_WORKLOADS).name == "first"


def test_every_command_that_the_documentation_shows_exists_with_its_options() -> None:
    group: Any = typer.main.get_command(app)
    seen = 0
    texts = [text for _, text in blocks("")] + [
        code for file in FILES for code in re.findall(r"`(tuner [a-z]+ [^`]*)`", file.read_text(encoding="utf-8"))
    ]
    for line in "\n".join(texts).splitlines():
        if not re.match(r"([A-Z_]+=\S+ )*(\.venv/bin/)?tuner ", line):
            continue
        words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
        name, arguments = words[1], words[2:]
        if arguments or name in ("serve", "demo"):
            given = ["0" if word == "N" else word for word in arguments if word not in ("...", "--help")]
            group.commands[name].make_context(name, given)
            seen += 1
    assert seen >= 12


def test_a_download_with_curl_fails_where_there_is_nothing() -> None:
    lines = [line for _, text in blocks("") for line in text.splitlines() if line.startswith("curl")]
    assert lines and all("-f" in shlex.split(line)[1] for line in lines)
