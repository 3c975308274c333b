"""The dashboard as a user sees it, while a real study is trained and afterwards."""

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from api.figures import FIGURES

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PATIENT_MS = 90_000

# Where each figure draws its data: marks, or lines.
MARKS = {
    "curves": ".scatterlayer path.js-line",
    "loss_vs_lr": ".scatterlayer path.point",
    "lr_batch": ".scatterlayer path.point",
    "progress": ".scatterlayer path.point",
    "noise": ".scatterlayer path",
    "batch_advice": ".scatterlayer path.js-line",
}


@pytest.fixture(scope="module")
def finished(submit, browser: Browser) -> str:  # type: ignore[no-untyped-def]
    """The page of a study that has completed."""
    address: str = submit("finished")
    page = browser.new_page()
    page.goto(address)
    expect(page.locator("h1 .badge")).to_have_text("completed", timeout=PATIENT_MS)
    page.close()
    return address


def fact(page: Page, name: str) -> Locator:
    return page.locator(f'[data-fact="{name}"] dd')


def test_progress_moves_without_a_reload(page: Page, submit) -> None:  # type: ignore[no-untyped-def]
    page.goto(submit("live", run_cap=6, parallel=2, budget={"examples_per_trial": 1500}))
    page.evaluate("window.sameDocument = true")
    expect(page.locator("h1 .badge")).to_have_text("running")
    seen = []
    for _ in range(2):
        seen.append(fact(page, "finished").inner_text())
        expect(fact(page, "finished")).not_to_have_text(seen[-1], timeout=PATIENT_MS)
    expect(page.locator("h1 .badge")).to_have_text("completed", timeout=PATIENT_MS)
    expect(fact(page, "finished")).to_have_text("6 / 6")
    expect(fact(page, "slots used")).to_have_text(re.compile(r"^(100|[1-9]?\d) %$"))
    expect(page.locator(".headline .value")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("table.trials tbody tr")).to_have_count(6)
    assert page.evaluate("window.sameDocument")


def test_every_figure_draws_its_data(page: Page, finished: str) -> None:
    page.goto(finished)
    assert set(MARKS) == set(FIGURES)
    for name, marks in MARKS.items():
        plot = page.locator(f'[data-figure="{name}"]')
        plot.scroll_into_view_if_needed()
        expect(plot.locator(marks).first).to_be_attached()
        assert plot.locator(marks).count() > 0
    for name in ("progress", "lr_batch"):
        expect(page.locator(f'[data-figure="{name}"] {MARKS[name]}')).to_have_count(8)


def test_a_mark_leads_to_its_trial(page: Page, finished: str) -> None:
    page.goto(finished)
    expect(page.locator(".advice")).to_be_visible()  # it takes its height before anything below is aimed at
    plot = page.locator('[data-figure="lr_batch"]')
    plot.scroll_into_view_if_needed()
    mark = plot.locator("path.point").first
    mark.hover(force=True)  # Plotly's own layer lies above its marks
    expect(plot.locator(".hoverlayer .hovertext")).to_contain_text("trial")
    mark.click(force=True)
    expect(page.locator("h1")).to_contain_text("Trial ")
    assert re.search(r"/studies/finished/trials/\d+$", page.url)


def test_the_results_are_shown(page: Page, finished: str) -> None:
    page.goto(finished)
    expect(page.locator(".snippet pre")).to_contain_text("total_steps = ")
    rows = page.locator("table.leaderboard tbody tr")
    expect(rows).to_have_count(3)
    assert sorted(rows.locator(".optimizer").all_inner_texts()) == ["adamw", "muon", "sgd"]
    advice = page.locator(".advice > details")
    expect(advice).to_have_count(3)
    expect(advice.first.locator(".grade")).to_have_text(re.compile("grade"))
    expect(advice.first).to_contain_text("Next experiment")


def test_trials_are_sorted_filtered_and_linked(page: Page, finished: str) -> None:
    page.goto(finished)
    numbers = page.locator("table.trials tbody th")
    expect(page.locator("table.trials th[aria-sort=descending]")).to_contain_text("Ended")
    page.get_by_role("button", name="Trial").click()
    expect(numbers).to_have_text([str(n) for n in range(8)])
    page.get_by_role("button", name="valid_loss").click()
    expect(page.locator("table.trials th[aria-sort=ascending]")).to_contain_text("valid_loss")
    expect(numbers).not_to_have_text([str(n) for n in range(8)])
    values = [float(t) for t in page.locator("table.trials tbody td:nth-child(4)").all_inner_texts() if t[0].isdigit()]
    assert len(values) > 1 and values == sorted(values)
    page.get_by_label("Show").select_option("running")
    expect(page.locator("table.trials tbody")).to_have_text("No trials.")
    page.get_by_label("Show").select_option("completed")
    expect(numbers).to_have_count(len(values))
    numbers.first.get_by_role("link").click()
    expect(page.locator("h1")).to_contain_text("Trial ")


def test_a_trial_shows_its_configuration_and_curves(page: Page, finished: str) -> None:
    page.goto(f"{finished}/trials/0")
    expect(page.locator("h1")).to_contain_text("Trial 0")
    program = page.locator("dl.pairs div", has_text="program").locator("dd span")
    expect(program).to_have_text(re.compile(r"^[0-9a-f]{12}$"))
    expect(program).to_have_attribute("title", re.compile(r"^path: eager$", re.MULTILINE))
    expect(page.locator(".settings dt").first).to_have_text("lr")
    expect(page.locator('[data-metric="valid_loss"] path.js-line')).to_have_count(1)
    assert page.locator("[data-metric]").count() >= 2
    page.get_by_role("link", name="next").click()
    expect(page.locator("h1")).to_contain_text("Trial 1")
    page.go_back()
    expect(page.locator("h1")).to_contain_text("Trial 0")
    page.get_by_role("link", name="finished").click()
    expect(page.locator("h1")).to_contain_text("finished")


def test_the_list_and_the_workers(page: Page, finished: str, url: str) -> None:
    page.goto(url)
    row = page.locator("table.studies tbody tr", has=page.get_by_role("link", name="finished"))
    expect(row.locator(".badge")).to_have_text("completed")
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "8")
    page.get_by_role("link", name="Workers").click()
    worker = page.locator("table.workers tbody tr")
    expect(worker).to_have_count(1)
    expect(worker.locator(".badge")).to_have_text(re.compile("busy|idle"))
    expect(worker).to_contain_text("digits-mlp")


def test_stopping_and_deleting_ask_first(page: Page, submit, url: str) -> None:  # type: ignore[no-untyped-def]
    page.goto(submit("endless", run_cap=50, parallel=2, budget={"examples_per_trial": 2_000_000}))
    expect(fact(page, "running")).to_have_text(re.compile("[1-9]"), timeout=PATIENT_MS)
    trial = page.locator("table.trials tbody tr", has=page.get_by_text("running")).locator("th a").first
    trial.click()
    page.locator(".heading").get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop trial").click()
    expect(page.locator("h1 .badge")).to_have_text("cancelled", timeout=PATIENT_MS)
    page.go_back()

    page.locator(".heading").get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("h1 .badge")).to_have_text("running")
    page.locator(".heading").get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop study").click()
    expect(page.locator("h1 .badge")).to_have_text("stopped")
    expect(fact(page, "running")).to_have_text("0", timeout=PATIENT_MS)

    page.locator(".heading").get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete study").click()
    expect(page.locator("h1")).to_have_text("Studies")
    assert page.url.rstrip("/") == url
    expect(page.get_by_role("link", name="endless")).to_have_count(0)


def test_it_fits_a_phone_by_day_and_night(browser: Browser, finished: str, url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    for address in (url, f"{url}/workers", f"{finished}/trials/0", finished):
        page.goto(address)
        expect(page.locator("h1")).not_to_be_empty()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
    for scheme, ink in (("light", "rgb(89, 98, 111)"), ("dark", "rgb(154, 164, 178)")):
        page.emulate_media(color_scheme=scheme)
        plot = page.locator('[data-figure="progress"]')
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".xtitle")).to_have_css("fill", ink)  # drawn figures follow, too
        red = int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
        assert red > 200 if scheme == "light" else red < 60
    context.close()


def test_numbers_and_times_are_written_for_people(page: Page, url: str) -> None:
    page.goto(url)
    cases = [
        ("number", [0.00001234], "1.23e-5"),
        ("number", [0.012345], "0.01235"),
        ("number", [12345], "12,345"),
        ("number", [1234567.8], "1.23e6"),
        ("number", [None], "–"),
        ("number", ["Infinity"], "∞"),
        ("number", ["NaN"], "–"),
        ("count", [999_999], "1M"),
        ("count", [20_000], "20k"),
        ("count", [1797], "1,797"),
        ("range", [16, 64], "16 to 64"),
        ("range", [8, 8], "8"),
        ("range", [30, "Infinity"], "at least 30"),
        ("duration", [4.2], "4.2 s"),
        ("duration", [59.7], "1 min 0 s"),
        ("duration", [7500], "2 h 5 min"),
    ]
    found = page.evaluate(
        """async (calls) => {
          const format = await import("/static/js/format.js");
          return calls.map(([name, values]) => format[name](...values));
        }""",
        [[name, values] for name, values, _ in cases],
    )
    assert found == [wanted for _, _, wanted in cases]


def test_what_does_not_exist_is_said(page: Page, watch, url: str) -> None:  # type: ignore[no-untyped-def]
    watch.allowed.append("404")
    page.goto(f"{url}/studies/never")
    expect(page.locator("h1")).to_have_text("Not found")
    page.get_by_role("link", name="All studies").click()
    expect(page.locator("h1")).to_have_text("Studies")
