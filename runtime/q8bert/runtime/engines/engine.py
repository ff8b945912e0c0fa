"""What a classifier needs of whatever runs its model."""

from collections.abc import Mapping
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray

from q8bert.runtime.engines.kernels import Products
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import NamedProviders
from q8bert.spec.kinds import one_of

__all__ = ["ENGINES", "ONNX_RUNTIME", "OPENVINO", "Engine", "EngineName"]

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
ENGINES = (ONNX_RUNTIME, OPENVINO)
EngineName = Annotated[str, one_of(ENGINES)]


class Engine(Protocol):
    """A model that is loaded and ready to run; several threads may share it."""

    @property
    def engine(self) -> str:
        """Which of :data:`ENGINES` it is."""

    @property
    def options(self) -> RuntimeOptions:
        """How it runs."""

    @property
    def providers(self) -> NamedProviders:
        """Execution providers that it was loaded with."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model."""

    @property
    def products(self) -> Products | None:
        """What its products with weights run in; None where that is not known."""

    @property
    def place(self) -> str:
        """Where it runs, and on which release of what, in words."""

    @property
    def float_note(self) -> str:
        """What to know where a quantized model ran in float here; empty where nothing is known."""

    @property
    def runs_together(self) -> bool:
        """Whether calls of several threads run at the same time; otherwise one after the other."""

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.

        Returns:
            Float32 ``(batch, n_outputs)``.

        Raises:
            BundleError: If the model cannot be run on these inputs.
            ForkedError: If this process was forked after the model was loaded, and the engine has threads.
        """
        ...
