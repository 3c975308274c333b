"""Pages of a study of the user's own code: what is unknown is left out, and what its script printed is shown."""

import sys
from pathlib import Path

import pytest
from dashboard_server import serving
from playwright.sync_api import Page, expect

from tuner.client import Client
from tuner.worker.agent.agent import Agent
from tuner.worker.scripts.command import words_of
from tuner.worker.scripts.place import Place, Terms

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SCRIPT = """
import sys, tuner
print("<b>printed</b> with depth", sys.argv[1])
for step in (1, 2, 3):
    tuner.report(step=step, loss=1 / step)
sys.exit(3 if tuner.trial().number == 1 else 0)
"""
DOCUMENT = {
    "name": "own-code",
    "workload": "external",
    "metric": "loss",
    "parameters": {"depth": {"min": 1, "max": 9, "integer": True}},
    "method": "random",
    "run_cap": 2,
    "retry": {"max": 0},
}


def test_a_study_of_own_code_and_its_trials(tmp_path: Path, page: Page) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    with serving(tmp_path / "server", "--no-worker") as url, Client(url) as client:
        client.submit(DOCUMENT)
        terms = Terms(
            words_of(f"{sys.executable} {tmp_path / 'script.py'} {{depth}}"), tmp_path, None, 1.0, lambda: "d"
        )
        assert Agent(client, [Place("cpu", terms, None)], name="scripts", study="own-code").run() == 0
        page.goto(f"{url}/studies/own-code")
        expect(page.locator("h1 .badge")).to_have_text("completed")
        expect(page.locator("table.trials tbody tr")).to_have_count(2)
        heads = page.locator("table.trials thead th").all_inner_texts()
        assert "depth" in heads and "lr" not in heads and "batch_size" not in heads
        expect(page.locator("pre", has_text="trained by your own code")).to_be_visible()
        assert "examples per trial" not in page.locator("main").inner_text()
        for number, state in ((0, "completed"), (1, "failed")):
            page.goto(f"{url}/studies/own-code/trials/{number}")
            expect(page.locator("h1 .badge")).to_have_text(state)
            expect(page.locator('pre[aria-label="Output"]')).to_contain_text("<b>printed</b> with depth")
            expect(page.locator('[data-metric="loss"] path.js-line')).to_have_count(1)
        expect(page.locator("pre.traceback").last).to_be_visible()
        assert "exit status 3" in page.locator("main").inner_text()
        page.goto("about:blank")  # before the server ends
