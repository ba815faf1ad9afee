"""All hostile ONNX files: importing this fills `CASES`."""

from tests.hostile import onnx_broken, onnx_external, onnx_limits, onnx_ops
from tests.hostile.onnx_making import CASES

__all__ = ["CASES", "onnx_broken", "onnx_external", "onnx_limits", "onnx_ops"]
