"""Which matrix products a session really runs in integers: counted in what it ran.

A quantized graph only says where numbers are rounded. Whether a product then runs in integers is up to ONNX Runtime's
optimizer, which leaves it in float without a word where it does not know the pattern, for example because axes that
were dynamic are fixed. So the first run is profiled: ONNX Runtime then writes down every kernel, with the shapes that
it was given. A product with a weight has one factor of rows and columns at most besides it; an attention product has
two factors of rows for each head.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from q8bert.runtime.engines.providers.table import CPU_PROVIDER, facts_of

__all__ = ["KernelWatch", "Products", "count_products", "nodes_on_the_cpu"]

_WHOLE_NUMBERS = frozenset({"int64", "int32", "bool"})
_OF_SHAPES = frozenset({"Shape", "Size"})  # they read no content

_FLOAT_KERNELS = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm"})
_INTEGER_KERNELS = frozenset({
    "MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm",
})  # fmt: skip


@dataclass(frozen=True)
class Products:
    """How many products with weights ran in integers, and how many in float.

    Attributes:
        n_integer: Products of integers.
        n_float: Products of floats.
        floats: What floats they are: ``float32``, ``bfloat16`` or ``float16``.
    """

    n_integer: int
    n_float: int
    floats: str = "float32"

    @property
    def precision(self) -> str:
        """``int8``, :attr:`floats`, or ``mixed`` where there are both."""
        if self.n_integer and self.n_float:
            return "mixed"
        return "int8" if self.n_integer else self.floats

    def __str__(self) -> str:
        return f"{self.precision} ({self.n_integer} of {self.n_integer + self.n_float} products)"


class KernelWatch:
    """Lets a session write down what its first run runs; a context manager, as that takes a file for the time.

    Where no temporary file can be made nothing is written down, and nothing known.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._folder = Path(tempfile.mkdtemp(prefix="q8bert-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def arm(self, chosen: Any) -> None:
        """Let a session that is made with these options be watched."""
        if self._folder is not None:
            chosen.enable_profiling = True
            chosen.profile_file_prefix = str(self._folder / "kernels")

    @property
    def sees(self) -> bool:
        """Whether there is a file to write down in."""
        return self._folder is not None

    def events(self, session: Any) -> list[Mapping[str, Any]] | None:
        """End the watch.

        Args:
            session: ONNX Runtime's session; it has run since it was made.

        Returns:
            What was written down, in ONNX Runtime's own form; None where nothing was.
        """
        if self._folder is None:
            return None
        try:
            found: list[Mapping[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no room for it
            return None
        return found


def count_products(events: Iterable[Mapping[str, Any]]) -> Products | None:
    """Count the products with weights among ONNX Runtime's profiling events.

    Args:
        events: As it writes them, of one run or of several.

    Returns:
        The counts; None where there are none, or a provider ran parts that it compiled itself.
    """
    kernels: dict[tuple[str, str], str] = {}
    types: set[str] = set()
    for event, about in _kernels(events):
        if not facts_of(about.get("provider", "")).is_savable:
            return None
        factors = [shape for given in about["input_type_shape"] for shape in given.values() if len(shape) > 2]
        if len(factors) < 2:
            kernels[str(event.get("name")), str(about.get("node_index"))] = kind = about.get("op_name", "")
            types |= {name for given in about["input_type_shape"] for name in given if kind in _FLOAT_KERNELS}
    n_integer = sum(kind in _INTEGER_KERNELS for kind in kernels.values())
    n_float = sum(kind in _FLOAT_KERNELS for kind in kernels.values())
    floats = "float16" if types == {"float16"} else "float32"
    return Products(n_integer, n_float, floats) if n_integer + n_float else None


def nodes_on_the_cpu(events: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Name the nodes that ran on the CPU and work on more than whole numbers, which is what shapes and positions are.

    ONNX Runtime itself leaves the arithmetic of shapes to the CPU, whatever provider is asked for.

    Args:
        events: ONNX Runtime's profiling events.

    Returns:
        Kind and name of each, in the order in which they ran.
    """
    found: dict[str, None] = {}
    for event, about in _kernels(events):
        kind = about.get("op_name", "")
        if about.get("provider") != CPU_PROVIDER or kind in _OF_SHAPES:
            continue
        tensors = [*about["input_type_shape"], *about.get("output_type_shape", ())]
        if not {name for given in tensors for name in given} <= _WHOLE_NUMBERS:
            found[f"{kind} {str(event.get('name')).removesuffix('_kernel_time')}"] = None
    return tuple(found)


def _kernels(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for event in events:
        about = event.get("args", {})
        if event.get("cat") == "Node" and "input_type_shape" in about:
            yield event, about
