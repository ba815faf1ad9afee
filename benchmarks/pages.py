"""A long trajectory as results file, report and figures: time, size, and how smooth the page's slider is."""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import repstat
from benchmarks.cases import FIXTURE, checkpoints
from benchmarks.measure import Settings
from benchmarks.report import Table, seconds
from repstat.results import Results, Row

CHECKPOINTS, LAYERS = 100, 12
SAMPLES = 512
SLIDES = 30


def tiled(results: Results, n_checkpoints: int, n_layers: int) -> Results:
    """Repeat the layers and checkpoints of a training until it is as long and as deep as asked."""
    keys = list(results.layers)
    wanted = {f"L{i:03d}": keys[i % len(keys)] for i in range(n_layers)}
    steps = tuple(range(0, 100 * n_checkpoints, 100))
    at = [round(i * (len(results.steps) - 1) / (n_checkpoints - 1)) for i in range(n_checkpoints)]
    cells: dict[tuple[int, str], list[Row]] = {}
    for row in results.rows:
        cells.setdefault((row.checkpoint, row.layer), []).append(row)
    return replace(
        results,
        steps=steps,
        epochs=(None,) * n_checkpoints,
        layers={key: f"block{i}.conv" for i, key in enumerate(wanted)},
        metrics={name: tuple(values[i] for i in at) for name, values in results.metrics.items()},
        rows=tuple(
            replace(row, checkpoint=place, step=steps[place], epoch=None, layer=key, layer_name=key)
            for place, old in enumerate(at)
            for key, source in wanted.items()
            for row in cells[old, source]
        ),
        histograms=tuple(
            replace(found, layer=key, counts=found.counts[at])
            for key, source in wanted.items()
            for found in results.histograms
            if found.layer == source
        ),
        scatters=tuple(
            replace(found, layer=key, coordinates=found.coordinates[at], shown=found.shown[at])
            for key, source in wanted.items()
            for found in results.scatters
            if found.layer == source
        ),
    )


def _training(folder: Path, settings: Settings) -> Results:
    """Analyse the fixture's training on some of its samples."""
    with np.load(FIXTURE / "data.npz") as data:
        every = len(data["inputs"]) // (64 if settings.quick else SAMPLES)
        inputs, labels = data["inputs"][::every], data["labels"][::every]
    return repstat.analyze(repstat.extract(checkpoints(), inputs, labels=labels, store=folder / "acts.h5"))


def _timed(job: Callable[[], Any]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _slider(page: Path) -> tuple[str, str]:
    """Return how long the page is busy after a move of its slider, and how long until all in view is redrawn.

    In Chromium, with the charts of three layers in view; medians of `SLIDES` moves.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with suppress(ImportError):
        from playwright.sync_api import sync_playwright

        if chromium is not None:
            with sync_playwright() as running:
                flags = ["--no-sandbox", "--disable-gpu"]
                browser = running.chromium.launch(executable_path=chromium, args=flags)
                window = browser.new_page(viewport={"width": 1280, "height": 900})
                window.goto(page.resolve().as_uri())
                window.wait_for_selector("html[data-ready=yes]")
                window.evaluate("document.getElementById('layers').scrollIntoView({ behavior: 'instant' })")
                window.wait_for_timeout(2000)
                busy, whole = window.evaluate(_SLIDE, SLIDES)
                browser.close()
                return seconds(busy / 1e3), seconds(whole / 1e3)
    return "no Chromium", "no Chromium"


_SLIDE = """async (n) => {
    const slider = document.getElementById('checkpoint'), busy = [], whole = [];
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    for (let i = 0; i < n; i += 1) {
        slider.value = 3 * i;
        const start = performance.now();
        slider.dispatchEvent(new Event('input'));
        await frame();
        busy.push(performance.now() - start);
        while ([...seen].some((chart) => stale.has(chart))) await frame();
        whole.push(performance.now() - start);
    }
    return [busy, whole].map((times) => times.sort((a, b) => a - b)[Math.floor(n / 2)]);
}"""
"""Asks the page's own script which charts are seen, and which of them are not yet redrawn."""


def table(settings: Settings) -> Table:
    """Measure a trajectory that repeats the fixture's layers and checkpoints."""
    from repstat.plots import KINDS, figure, save
    from repstat.report import report

    shape = (20, 5) if settings.quick else (CHECKPOINTS, LAYERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = tiled(_training(folder, settings), *shape)
        saved, page = folder / "acts.results.h5", folder / "acts.report.html"
        jobs: list[tuple[str, Path, Callable[[], Any]]] = [
            ("results file, written", saved, lambda: results.save(saved)),
            ("results file, read", saved, lambda: repstat.open_results(saved)),
            ("report", page, lambda: report(results, page)),
        ]
        for kind in KINDS:
            path = folder / f"{kind}.pdf"
            jobs.append((path.name, path, lambda k=kind, p=path: save(figure(k, [results]), p)))
        rows = [
            [what, seconds(_timed(job)), f"{path.stat().st_size / 1e6:.1f} MB"] for what, path, job in jobs
        ]
        busy, whole = _slider(page)
        rows.append(["the page's slider, until the next frame", busy, ""])
        rows.append(["the page's slider, until all charts in view are redrawn", whole, ""])
    return Table(
        "To look at",
        f"""Results of {shape[0]} checkpoints × {shape[1]} layers ({len(results.rows):,} rows): the fixture's
training on {SAMPLES} samples, its layers and checkpoints repeated. Wall time; the slider in headless
Chromium without a graphics card, with the charts of three layers in view (medians of {SLIDES} moves).""",
        ("what", "time|", "size|"),
        rows,
    )
