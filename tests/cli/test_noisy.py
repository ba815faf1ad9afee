"""``repstat extract --noise-std`` and what ``analyze`` says of such a store."""

from pathlib import Path

import numpy as np

from tests.cli.conftest import RunCli


def test_a_noisy_network_on_the_command_line(tmp_path: Path, trajectory: list[Path], run_cli: RunCli) -> None:
    inputs = np.random.default_rng(2).choice([-1, 1], (60, 12)).astype(np.float32)
    np.savez(tmp_path / "x.npz", inputs=inputs, labels=np.arange(60) % 2)
    noise = ["--noise-std", "0.1", "--realizations", "4", "--conditional-samples", "8"]
    extracted = run_cli(
        "extract",
        trajectory[-1],
        *("--inputs", tmp_path / "x.npz", *noise, "--conditional-realizations", "50"),
        *("-o", tmp_path / "n.h5"),
    )
    assert extracted.code == 0, extracted.err
    assert "5 layers × 60 samples × 4 noisy passes × 1 checkpoint" in extracted.err
    assert "with 8 repeated samples × 50 realizations of 4 layers" in extracted.err
    analyzed = run_cli("analyze", tmp_path / "n.h5")
    assert analyzed.code == 0, analyzed.err
    assert "information in the noisy network, in nats" in analyzed.out
    assert "what the noisy network transmits" in " ".join(analyzed.out.split())
    assert "noise_std was picked" not in analyzed.out


def test_measurement_noise_for_a_noisy_network_is_refused(
    tmp_path: Path, trajectory: list[Path], run_cli: RunCli
) -> None:
    few = ["--noise-std", "0.1", "--conditional-samples", "4", "--conditional-realizations", "10"]
    assert run_cli("extract", trajectory[0], *few, "-o", tmp_path / "n.h5").code == 0
    refused = run_cli("analyze", tmp_path / "n.h5", "--noise-std", "0.1")
    assert refused.code == 2
    assert "--noise-std for the store of a noisy network" in refused.err


def test_realizations_need_noise(tmp_path: Path, trajectory: list[Path], run_cli: RunCli) -> None:
    refused = run_cli("extract", trajectory[0], "--realizations", "5", "-o", tmp_path / "n.h5")
    assert refused.code == 2
    assert "realizations without noise_std" in refused.err
