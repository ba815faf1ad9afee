"""The page in a real browser: every chart has data, the controls work, and nothing leaves the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import tiled
from repstat.report import report
from repstat.report.facts import number
from repstat.results import Results
from repstat.trajectories import trajectories
from tests.report.browsers import chromium, opened
from tests.report.making import HOSTILE, renamed, seed_of

CHARTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map((chart) => ({
    label: chart.getAttribute('aria-label'),
    points: chart.data.reduce(
        (sum, trace) => sum + trace.x.filter((x, i) => x !== null && trace.y[i] !== null).length, 0),
    drawn: chart.querySelectorAll('.trace path, .trace .point').length,
}))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def page(folder: Path, training: Results) -> Path:
    return report(training, folder / "training.html", names=["training"])


def slide(page: Any, to: int) -> None:
    page.evaluate(
        """(to) => { const slider = document.getElementById('checkpoint'); slider.value = to;
            slider.dispatchEvent(new Event('input')); }""",
        to,
    )
    page.wait_for_timeout(150)


def test_every_chart_has_data_and_nothing_leaves_the_page(
    browser: Any, page: Path, training: Results
) -> None:
    with opened(browser, page) as shown:
        shown.see_all()
        charts = shown.page.evaluate(CHARTS)
        assert len(charts) == 2 + 3 * len(training.layers)
        for chart in charts:
            assert chart["points"] > 10, chart
            assert chart["drawn"] > 1, chart
        for place in (0, 7, len(training.steps) - 1):
            slide(shown.page, place)
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)


def test_the_slider_moves_charts_and_numbers(browser: Any, page: Path, training: Results) -> None:
    (deepest,) = list(training.layers)[-1:]
    mine = [t for t in trajectories(training) if t.layer == deepest]
    with opened(browser, page) as shown:
        shown.see_all()
        for place in (0, 11, 19):
            slide(shown.page, place)
            assert f"checkpoint {place + 1} of 20" in shown.page.inner_text("#where")
            assert f"step {training.steps[place]:,}" in shown.page.inner_text("#numbers-where")
            cells = shown.page.locator(".statuses >> nth=-1").locator("tbody tr").all()
            assert len(cells) == len(mine)
            for line, series in zip(cells, mine, strict=True):
                row = series.rows[place]
                assert row is not None
                texts = line.locator("td").all_inner_texts()
                assert texts[1] == number(row.value)
                assert texts[5] == row.status.value
            shown.see("#plane")
            now = shown.page.locator("#plane-now [data-x] >> nth=-1")
            x, y = (float(now.get_attribute(f"data-{axis}")) for axis in "xy")
            information = {t.quantity: t.rows[place] for t in reversed(mine)}
            for drawn, quantity in ((x, "mi_input"), (y, "mi_label")):
                row = information[quantity]
                assert row is not None
                assert drawn == pytest.approx(row.value, rel=1e-5)
            shown.see(f".layer[data-layer={deepest}] .chart:first-child")
            last = shown.page.locator(f".layer[data-layer={deepest}] .chart:first-child")
            histogram = next(h for h in training.histograms if (h.layer, h.relation) == (deepest, "within"))
            assert last.evaluate("(chart) => chart.data[0].y.slice(0, -1)") == pytest.approx(
                (histogram.counts[place] / histogram.counts[place].sum()).tolist()
            )


def test_what_is_pointed_at_is_told(browser: Any, page: Path, training: Results) -> None:
    with opened(browser, page) as shown:
        shown.see("#plane")
        place = shown.page.evaluate(
            """() => {
                const chart = document.getElementById('plane'), box = chart.getBoundingClientRect();
                const last = chart.data.at(-1), axes = chart._fullLayout;
                return [box.left + axes.xaxis._offset + axes.xaxis.d2p(last.x.at(-1)),
                    box.top + axes.yaxis._offset + axes.yaxis.d2p(last.y.at(-1))];
            }"""
        )
        shown.page.mouse.move(*place)
        shown.page.wait_for_selector("#plane .hovertext")
        told = shown.page.text_content("#plane .hovertext")
    assert "L004" in told
    assert "step 104,000" in told
    assert "I(X;T)" in told
    assert "saturated" in told


def test_it_works_by_keyboard(browser: Any, page: Path) -> None:
    with opened(browser, page) as shown:
        shown.page.focus("#checkpoint")
        shown.page.keyboard.press("ArrowLeft")
        shown.page.wait_for_timeout(100)
        assert "checkpoint 19 of 20" in shown.page.inner_text("#where")
        shown.see("#plane")
        box = shown.page.locator("#layer-toggles input >> nth=0")
        traces = "() => document.getElementById('plane').data.length"
        before = shown.page.evaluate(traces)
        box.focus()
        shown.page.keyboard.press("Space")
        shown.page.wait_for_timeout(200)
        assert shown.page.evaluate(traces) < before
        shown.page.keyboard.press("Tab")
        assert shown.page.evaluate("() => document.activeElement.type") == "checkbox"


def test_names_that_mean_harm_are_text(browser: Any, folder: Path, training: Results) -> None:
    hostile = report(renamed(training), folder / "hostile.html", names=[HOSTILE[0]])
    with opened(browser, hostile) as shown:
        shown.see_all()
        slide(shown.page, 3)
        assert shown.page.evaluate("() => window.pwned") is None
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)
        titles = shown.page.locator(".layer h3 .name").all_text_contents()
        assert titles[:4] == list(HOSTILE[:4])
        assert titles[4] == HOSTILE[4].replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
        assert shown.page.title().startswith(HOSTILE[0])
        texts = shown.page.locator("#time .annotation-text").all_text_contents()
        assert "loss <script>window.pwned=1…" in " ".join(texts)
        assert any("$\\alpha$ %{x}" in text for text in texts)
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") == 1280


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_phone(browser: Any, page: Path, width: int) -> None:
    with opened(browser, page, width=width, height=844, has_touch=True) as shown:
        shown.see_all()
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") == width
        assert all(chart["points"] > 10 for chart in shown.page.evaluate(CHARTS))


def test_in_the_dark(browser: Any, page: Path) -> None:
    with opened(browser, page, color_scheme="dark") as shown:
        paper = "() => getComputedStyle(document.body).backgroundColor"
        ink = "() => document.getElementById('plane')._fullLayout.font.color"
        shown.see("#plane")
        assert shown.page.evaluate(paper) == "rgb(20, 23, 27)"
        assert shown.page.evaluate(ink) == "#e6e9ed"
        shown.page.emulate_media(color_scheme="light")
        shown.page.wait_for_timeout(500)
        assert shown.page.evaluate(ink) == "#1b1f24"


def test_it_prints_whole(browser: Any, page: Path, folder: Path) -> None:
    with opened(browser, page) as shown:
        shown.page.pdf(path=folder / "page.pdf", format="A4")
        assert (folder / "page.pdf").read_bytes().startswith(b"%PDF")
        assert shown.page.evaluate("() => [...document.querySelectorAll('details')].every((d) => d.open)")
        assert len(shown.page.evaluate(CHARTS)) == 17
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)


def test_without_javascript_the_figures_are_images(browser: Any, page: Path) -> None:
    with opened(browser, page, java_script_enabled=False) as shown:
        images = shown.page.locator("noscript img")
        assert images.count() == 5
        for image in images.all():
            image.scroll_into_view_if_needed()
            assert image.bounding_box()["width"] > 300
        assert not shown.page.locator("#controls").is_visible()
        assert "shows the last checkpoint, and its figures as images" in shown.page.inner_text("body")
        assert shown.quiet()


def test_seeds_are_laid_over_each_other(browser: Any, folder: Path, training: Results) -> None:
    runs = [training, seed_of(training, 1), seed_of(training, 2)]
    page = report(runs, folder / "seeds.html", names=["tanh-1", "tanh-2", "tanh-3"])
    with opened(browser, page) as shown:
        shown.see_all()
        mean = shown.page.evaluate(
            """() => document.getElementById('time').data
                .filter((t) => (t.text || []).some((s) => s.includes('mean of 3 runs')))
                .map((t) => [t.yaxis, t.y])"""
        )
        first = [run.select(layer="L000", quantity="mi_input", noise="1x") for run in runs]
        expected = [sum(rows[i].value or 0.0 for rows in first) / 3 for i in range(20)]
        assert mean[0] == ["y", pytest.approx(expected, rel=1e-5)]
        shown.page.select_option("#run", "2")
        shown.page.wait_for_timeout(200)
        assert shown.page.locator(".run-tables:visible").get_attribute("data-run") == "2"
        value = shown.page.locator(".run-tables:visible tr[data-series='0'] td >> nth=1")
        shown.page.locator(".run-tables:visible details >> nth=0").evaluate("(d) => { d.open = true; }")
        shown.page.wait_for_timeout(200)
        assert value.inner_text() == number(trajectories(runs[2])[0].rows[19].value)  # type: ignore[union-attr]
        assert "tanh-1, tanh-2, tanh-3 are taken as seeds of one setting, tanh" in shown.page.inner_text(
            "#findings"
        )
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)


def test_two_settings_are_told_apart_by_their_lines(browser: Any, folder: Path, training: Results) -> None:
    page = report([training, seed_of(training, 1)], folder / "two.html", names=["plain", "regularised"])
    with opened(browser, page) as shown:
        shown.see_all()
        assert "Lines: plain solid, regularised dashed." in shown.page.inner_text("#time-caption")
        dashes = shown.page.evaluate(
            """() => [...new Set(document.getElementById('time').data
                .filter((t) => t.mode === 'lines+markers' && t.text && t.text[0].includes('L000'))
                .map((t) => t.line.dash))]"""
        )
        assert dashes == ["solid", "dash"]
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)


def test_a_noisy_network_and_one_checkpoint_without_labels(
    browser: Any, folder: Path, noisy: Results, unlabelled: Results
) -> None:
    with opened(browser, report(noisy, folder / "noisy.html")) as shown:
        shown.see_all()
        assert "layers of the noisy network, noise_std 0.1" in shown.page.inner_text("#plane-caption")
        assert "No noise-scale profile in these results." in shown.page.inner_text("#layers")
        assert all(chart["points"] for chart in shown.page.evaluate(CHARTS))
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)
    with opened(browser, report(unlabelled, folder / "unlabelled.html")) as shown:
        shown.see_all()
        assert "Without at least two classes there is no I(Y;T) to draw" in shown.page.inner_text("#plane")
        assert "A single checkpoint is no trajectory" in shown.page.inner_text("#findings")
        assert not shown.page.is_visible("#checkpoint")
        assert all(chart["points"] for chart in shown.page.evaluate(CHARTS))
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)


def test_a_long_and_deep_trajectory(browser: Any, folder: Path, training: Results) -> None:
    page = report(tiled(training, 100, 12), folder / "wide.html")
    assert page.stat().st_size < 20e6
    with opened(browser, page) as shown:
        shown.see_all()
        charts = shown.page.evaluate(CHARTS)
        assert len(charts) == 2 + 3 * 12
        assert all(chart["points"] > 10 for chart in charts)
        slide(shown.page, 50)
        assert "checkpoint 51 of 100" in shown.page.inner_text("#where")
        assert shown.quiet(), (shown.said, shown.thrown, shown.foreign)
