"""Small models with padded rows on which `gpu_check.py` compares engines and devices.

A code that lies close to the middle between two integers may round either way in two correct implementations, and one
that flips changes gradients by a hundredth. So rows and weights are drawn until none lies there.
"""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from q8bert.training.engines.engine import Batch, Engine
from q8bert.training.engines.torch_engine import TorchEngine, quantize_activation
from q8bert.training.objectives.objective import Classification, Objective, Regression
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters, refresher

if TYPE_CHECKING:
    from q8bert.training.programs.cache import Programs

__all__ = ["Case", "Outcome"]

_BERT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 64, "initializer_range": 0.3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_N_CLASSES = 3
# in codes: a float32 sum in another order moves a code near the end of its range by some 1e-5
_TIE_DISTANCE = 1e-4
_LOSS_SCALES = {"float16": 64.0}


@dataclass(frozen=True)
class Outcome:
    """What a step gave, on the CPU.

    Attributes:
        loss: Mean loss.
        logits: Of the rows, in training mode; without dropout they are those of evaluation.
        evaluated: Of the rows, in evaluation mode.
        observations: Largest absolute value of each site.
        gradients: Parameter name → gradient.
    """

    loss: float
    logits: Tensor
    evaluated: Tensor
    observations: Tensor
    gradients: dict[str, Tensor]


class Case:
    """A random BERT of two layers, rows for it, and ranges.

    Args:
        regression: Whether it gives a score instead of one of three labels.
        quantize: Whether it is quantized, every other activation smoothed.
    """

    def __init__(self, *, regression: bool, quantize: bool) -> None:
        self.name = f"{'regression' if regression else 'classification'}, {'quantized' if quantize else 'float'}"
        self.objective: Objective = Regression() if regression else Classification()
        self._regression = regression
        self._programs: dict[str, Programs] = {}
        for seed in range(200):
            self._draw(seed, quantize=quantize)
            if not quantize or self._distance_to_ties() > _TIE_DISTANCE:
                return
        raise RuntimeError("no seed keeps clear of rounding ties")

    def outcome(self, engine: str, device: torch.device, *, precision: str = "float32") -> Outcome:
        """Run a step, after another one on rows of other sizes, and bring what it gave to the CPU.

        Args:
            engine: ``ort`` or ``torch``.
            device: Where.
            precision: Of the forward pass.

        Returns:
            What the step gave; gradients are those of the loss itself.
        """
        model: Any = copy.deepcopy(self._model)
        model.to(device)
        weights = prepare_weights(model, self._grids, self.sites)
        built = self._engine(engine, model, weights, precision)
        scale = _LOSS_SCALES.get(precision, 1.0)
        amax = None if self._amax is None else self._amax.to(device)
        built.step(self._others, amax, seed=0)  # other sizes first: memory is bound anew for each
        result = built.step(self._batch, amax, seed=1, loss_scale=scale)
        # read at once, so that a missing wait between streams shows
        gradients = {name: gradient.cpu() / scale for name, gradient in weights.gradients.items()}
        return Outcome(
            float(result.loss),
            result.outputs["logits"].cpu(),
            built.outputs(self._batch.inputs, amax)["logits"].cpu(),
            result.observations.cpu(),
            gradients,
        )

    def requantized(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Change all weights after what rounds them was prepared, as in training, and round them.

        Args:
            device: Where.

        Returns:
            The rounded weights by name as a training run gets them, and as plain code gives them.
        """
        model: Any = copy.deepcopy(self._model)
        weights = prepare_weights(model.to(device), self._grids, self.sites)
        refresh = refresher(weights)
        with torch.no_grad():
            for master in weights.masters.values():
                master.mul_(1.3)
        refresh()
        ours = {name: weights.effective[name].clone().cpu() for name in weights.quantized}
        weights.refresh()
        return ours, {name: weights.effective[name].clone().cpu() for name in weights.quantized}

    def programs(self, precision: str) -> "Programs":
        """Return the ONNX programs, built at the first call."""
        from q8bert.training.programs.cache import build_programs  # needs ONNX Runtime

        if precision not in self._programs:
            self._programs[precision] = build_programs(
                self._model, self.sites, self.objective, input_names=list(self._batch.inputs), precision=precision
            )
        return self._programs[precision]

    def _engine(self, engine: str, model: Any, weights: Any, precision: str) -> Engine:
        if engine == "torch":
            return TorchEngine(model, self.sites, weights, self.objective, precision=precision)
        from q8bert.training.engines.ort_engine import OrtEngine

        return OrtEngine(self.programs(precision), self.sites, weights, self.objective, precision=precision)

    def _draw(self, seed: int, *, quantize: bool) -> None:
        torch.manual_seed(seed)
        config: Any = BertConfig(**{**_BERT, "num_labels": 1 if self._regression else _N_CLASSES})  # type: ignore[arg-type]
        factory: Any = AutoModelForSequenceClassification
        self._model: PreTrainedModel = factory.from_config(config, attn_implementation="eager")
        for parameter in self._model.parameters():
            if parameter.dim() == 1:  # LayerNorm and biases start at 1 and 0, where mistakes can hide
                torch.nn.init.normal_(parameter.data, float(parameter.data.mean()), 0.1)
        self.sites: tuple[Site, ...] = self._some_smoothed() if quantize else ()
        self._grids = quantized_parameters(self._model, per_channel=True) if quantize else {}
        self._amax = torch.linspace(1.5, 3.0, len(self.sites)) if quantize else None
        self._others = self._rows(4, 6)
        self._batch = self._rows(3, 9)

    def _some_smoothed(self) -> tuple[Site, ...]:
        smoothed = []
        for index, site in enumerate(find_sites(self._model)):
            width = self._model.get_parameter(f"{site.linears[0]}.weight").shape[1]
            exponents = tuple(torch.randint(0, 4, (width,)).tolist()) if index % 2 == 0 else ()
            smoothed.append(replace(site, smoothing=exponents))
        return tuple(smoothed)

    def _rows(self, n_rows: int, length: int) -> Batch:
        mask = torch.ones(n_rows, length, dtype=torch.int64)
        for row in range(1, n_rows):
            mask[row, length - row :] = 0
        inputs = {
            "input_ids": torch.randint(5, _BERT["vocab_size"], mask.shape) * mask,  # type: ignore[call-overload]
            "attention_mask": mask,
            "token_type_ids": (torch.arange(length) > 3).long().repeat(n_rows, 1),
        }
        labels = torch.rand(n_rows) * 5 if self._regression else torch.randint(0, _N_CLASSES, (n_rows,))
        return Batch(inputs, {"labels": labels})

    def _distance_to_ties(self) -> float:
        distances: list[float] = []

        def measure(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
            codes = x / scale
            distances.append(float((codes - codes.floor() - 0.5).abs().min()))
            return quantize_activation(x, scale, zero_point, site)

        weights = prepare_weights(self._model, self._grids, self.sites)
        model = QuantizedModel(self._model, self.sites, measure).eval()
        state = {f"model.{name}": tensor for name, tensor in weights.effective.items()}
        with torch.no_grad():
            torch.func.functional_call(model, state, (self._batch.inputs, self._amax))
        return min(distances)
