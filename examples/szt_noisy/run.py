"""Train a small network with noise in every hidden layer and follow I(X;T) of its layers.

The 12-10-7-5-4-3-2 network on 12 bits, with T = S + N(0, beta^2 I) after every hidden layer, after

    Z. Goldfeld et al., Estimating Information Flow in Deep Neural Networks, ICML 2019, arXiv:1810.05728.

    python examples/szt_noisy/run.py --activation tanh --output noisy-tanh

Writes ONNX checkpoints, ``metrics.csv``, the activations and the results to the output folder, and prints the
trajectory. Initial weights and the order of samples come from NumPy, the training noise from PyTorch, so a
seed repeats a run on the same machine and libraries only. ``README.md`` says what to expect.
"""

import argparse
import csv
import importlib.util
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.io

import repstat
from repstat.findings import ALARM_ERRORS, ALARM_NATS

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "twelve_bit"
TRAIN_SHARE = 0.8
BATCH_SIZE = 256
LEARNING_RATE = 4e-4
ORTHONORMAL_STEP = 0.01
"""a of W <- W - a (W W^T W - W) after each optimizer step, which draws the rows of W to orthonormal ones."""


def load_module(name: str) -> ModuleType:
    """Import a module of the fixture under the name that its neighbours import it by."""
    spec = importlib.util.spec_from_file_location(name, FIXTURE / f"{name}.py")
    if spec is None or spec.loader is None:
        message = f"there is no module {name} in {FIXTURE}"
        raise ImportError(message)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


task = load_module("task")
make = load_module("make")  # draws weights, measures losses, writes ONNX


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained.

    Parameters
    ----------
    activation
        ``tanh`` or ``relu``.
    beta
        Standard deviation of the noise after every hidden layer.
    orthonormal
        Whether the weights of the hidden layers are kept near orthonormal rows.
    seed
        Of initial weights, order of samples, and noise.
    epochs
        When to write a checkpoint; the last one ends the training.
    """

    activation: str
    beta: float
    orthonormal: bool
    seed: int
    epochs: tuple[int, ...]


def load_data(file: Path, seed: int) -> Any:
    """Read inputs as -1 and +1, labels, and the split of them.

    Parameters
    ----------
    file
        ``.npz`` with `inputs`, `labels`, and perhaps `train`; or ``.mat`` with bits `F` and labels `y`.
    seed
        Chooses the 80 % of training samples where the file does not.

    Returns
    -------
    task.Task
        Inputs ``(n, 12)``, labels ``(n,)``, and which are for training ``(n,)``.
    """
    if file.suffix == ".mat":
        found = scipy.io.loadmat(file)
        inputs, labels, train = 2.0 * found["F"] - 1.0, found["y"].ravel(), None
    else:
        with np.load(file) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
            train = arrays.get("train")
    if train is None:
        train = np.zeros(len(labels), np.bool_)
        chosen = np.random.default_rng(seed).permutation(len(labels))[: round(TRAIN_SHARE * len(labels))]
        train[chosen] = True
    return task.Task(inputs=inputs.astype(np.float32), labels=labels.astype(np.int64), train=train)


def log_spaced(last: int, count: int) -> tuple[int, ...]:
    """Return epoch 0 and `count` - 1 more up to `last`, evenly spaced on a logarithmic scale."""
    later = np.geomspace(last, max(1.0, last / 256), count - 1)
    return (0, *(int(epoch) for epoch in np.unique(later.round())))


def train(run: Training, data: Any) -> Iterator[Any]:
    """Train with Adam on the softmax cross-entropy through noise and yield the checkpoints, in order."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    rng = np.random.default_rng(run.seed)
    noise = torch.Generator().manual_seed(run.seed)
    layers = [
        (torch.from_numpy(w.copy()).requires_grad_(), torch.from_numpy(b.copy()).requires_grad_())
        for w, b in make.initial_weights(run.activation, rng)
    ]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer], lr=LEARNING_RATE, fused=True)
    activation = torch.tanh if run.activation == "tanh" else torch.relu
    inputs, labels = torch.from_numpy(data.inputs[data.train]), torch.from_numpy(data.labels[data.train])
    step = 0
    for epoch in range(run.epochs[-1] + 1):
        if epoch in run.epochs:
            weights = tuple((w.detach().numpy().copy(), b.detach().numpy().copy()) for w, b in layers)
            yield make.Checkpoint(step, epoch, weights)
        order = torch.from_numpy(rng.permutation(len(labels)))
        for batch in torch.split(order, BATCH_SIZE):
            hidden = inputs[batch]
            for w, b in layers[:-1]:
                clean = activation(functional.linear(hidden, w, b))
                hidden = clean + run.beta * torch.randn(clean.shape, generator=noise)
            loss = functional.cross_entropy(functional.linear(hidden, *layers[-1]), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            if run.orthonormal:
                with torch.no_grad():
                    for w, _ in layers[:-1]:
                        w -= ORTHONORMAL_STEP * (w @ w.T @ w - w)
            step += 1


def write_checkpoints(
    run: Training, data: Any, folder: Path
) -> tuple[list[Path], dict[int, dict[str, float]]]:
    """Train and write one ONNX file per checkpoint and ``metrics.csv``.

    Returns
    -------
    files, metrics
        The files in order, and epoch, losses and accuracies of each step, all without noise.
    """
    files, rows = list[Path](), list[dict[str, str]]()
    for checkpoint in train(run, data):
        logits = make.forward(checkpoint.weights, data.inputs, run.activation)[-1]
        rows.append(make.metrics(checkpoint, logits, data))
        files.append(folder / f"step-{checkpoint.step:06d}.onnx")
        model = make.to_onnx(checkpoint, run.activation)
        files[-1].write_bytes(model.SerializeToString(deterministic=True))
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    metrics = {int(row["step"]): {k: float(v) for k, v in row.items() if k != "step"} for row in rows}
    return files, metrics


def trajectory(results: repstat.Results) -> Iterator[str]:
    """Yield one line for each layer at each checkpoint, with losses and accuracies beside the first."""
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    yield (  # information in nats
        " epoch |   loss train    test | accuracy train   test | layer  I(X;T) ± error    bias  status"
    )
    layers = list(results.layers)
    rows = [row for row in results.rows if row.quantity == "mi_input"]
    for checkpoint, found in itertools.groupby(rows, lambda row: row.checkpoint):
        losses = [results.metrics[name][checkpoint] for name in names]
        epoch = results.epochs[checkpoint] or 0.0
        start = "{:6.0f} |     {:8.4f}{:8.4f} |         {:6.4f} {:6.4f} |".format(epoch, *losses)
        for row in sorted(found, key=lambda row: layers.index(row.layer)):
            value, error = (np.nan if x is None else x for x in (row.value, row.std_error))
            bias = row.params.get("bias", np.nan)
            number = layers.index(row.layer) + 1
            yield f"{start}    L{number} {value:8.3f} ± {error:5.3f} {bias:7.3f}  {row.status.value}"
            start = f"{'':6} | {'':19} | {'':21} |"


def summary(results: repstat.Results) -> Iterator[str]:
    """Yield what the trajectory shows: the order of layers, the compression of the last, the final losses."""
    rises = [row for row in results.select(quantity="mi_input_rise") if row.value is not None]
    alarms = [r for r in rises if (r.value or 0.0) > ALARM_ERRORS * (r.std_error or 0.0) + ALARM_NATS]
    largest = max((r.value or 0.0 for r in rises), default=np.nan)
    yield (
        f"data processing inequality: {len(alarms)} alarms in {len(rises)} pairs of layers "
        f"(a rise of I(X;T) by more than {ALARM_ERRORS:g} errors + {ALARM_NATS:g} nat); most {largest:+.4f}"
    )
    for number, layer in enumerate(results.layers, start=1):
        rows = [row for row in results.select(quantity="mi_input", layer=layer) if row.value is not None]
        if not rows:
            continue
        top, end = max(rows, key=lambda row: row.value or 0.0), rows[-1]
        fall, error = (
            (top.value or 0.0) - (end.value or 0.0),
            np.hypot(top.std_error or 0, end.std_error or 0),
        )
        yield (
            f"L{number}: most {top.value:.3f} at epoch {top.epoch:.0f}, at the end {end.value:.3f}: "
            f"fell by {fall:.3f} ± {error if top is not end else 0.0:.3f}"
        )


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train the 12-10-7-5-4-3-2 network with noise and follow I(X;T) of its layers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--activation", choices=("tanh", "relu"), default="tanh", help="of the hidden layers")
    add("--orthonormal", action="store_true", help="keep the weights of hidden layers near orthonormal rows")
    add("--seed", type=int, default=0, help="of weights, order of samples, and all noise")
    add("--beta", type=float, default=0.005, help="standard deviation of the noise")
    add("--epochs", type=int, default=8000, help="passes over the training samples")
    add("--checkpoints", type=int, default=7, help="how many, log-spaced, with epoch 0")
    add("--data", type=Path, default=FIXTURE / "data.npz", help=".npz, or the var_u.mat of the original task")
    add("--output", type=Path, default=Path("szt-noisy"), help="folder to write to")
    add("--realizations", type=int, default=10, metavar="R", help="noisy passes of every input")
    add("--conditional-samples", type=int, default=128, metavar="K", help="inputs that are repeated")
    add("--conditional-realizations", type=int, default=500, metavar="C", help="how often they are")
    add("--workers", type=int, default=2, help="processes of the analysis")
    options = parser.parse_args(words)
    if options.checkpoints < 2 or options.epochs < 1:
        parser.error("the trajectory needs at least 2 checkpoints and 1 epoch")
    if not options.beta > 0.0:
        parser.error(f"--beta {options.beta:g}: without noise I(X;T) is infinite or ln n")
    return options


def main(words: Sequence[str] | None = None) -> None:
    """Train, extract, analyse, print."""
    options = arguments(words)
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data(options.data, options.seed)
    epochs = log_spaced(options.epochs, options.checkpoints)
    run = Training(options.activation, options.beta, options.orthonormal, options.seed, epochs)
    clock = [time.perf_counter()]
    files, metrics = write_checkpoints(run, data, folder)
    clock.append(time.perf_counter())
    store = repstat.extract(
        files,
        data.inputs,
        labels=data.labels,
        store=folder / "activations.h5",
        metrics=metrics,
        noise_std=options.beta,
        realizations=options.realizations,
        conditional_samples=options.conditional_samples,
        conditional_realizations=options.conditional_realizations,
        seed=options.seed,
        overwrite=True,
    )
    clock.append(time.perf_counter())
    results = repstat.analyze(store, estimators=["noisy"], seed=options.seed, workers=options.workers)
    results.save(folder / "results.h5", overwrite=True)
    clock.append(time.perf_counter())
    print(f"{run.activation}, orthonormal: {run.orthonormal}, seed {run.seed}, beta {run.beta:g}", end=", ")
    print(f"{len(data.labels)} inputs: ln n = {np.log(len(data.labels)):.3f}\n")
    print(*trajectory(results), "", *summary(results), sep="\n")
    seconds = [after - before for before, after in itertools.pairwise(clock)]
    print("training {:.0f} s, extraction {:.0f} s, analysis {:.0f} s".format(*seconds))


if __name__ == "__main__":
    main()
