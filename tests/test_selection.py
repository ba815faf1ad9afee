"""Layer selectors."""

from dataclasses import dataclass

import pytest

from repstat.errors import InputRefusedError, UsageError
from repstat.selection import select_layers


@dataclass(frozen=True)
class Named:
    key: str
    name: str
    op: str
    kind: str


LAYERS = (
    Named("L000", "block.0.fc1", "Gemm+Relu", "hidden"),
    Named("L001", "block.0.fc2", "Gemm+Tanh", "hidden"),
    Named("R000", "block.0", "Add+Relu", "residual"),
    Named("L002", "head", "MatMul", "output"),
)


@pytest.mark.parametrize(
    ("selectors", "keys"),
    [
        ((), "L000 L001"),
        (("auto",), "L000 L001"),
        (("blocks",), "L000 L001 R000"),
        (("all",), "L000 L001 R000 L002"),
        (("L001",), "L001"),
        (("head", "L000"), "L000 L002"),
        (("block.*",), "L000 L001 R000"),
        (("block.*.fc?",), "L000 L001"),
        (("re:fc[12]$",), "L000 L001"),
        (("type:tanh",), "L001"),
        (("-L000",), "L001"),
        (("all", "-output", "-re:fc1"), "L001 R000"),
    ],
)
def test_selectors(selectors: tuple[str, ...], keys: str) -> None:
    assert [layer.key for layer in select_layers(LAYERS, selectors)] == keys.split()


def test_an_unknown_layer_gets_close_matches() -> None:
    with pytest.raises(
        UsageError, match=r"no layer is called 'hedd': the layers are L000 .*Did you mean head\?"
    ):
        select_layers(LAYERS, ["hedd"])


def test_leaving_out_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves out every layer"):
        select_layers(LAYERS, ["auto", "-hidden"])


def test_a_broken_pattern_is_refused() -> None:
    with pytest.raises(UsageError, match=r"re:\( is not a regular expression"):
        select_layers(LAYERS, ["re:("])


def test_a_model_without_hidden_layers_is_refused() -> None:
    with pytest.raises(InputRefusedError, match=r"no hidden layer: layers found: L002 \(head, output\)"):
        select_layers(LAYERS[3:])
    assert select_layers(LAYERS[3:], ["output"]) == LAYERS[3:]
