"""Training steps from file names."""

from pathlib import Path

import numpy as np
import pytest

from repstat.errors import UsageError
from repstat.steps import assign_steps, parse_steps


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
    ],
)
def test_steps_from_names(names: list[str], steps: tuple[int, ...]) -> None:
    assert assign_steps([Path(name) for name in names]) == steps


@pytest.mark.parametrize("names", [["a.onnx", "b.onnx"], ["a1-2.onnx", "a3-4.onnx"], ["a1.onnx", "b.onnx"]])
def test_names_without_one_telling_number_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"cannot tell the training steps .* give --steps"):
        assign_steps([Path(name) for name in names])


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
