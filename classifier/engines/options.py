"""Chooses engine and precision by the user's flags, the machine and the store.

`classifier.engines.precision` measures the precisions that remain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from classifier.engines.engine import COMPUTED, ENGINES, IDENTITY, PRECISIONS, EngineChoice
from classifier.engines.hardware import Hardware
from classifier.graphs.files import is_graph_file, is_onnx_file
from featurestore.errors import SpecMismatch, UsageError, unknown_choice
from featurestore.numerics import Numerics
from featurestore.spec import BaseSpec

AUTO = "auto"
_INSTALL = "pip install 'hoarfrost[openvino]'"
_INSTALL_ONNX = "pip install 'hoarfrost[openvino,onnx]'"
# What runs networks of Keras, graphs of ONNX, and graphs of OpenVINO.
_KERAS: tuple[str, ...] = ("tensorflow", "openvino")
_ONNX: tuple[str, ...] = ("openvino", "onnxruntime")
_GRAPH: tuple[str, ...] = ("openvino",)


@dataclass(frozen=True)
class EngineOptions:
    """The user's flags; checked on construction.

    Attributes:
      engine: ``auto``, ``tensorflow``, ``openvino`` or ``onnxruntime``.
      precision: ``auto``, ``float32``, ``float16``, ``bfloat16`` or ``int8``.
      allow_inexact: whether int8 features may differ much from float32's.
      remeasure: whether to try the precisions although this machine remembers a trial.
      reason: for the engine, for the user.
      able: the engines that run the base; see `for_base`.
    """

    engine: str = AUTO
    precision: str = AUTO
    allow_inexact: bool = False
    remeasure: bool = False
    reason: str = "as asked for"
    able: tuple[str, ...] = _KERAS

    def __post_init__(self) -> None:
        for flag, got, known in (
            ("--engine", self.engine, ENGINES),
            ("--precision", self.precision, PRECISIONS),
        ):
            if got not in (AUTO, *known):
                raise unknown_choice(flag, got, (AUTO, *known))
        if AUTO not in (self.engine, self.precision) and not _has(self.engine, self.precision):
            others = " or ".join(engine for engine in ENGINES if _has(engine, self.precision))
            raise UsageError(
                f"--precision {self.precision} needs --engine {others}, got --engine "
                f"{self.engine!r}, which has {', '.join(COMPUTED[self.engine])}"
            )
        if self.allow_inexact and self.precision != "int8":
            raise UsageError("--allow_inexact is for --precision int8 only")

    @property
    def is_open(self) -> bool:
        """Whether Hoarfrost chooses both."""
        return (self.engine, self.precision) == (AUTO, AUTO)


def _has(engine: str, precision: str) -> bool:
    """Returns whether an engine has a precision, on whatever machine."""
    return precision in COMPUTED[engine]


def for_base(asked: EngineOptions | None, base: BaseSpec) -> EngineOptions:
    """Completes the user's flags by what a base can run in.

    Args:
      asked: the flags; None leaves the choice to Hoarfrost.
      base: in the spec of a store.

    Raises:
      UsageError: when the base cannot run in the engine that was asked for.
    """
    asked = asked or EngineOptions()
    able = _KERAS
    if is_graph_file(base.model):
        able = _ONNX if is_onnx_file(base.model) else _GRAPH
    if asked.engine not in (AUTO, *able):
        kinds = {_KERAS: "no ONNX graph", _ONNX: "an ONNX graph", _GRAPH: "an OpenVINO graph"}
        raise UsageError(
            f"--engine {asked.engine}: {base.model!r} is {kinds[able]}, and runs in "
            f"{' or '.join(able)} only; leave the flag out"
        )
    return replace(asked, able=able)


@dataclass(frozen=True)
class Candidates:
    """An engine, and the precisions to measure on this machine.

    Attributes:
      engine: ``tensorflow``, ``openvino`` or ``onnxruntime``.
      precisions: several with float32 first, or one when there is no choice.
      reason: for the choice, for the user.
    """

    engine: str
    precisions: tuple[str, ...]
    reason: str


def candidates(asked: EngineOptions, hardware: Hardware) -> Candidates:
    """Returns the engine and the precisions that a new store can use.

    Args:
      asked: the user's flags.
      hardware: of this machine.

    Raises:
      UsageError: when this machine cannot run the requested engine or precision.
    """
    engine, reason = _engine(asked, hardware)
    native = hardware.native.get(engine, ())
    wanted = "float32" if asked.precision == AUTO else asked.precision
    require_able(EngineChoice(engine, wanted), hardware)
    if engine == "onnxruntime":
        where = "a GPU" if hardware.cuda and not hardware.stands_in else "the processor"
        return Candidates(engine, ("float32",), f"{reason}; on {where}, in float32 only")
    if asked.precision != AUTO:
        if engine == "tensorflow" and asked.precision not in ("float32", *native):
            reason = f"this processor has no native {asked.precision}: expect it to be slow"
        return Candidates(engine, (asked.precision,), reason)
    if not native:
        what = "the GPU" if hardware.gpu and engine == "tensorflow" else "this processor"
        return Candidates(
            engine, ("float32",), f"{reason}; {what} computes neither float16 nor bfloat16 natively"
        )
    return Candidates(engine, ("float32", *native), reason)


def _engine(asked: EngineOptions, hardware: Hardware) -> tuple[str, str]:
    if asked.engine != AUTO:
        return asked.engine, asked.reason
    stands_in = "the processor stands in for a GPU (HOARFROST_DEVICE=cpu)"
    there = stands_in if hardware.stands_in else "there is a GPU"
    if asked.able != _KERAS:
        exact = asked.precision in (AUTO, "float32")
        if "onnxruntime" in asked.able and hardware.cuda and exact:
            return "onnxruntime", there
        return "openvino", "the engine of ONNX and OpenVINO graphs"
    if asked.precision == "int8":
        return "openvino", "the only engine with int8"
    if hardware.gpu:
        return "tensorflow", there
    if "openvino" not in hardware.installed:
        return "tensorflow", f"OpenVINO, often faster on a CPU, is not installed: {_INSTALL}"
    return "openvino", "no GPU, and OpenVINO is installed"


def require_able(choice: EngineChoice, hardware: Hardware) -> None:
    """Refuses an engine or precision that this machine does not have.

    Raises:
      UsageError: naming the fix.
    """
    if choice.engine == "onnxruntime" and "onnxruntime" not in hardware.installed:
        raise UsageError(
            "--engine onnxruntime: it or the package onnx is not installed here, or cannot be "
            f"loaded; {_INSTALL_ONNX}"
        )
    if choice.engine != "openvino":
        return
    if "openvino" not in hardware.installed:
        raise UsageError(
            f"--engine openvino: it is not installed here, or cannot be loaded; {_INSTALL}"
        )
    allowed = ("float32", "int8", *hardware.native.get("openvino", ()))
    if choice.precision not in allowed:
        raise UsageError(
            f"--precision {choice.precision}: OpenVINO would compute it in float32, because this "
            f"processor has no {choice.precision} instructions (AMX or AVX-512); use --precision "
            "float32, int8 or auto"
        )


def require_quantiser(hardware: Hardware) -> None:
    """Refuses to make an int8 model without NNCF, which running a finished model does not need.

    Raises:
      UsageError: naming the fix.
    """
    if "nncf" not in hardware.installed:
        raise UsageError(f"--precision int8: NNCF, which quantises, is not installed; {_INSTALL}")


def for_stored(
    stored: Numerics, hardware: Callable[[], Hardware], asked: EngineOptions | None = None
) -> tuple[EngineChoice, str]:
    """Chooses engine and precision for an existing store: its own where possible.

    Args:
      stored: the store's numerics.
      hardware: inspects this machine; not called for pixels, which no engine computes.
      asked: the user's flags; None leaves the choice to Hoarfrost.

    Returns:
      (the choice, why it is not the store's own or ""). Its probes decide whether it may add rows.

    Raises:
      UsageError: when this machine cannot run the requested engine or precision.
      SpecMismatch: when int8 is requested for a store of another precision.
    """
    asked, own = asked or EngineOptions(), EngineChoice.of(stored)
    if own == IDENTITY:
        return own, ""
    if asked.is_open:
        try:
            require_able(own, hardware())
        except UsageError as error:
            exact = EngineOptions(precision="float32", able=asked.able)
            fallback = candidates(exact, hardware()).engine
            return EngineChoice(fallback, "float32"), str(error)
        return own, ""
    choice = _as_asked(asked, own)
    try:
        require_able(choice, hardware())
    except UsageError as error:
        if choice != own:
            raise
        raise UsageError(
            f"the store holds {own.label} features, which this machine cannot compute "
            f"({str(error).partition(';')[0]}); run it on a machine that can, or choose another "
            "--output"
        ) from error
    return choice, "" if choice == own else "as asked for"


def _as_asked(asked: EngineOptions, own: EngineChoice) -> EngineChoice:
    """Returns a store's own engine and precision but for what the flags say."""
    engine, precision = asked.engine, asked.precision
    if engine == AUTO:
        # OpenVINO has all precisions, and runs every base.
        engine = own.engine if precision == AUTO or _has(own.engine, precision) else "openvino"
    if precision == AUTO:
        precision = own.precision if _has(engine, own.precision) else "float32"
    if precision == "int8" and own.precision != "int8":
        raise SpecMismatch(
            f"--precision int8: the store holds {own.label} features, and an int8 model is made "
            "only when a store is created; leave the flag out, or choose another --output"
        )
    return EngineChoice(engine, precision, own.model if precision == "int8" else "")
