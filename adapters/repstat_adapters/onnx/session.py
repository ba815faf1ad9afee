"""Sessions of onnxruntime that run where they were told to run, and say so."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from repstat.adapter import AdapterOptions, Array
from repstat.cores import usable_cores
from repstat.errors import DeviceUnavailableError, InputRefusedError, RepstatError, ResourceError, UsageError
from repstat_adapters.onnx.checks import opset_of
from repstat_adapters.shared.options import MOST_THREADS

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_SHORT = {"cpu": CPU, "cuda": CUDA}
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # The default searches exhaustively (another algorithm on each run) and computes in TF32.
    CUDA: {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"},
}
_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_FATAL_ONLY = 4
"""Errors are raised as well; the log would put foreign names on the terminal as they are."""
_OLD_IR, _OLD_OPSET = 8, 13  # read by every supported onnxruntime
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_LINE = re.compile(r"\S*/(onnxruntime|onnx)\S*\.(cc|h|cpp):\d+ .*?\) (?=[A-Z])")
_BARE_SOURCE = re.compile(r"\b\w+\.(cc|h|cpp):\d+ \w+ ")
_LONGEST_MESSAGE = 400
_HEARING_SECONDS = 0.2


@dataclass(frozen=True)
class Runtime:
    """How sessions are made for one model.

    Parameters
    ----------
    provider
        Execution provider, by onnxruntime's name.
    threads
        Threads within one op.
    opt_level
        Level of graph optimisation.
    folder
        Where external weights are.
    path
        The model file, for messages.
    """

    provider: str
    threads: int
    opt_level: str
    folder: Path | None
    path: Path | None

    def session(self, model: onnx.ModelProto) -> ort.InferenceSession:
        """Load a model.

        Raises
        ------
        InputRefusedError
            onnxruntime does not accept the model.
        DeviceUnavailableError
            The provider does not work here.
        """
        settings = ort.SessionOptions()
        settings.log_severity_level = _FATAL_ONLY
        settings.graph_optimization_level = _LEVELS[self.opt_level]
        settings.intra_op_num_threads = self.threads
        if self.folder is not None:
            key = "session.model_external_initializers_file_folder_path"
            settings.add_session_config_entry(key, str(self.folder))
        providers: list[Any] = [(self.provider, dict(_OPTIONS.get(self.provider, {})))]
        providers += [CPU] if self.provider != CPU else []
        try:
            data = model.SerializeToString()
            session = ort.InferenceSession(data, settings, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors share no base class with each other
            raise translated(error, "onnxruntime refuses the model", self.path) from None
        session.disable_fallback()
        used = session.get_providers()[0]
        if used != self.provider:
            raise DeviceUnavailableError(
                what=f"{self.provider} does not work here",
                why=f"onnxruntime has it but fell back to {used}; its libraries or device are missing",
                fix="Install them, or use --provider cpu",
            )
        return session

    def check_provider(self) -> None:
        """Check that the provider works, with a model of one node.

        Raises
        ------
        DeviceUnavailableError
            It does not.
        """
        if self.provider == CPU:
            return
        try:
            self.session(_tiny_model(_OLD_IR, _OLD_OPSET))
        except InputRefusedError as error:
            raise DeviceUnavailableError(
                what=f"{self.provider} does not work here",
                why=error.why,
                fix="Install its libraries, or use --provider cpu",
            ) from None

    def check_versions(self, model: onnx.ModelProto) -> None:
        """Check the model's IR and opset against what onnxruntime reads.

        Raises
        ------
        InputRefusedError
            They are newer.
        """
        opset = opset_of(model)
        try:
            replace(self, provider=CPU).session(_tiny_model(model.ir_version, opset))
        except InputRefusedError as error:
            raise InputRefusedError(
                what="the model is newer than the installed onnxruntime",
                path=self.path,
                why=f"it has IR version {model.ir_version} and opset {opset}; onnxruntime {ort.__version__} "
                f"reads {_maximum(error.why)}",
                fix="Upgrade onnxruntime, or export with a lower opset or IR version",
            ) from None


def _tiny_model(ir_version: int, opset: int) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "check", [value], [onnx.ValueInfoProto(name="y")])
    imports = [helper.make_opsetid("", opset)]
    return onnx.ModelProto(ir_version=ir_version, graph=graph, opset_import=imports)


def choose_runtime(options: AdapterOptions, folder: Path | None, path: Path | None) -> Runtime:
    """Turn options into a runtime that works.

    Raises
    ------
    UsageError
        An option has no meaning here.
    DeviceUnavailableError
        There is no such provider in this onnxruntime, or it does not work. ``auto`` then takes the CPU.
    """
    if options.opt_level not in _LEVELS:
        raise UsageError(
            what=f"unknown opt level {options.opt_level!r}", fix=f"Choose one of {', '.join(_LEVELS)}"
        )
    if options.threads is not None and options.threads < 1:
        raise UsageError(what=f"cannot use {options.threads} threads", fix="Give at least 1")
    if options.threads is not None and options.threads > MOST_THREADS:
        raise UsageError(
            what=f"cannot use {options.threads:,} threads",
            why=f"{usable_cores()} cores are usable, and each thread takes memory",
            fix="Leave --threads out, or give the number of cores",
        )
    if options.model_factory is not None:
        raise UsageError(
            what="a model factory has no meaning for an ONNX file",
            path=path,
            why="the file holds the whole model",
            fix="Leave out --model-factory",
        )
    if options.extra:
        raise UsageError(
            what=f"unknown options {', '.join(sorted(options.extra))}",
            why="the ONNX adapter has no further options",
            fix="Leave them out",
        )
    ort.set_default_logger_severity(_FATAL_ONLY)
    provider = _provider(options.provider, ort.get_available_providers())
    runtime = Runtime(provider, options.threads or usable_cores(), options.opt_level, folder, path)
    try:
        runtime.check_provider()
    except DeviceUnavailableError:
        if options.provider != "auto":
            raise
        return replace(runtime, provider=CPU)
    return runtime


def _provider(wanted: str, available: Sequence[str]) -> str:
    if wanted == "auto":
        return CUDA if CUDA in available else CPU
    name = _SHORT.get(wanted.lower(), wanted)
    if name in available:
        return name
    raise DeviceUnavailableError(
        what=f"no execution provider {wanted!r}",
        why=f"the installed onnxruntime {ort.__version__} offers {', '.join(available)}",
        fix="Use auto, cpu or one of these" + (", or install onnxruntime-gpu" if name == CUDA else ""),
    )


def run_session(
    session: ort.InferenceSession,
    outputs: Sequence[str],
    feeds: Mapping[str, Array],
    path: Path | None,
) -> list[Array]:
    """Run one batch.

    Raises
    ------
    InputRefusedError
        The model fails on this batch.
    ResourceError
        Memory ran out.
    """
    settings = ort.RunOptions()
    settings.log_severity_level = _FATAL_ONLY
    try:
        return _interruptible(lambda: session.run(list(outputs), dict(feeds), settings), settings)
    except Exception as error:  # see Runtime.session
        raise translated(error, "the model fails on a batch", path) from None


def _interruptible(run: Callable[[], list[Array]], settings: ort.RunOptions) -> list[Array]:
    """Run in another thread, so that Ctrl-C and SIGTERM are heard while the model computes.

    Python handles signals between its own instructions, and a model with an endless loop gives it none.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            while True:
                with suppress(TimeoutError):
                    return future.result(timeout=_HEARING_SECONDS)
        except BaseException:
            settings.terminate = True
            raise


def translated(error: Exception, what: str, path: Path | None) -> RepstatError:
    """Return an error of onnxruntime as one of ours, without the source lines of its C++ code."""
    why = _SOURCE_LINE.sub("", _PREFIX.sub("", " ".join(str(error).split())))
    why = _BARE_SOURCE.sub("", why)
    why = why[:_LONGEST_MESSAGE] or type(error).__name__
    if isinstance(error, MemoryError) or "bad_alloc" in why or "Failed to allocate memory" in why:
        return ResourceError(what="memory ran out", path=path, why=why, fix="Use a smaller --batch-size")
    fix = "Check the inputs and the export: the model must run in onnxruntime by itself"
    return InputRefusedError(what=what, path=path, why=why, fix=fix)


def _maximum(message: str) -> str:
    """Return the numbers onnxruntime gives in its message."""
    if match := re.search(r"max supported IR version: (\d+)", message):
        return f"IR up to {match[1]}"
    if match := re.search(r"till opset (\d+)", message):
        return f"opsets up to {match[1]}"
    return f"other ones ({message})"
