"""What a row may hold at most: checked here, because OpenVINO does not.

Its CPU plugin gives logits without a word for an id that a table has no row for. A row that is too long for the model
fails, but leaves the compiled model unusable. So both are found before anything is run: ids by the sizes of the tables
that they are looked up in, lengths by OpenVINO's own inference of shapes, and positions that the graph computes itself
by computing them alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.machine.openvino_runtime import openvino

__all__ = ["RowLimits"]


class RowLimits:
    """What a model can look up, and how long its rows may be.

    Args:
        core: OpenVINO's ``Core``.
        model: OpenVINO's model, not compiled.
    """

    def __init__(self, core: Any, model: Any) -> None:
        self._core, self._model = core, model
        self._n_rows: dict[str, int] = {}  # of the smallest table that an input is looked up in
        self._computed: list[tuple[Any, int]] = []
        self._longest = 0
        for lookup in (node for node in model.get_ordered_ops() if node.get_type_name() == "Gather"):
            table = lookup.input_value(0).get_partial_shape()
            if table.rank.is_dynamic or table.rank.get_length() != 2 or table[0].is_dynamic:
                continue  # a part of a shape or of an activation, not a row of a table
            n_rows, indices = table[0].get_length(), _before_casts(lookup.input_value(1))
            if indices.get_node().get_type_name() == "Parameter":
                name = indices.get_any_name()
                self._n_rows[name] = min(n_rows, self._n_rows.get(name, n_rows))
            else:
                self._computed.append((indices, n_rows))

    def fault(self, inputs: Mapping[str, NDArray[np.int64]], names: Iterable[str]) -> str | None:
        """Say why the model cannot run some inputs.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.
            names: Inputs of the model.

        Returns:
            A sentence; None where nothing speaks against it.
        """
        if missing := sorted(set(names) ^ inputs.keys()):
            return f"it has other inputs: {', '.join(missing)}"
        if len(shapes := {values.shape for values in inputs.values()}) > 1:
            return f"its inputs have the different shapes {', '.join(map(str, sorted(shapes)))}"
        for name, n_rows in self._n_rows.items():
            values = inputs[name]
            if values.size and (values.min() < 0 or values.max() >= n_rows):
                return f"{name} has values from {values.min()} to {values.max()}, its table has {n_rows} rows"
        length = next(iter(inputs.values())).shape[-1]
        if length > self._longest:
            if fault := self._length_fault(length, names):
                return fault
            self._longest = length
        return None

    def _length_fault(self, length: int, names: Iterable[str]) -> str | None:
        fixed = self._model.clone()
        try:
            fixed.reshape({name: [1, length] for name in names})
        except RuntimeError as error:
            return f"{length} tokens are too many for it: {' '.join(str(error).split())[-200:]}"
        if not self._computed:
            return None
        positions = openvino.Model(
            [indices for indices, _ in self._computed], self._model.get_parameters(), "positions"
        )
        row = {
            name: np.full((1, length), 1 if name == "attention_mask" else self._n_rows.get(name, 1) - 1)
            for name in names
        }
        found = self._core.compile_model(positions, "CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})(row)
        for number, (_, n_rows) in enumerate(self._computed):
            if found[number].max() >= n_rows:
                return f"{length} tokens are too many for it: it looks up row {found[number].max()} of {n_rows}"
        return None


def _before_casts(output: Any) -> Any:
    while output.get_node().get_type_name() == "Convert":
        output = output.get_node().input_value(0)
    return output
