"""What the page says and sends is what the results hold, and no more."""

import base64
import json
import re
from dataclasses import replace
from math import log

import numpy as np
import pytest

import repstat
from repstat.errors import UsageError
from repstat.report import render
from repstat.report.comparison import compare
from repstat.report.data import page_data
from repstat.report.facts import facts_of, number
from repstat.report.methods import LABELS, METHODS, references, used
from repstat.results import Results, Row, Status
from repstat.trajectories import trajectories
from tests.report.making import HOSTILE, renamed, seed_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0.0, "0"), (0.00123456, "0.0012"), (0.5, "0.5000"), (-1.23456, "-1.235"),
        (12.3456, "12.35"), (123.456, "123.5"), (12345.6, "12,346"), (1.234e-5, "1.23e-5"), (3e7, "3.00e+7"),
    ],
)  # fmt: skip
def test_numbers_as_they_are_written(value: float | None, text: str) -> None:
    assert number(value) == text


def sent(results: Results) -> dict[str, object]:
    found: dict[str, object] = page_data([results], ["run"], "nats")["runs"][0]
    return found


def test_what_the_charts_get_is_what_the_results_hold(training: Results) -> None:
    run = sent(training)
    series = trajectories(training)
    assert len(run["series"]) == len(series)  # type: ignore[arg-type]
    for drawn, held in zip(run["series"], series, strict=True):  # type: ignore[call-overload]
        for field in ("value", "std_error", "lower_bound", "upper_bound", "ceiling"):
            once = drawn[field]
            values = once if isinstance(once, list) else [once] * len(training.steps)
            expected = [None if np.isnan(v) else pytest.approx(v, rel=1e-5) for v in held.numbers(field)]
            assert values == expected, (drawn["quantity"], field)
        assert [Status(list(Status)[s]) for s in drawn["status"]] == [row.status for row in held.known]


def test_scatter_coordinates_survive_to_the_pixel(training: Results) -> None:
    scatter = training.scatters[-1]
    places = scatter.coordinates.copy()
    places[3, 7] = np.nan
    drawn = sent(replace(training, scatters=(replace(scatter, coordinates=places),)))["scatters"][0]  # type: ignore[index]
    whole = np.frombuffer(base64.b64decode(drawn["coordinates"]), "<u2").reshape(drawn["shape"])
    low, high = np.array(drawn["low"]), np.array(drawn["high"])
    read = np.where(whole == 65535, np.nan, low + whole / 65534 * (high - low))
    assert np.isnan(read[3, 7]).all()
    assert np.isnan(read).sum() == places.shape[2]
    error = np.nanmax(np.abs(read - places), axis=(0, 1))
    assert (error <= 1e-4 * (high - low)).all()


def test_extreme_coordinates_do_not_overflow(training: Results) -> None:
    scatter = training.scatters[0]
    places = np.zeros(scatter.coordinates.shape)
    places[0, 0], places[0, 1] = -1.7e308, 1.7e308
    drawn = sent(replace(training, scatters=(replace(scatter, coordinates=places),)))["scatters"][0]  # type: ignore[index]
    whole = np.frombuffer(base64.b64decode(drawn["coordinates"]), "<u2").reshape(drawn["shape"])
    assert (whole[0, 0, 0], whole[0, 1, 0]) == (0, 65534)
    assert abs(int(whole[1, 1, 0]) - 32767) <= 1


def test_information_in_bits_and_distances_as_they_are(training: Results) -> None:
    data = page_data([training], ["run"], "bits")["runs"][0]["series"]
    for drawn, held in zip(data, trajectories(training), strict=True):
        factor = 1 / log(2) if held.known[0].units == "nats" else 1.0
        assert drawn["units"] == ("bits" if factor > 1 else held.known[0].units)
        value = drawn["value"] if isinstance(drawn["value"], list) else [drawn["value"]] * 20
        expected = held.numbers("value") * factor
        assert value == [None if np.isnan(v) else pytest.approx(v, rel=1e-5) for v in expected]


def test_the_page_is_the_same_each_time_and_its_data_are_json(training: Results) -> None:
    page = render(renamed(training), names=[HOSTILE[0]])
    assert page == render(renamed(training), names=[HOSTILE[0]])
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    read = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert read["layers"][0]["name"] == HOSTILE[0]
    # Outside the scripts, no foreign text is markup.
    shown = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "<img src=x" not in shown
    assert "<b>bold" not in shown
    assert "https://" not in re.sub(r'href="https://(doi\.org|arxiv\.org)/', "", shown)


def test_every_quantity_has_a_name_a_method_and_a_source(training: Results, noisy: Results) -> None:
    for results in (training, noisy):
        kinds = {(t.quantity, t.noise_model) for t in trajectories(results)}
        assert {quantity for quantity, _ in kinds} <= set(LABELS)
        methods = used(kinds, scatter=True)
        explained = set().union(*(method.quantities for method in methods))
        cosines_and_between = {
            "within_class_cosine", "between_class_cosine", "mean_cosine", "between_class_distance",
        }  # fmt: skip
        assert {quantity for quantity, _ in kinds} - explained <= cosines_and_between
    assert not {m.noise_model for m in used({("mi_input", "network")}, scatter=False)} & {"measurement"}
    for method in METHODS:
        for reference in method.references:
            assert reference.field("title")
            assert reference.field("author")
            assert reference.field("year").isdigit()
            assert re.fullmatch(
                r"https://(doi\.org/10\.\d{4,}/\S+|arxiv\.org/abs/\d{4}\.\d{5})", reference.link
            )
    assert all(r.bibtex.startswith("@") and r.bibtex.endswith("}") for r in references().values())


def test_a_deterministic_network_is_not_said_to_compress(training: Results) -> None:
    facts = facts_of(training, "run", "nats")
    text = " ".join([*facts.findings, *facts.notes, *facts.caveats])
    assert "ompress" not in text
    assert "Clustering at the scale of the noise in" in text
    deepest = [line for line in facts.falls if line.layer == "L004"]
    assert {line.verdict for line in deepest} == {"yes"}
    assert "L000" not in next(line for line in facts.findings if "scale of a bin" in line)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([0.7] * 20, "the training taught the network nothing"),
        (None, "whether the network learned is not known"),
    ],
)
def test_a_noisy_network_that_did_not_learn_is_not_said_to_compress(
    losses: list[float] | None, why: str
) -> None:
    falling = [6.0, *np.linspace(5.9, 2.0, 19)]
    rows = tuple(
        Row(
            checkpoint=i, step=i, epoch=None, layer="L000", layer_name="fc", quantity="mi_input",
            estimator="sample_propagation_mi", value=float(value), std_error=0.01, lower_bound=None,
            upper_bound=None, ceiling=8.0, status=Status.OK, units="nats", n_samples=3000, n_units=3,
            noise_std=0.1, noise_model="network", params={"noise": "0.1"},
        )
        for i, value in enumerate(falling)
    )  # fmt: skip
    results = Results(
        rows=rows, steps=tuple(range(20)), epochs=(None,) * 20, layers={"L000": "fc"}, n_samples=3000,
        n_classes=0, synthetic=False, provenance={},
        metrics={} if losses is None else {"test_loss": tuple(losses)},
    )  # fmt: skip
    facts = facts_of(results, "run", "nats")
    assert "Compression" not in " ".join(facts.findings)
    assert f"cannot be judged in L000 (4.000±0.014 nats from step 0, noise_std 0.1): {why}." in " ".join(
        facts.findings
    )
    if losses is None:
        learned = replace(results, metrics={"test_loss": tuple(np.linspace(0.7, 0.01, 20))})
        assert "Compression in L000" in " ".join(facts_of(learned, "run", "nats").findings)


def test_provenance_and_the_command_that_computes_it_again(training: Results, noisy: Results) -> None:
    facts = facts_of(training, "run", "nats")
    told = dict(facts.provenance)
    assert told["inputs sha256"] == training.provenance["inputs_sha256"]
    assert told["repstat"] == repstat.__version__
    assert "onnxruntime" in told["model run by"]
    assert [c["sha256"] for c in facts.checkpoints] == [
        c["sha256"] for c in training.provenance["checkpoints"]
    ]
    store = training.provenance["store"]
    assert facts.commands[-1] == (
        f"repstat analyze {store} --noise-std auto --binning count:30 --estimators "
        "noisy,binned,clustering,profile --tolerance 0.01 --seed 0"
    )
    assert "--noise-std" not in facts_of(noisy, "run", "nats").commands[-1]


def test_an_analysis_of_a_part_is_computed_again_as_that_part(training: Results) -> None:
    part = repstat.analyze(training.provenance["store"], layers=["L001"], steps=[13, 26], estimators="binned")
    command = facts_of(part, "run", "nats").commands[-1]
    assert "--estimators binned --layers L001 --steps 13,26" in command


def test_runs_side_by_side(training: Results) -> None:
    other = seed_of(training, 1)
    found = compare([training, other], ["a", "b"], "nats")
    assert found is not None
    assert found.warnings == ()
    mine = facts_of(training, "a", "nats").falls
    assert len(found.lines) == len(mine)
    assert {(line.layer, line.cells[0]) for line in found.lines} == {
        (fall.layer, (fall.scale, fall.fall, fall.verdict)) for fall in mine
    }
    assert compare([training], ["a"], "nats") is None


def test_runs_that_cannot_be_compared_are_told(training: Results) -> None:
    def louder(row: Row) -> Row:
        return replace(row, noise_std=2 * row.noise_std) if row.noise_std and row.layer == "L001" else row

    known = dict(training.provenance) | {"inputs_sha256": "0" * 64}
    other = replace(training, rows=tuple(map(louder, training.rows)), n_samples=99, provenance=known)
    found = compare([training, other], ["net-s1", "net-s2"], "nats")
    assert found is not None
    text = " ".join(found.warnings)
    assert "different numbers of samples" in text
    assert "recorded on different inputs" in text
    assert "read through different noise in L001:" in text
    assert "net-s1, net-s2 are taken as seeds of one setting, net;" in text


@pytest.mark.parametrize(
    ("names", "why"), [(["a"], "2 runs are called a"), (["a", "a"], "2 runs are called a, a")]
)
def test_runs_need_names_of_their_own(training: Results, names: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        render([training, training], names=names)
