"""Training steps from file names."""

from pathlib import Path

import numpy as np
import pytest

from repstat.errors import UsageError
from repstat.steps import assign_steps, parse_steps, unnamed_step


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["step-000013.onnx", "step-000002.onnx"], (13, 2)),
        (["model.onnx"], (0,)),
        (["resnet50.onnx"], (0,)),
        (["net-step50.onnx"], (50,)),
        (["m2-a10.onnx", "m2-a9.onnx"], (10, 9)),
        (["v2_epoch1_step10.onnx", "v2_epoch2_step20.onnx"], (10, 20)),
        (["run3-epoch=4.onnx", "run3-epoch=12.onnx"], (4, 12)),
        (["ckpt_7.onnx", "ckpt_70.onnx"], (7, 70)),
        (["a1b2c3.onnx"], (0,)),
        (["checkpoint-500/model.onnx"], (0,)),
        (["checkpoint-500/model.onnx", "checkpoint-90/model.onnx"], (500, 90)),
        (["exp2/checkpoint-500/m2.onnx", "exp2/checkpoint-90/m2.onnx"], (500, 90)),
        (["run/step-1/a.onnx", "run/step-2/b.onnx"], (1, 2)),
        (["e1-0.723.keras", "e2-0.651.keras", "e10-1.5.keras"], (1, 2, 10)),
        (["0.723-e1.keras", "0.651-e2.keras"], (1, 2)),
        (["weights.01-0.72.weights.h5", "weights.02-0.65.weights.h5"], (1, 2)),
        (["epoch=3-step=300.ckpt", "epoch=4-step=400.ckpt"], (300, 400)),
        (["global_step300-epoch3.pt", "global_step400-epoch4.pt"], (300, 400)),
        (["epoch=03-val_loss=12.ckpt", "epoch=04-val_loss=11.ckpt"], (3, 4)),
        (["epoch-1-lr-1e-04-0.7.keras", "epoch-2-lr-1e-05-0.6.keras"], (1, 2)),
        (["step1000-e1-0.7.keras", "step1000-e2-0.6.keras"], (1, 2)),
        (["e1-0.723", "e2-0.651"], (1, 2)),
        (["e1-7.1e-01.keras", "e2-6.5e-01.keras"], (1, 2)),
        (["e1-0.723.keras", "e2-nan.keras"], (1, 2)),
        (["epoch1/m-0.72.keras", "epoch2/m-0.65.keras"], (1, 2)),
    ],
)
def test_steps_from_names(names: list[str], steps: tuple[int, ...]) -> None:
    assert assign_steps([Path(name) for name in names]) == steps


@pytest.mark.parametrize(
    "names",
    [
        ["a.onnx", "b.onnx"],
        ["a1-2.onnx", "a3-4.onnx"],
        ["a1.onnx", "b.onnx"],
        ["loss0.7.onnx", "loss0.6.onnx"],  # a loss is no step
        ["epoch0.5.onnx", "epoch1.5.onnx"],
        ["e1-0.5.onnx", "e2-1.onnx"],
    ],
)
def test_names_without_one_telling_number_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"cannot tell the training steps .* give --steps"):
        assign_steps([Path(name) for name in names])


def test_the_refusal_says_in_which_order_files_count() -> None:
    names = [f"e{i}-{i + 5}.keras" for i in (1, 2, 10, 11)]
    with pytest.raises(UsageError) as caught:
        assign_steps([Path(name) for name in names])
    assert str(caught.value) == (
        "cannot tell the training steps from the file names: one whole number that differs from file to file "
        "was expected in e1-6.keras, e2-7.keras, e10-15.keras. Name them like step-000100.keras, or give "
        "--steps 0,100,... (steps=), one for each in the order given; files of a folder or pattern count in "
        "the order of their names, in which 2 comes before 10: here e1-6.keras, e2-7.keras, e10-15.keras, ..."
    )


def test_copies_of_one_step_are_told_and_not_counted_otherwise() -> None:
    with pytest.raises(UsageError, match=r"two models stand for step 200"):
        assign_steps([Path("epoch1-step100.pt"), Path("epoch2-step200.pt"), Path("epoch3-step200.pt")])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1, 1), "two models stand for step 1: a.onnx and b.onnx"),
        ((1, 2, 3), "found 3 steps for 2 models"),
        ((-1, 2), "step -1 is negative"),
        (("0", "1"), "step '0' is not a whole number from 0"),
        ((True, 2), "step True is not a whole number"),
        (5.0, r"cannot read the steps 5.0: whole numbers from 0 were expected. Give for example \[0, 100"),
    ],
)
def test_given_steps_must_fit(given: tuple[int, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        assign_steps([Path("a.onnx"), Path("b.onnx")], given)


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    with pytest.raises(UsageError, match=r"two models stand for step 1: a-1/m\.onnx and b-1/m\.onnx"):
        assign_steps([Path("a-1/m.onnx"), Path("b-1/m.onnx")], (1, 1))


def test_a_list_of_steps_is_read() -> None:
    assert parse_steps("0, 10,100") == (0, 10, 100)
    with pytest.raises(UsageError, match=r"cannot read the steps '1;2': integers separated by commas"):
        parse_steps("1;2")


def test_steps_of_numpy_are_steps_and_one_is_that_of_one_model() -> None:
    assert assign_steps([Path("a.onnx"), Path("b.onnx")], np.array([3, 1])) == (3, 1)
    for five in (5, np.int64(5), np.array(5)):
        (step,) = assign_steps([Path("a.onnx")], five)
        assert (step, type(step)) == (5, int)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("model_10.pth", "10"),
        ("net-000010.onnx", "10"),
        ("step-10.pt", ""),
        ("best.pt", ""),
        ("ckpt-3.pt", ""),
    ],
)
def test_one_model_whose_number_may_be_a_step_is_noted(name: str, number: str) -> None:
    notes = list(unnamed_step(Path(name)))
    assert len(notes) == bool(number)
    assert all(
        f"{name} is taken for step 0" in note and f"--steps {number} (steps=" in note for note in notes
    )
