"""Both engines learn the same from a teacher."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from q8bert.training.engines.engine import Batch
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.distillation import Distilled
from q8bert.training.objectives.objective import Classification, Regression
from q8bert.training.programs.cache import Programs
from q8bert.training.quantization.sites import find_sites
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters


@pytest.mark.parametrize(
    ("n_outputs", "quantize"),
    [
        (3, False),
        (1, False),
        pytest.param(3, True, marks=pytest.mark.slow),
        pytest.param(1, True, marks=pytest.mark.slow),
    ],
)
def test_engines_agree_on_loss_and_gradients_under_a_teacher(
    n_outputs: int, quantize: bool, built: Callable[..., Programs], one_layer_bert: Callable[..., PreTrainedModel]
) -> None:
    torch.manual_seed(3)
    model = one_layer_bert(num_labels=n_outputs, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    labels = Regression() if n_outputs == 1 else Classification()
    objective = Distilled(labels, n_outputs=n_outputs, temperature=3.0, weight=0.7)
    sites = find_sites(model) if quantize else ()
    quantized = quantized_parameters(model, per_channel=True) if quantize else {}
    amax = torch.full((len(sites),), 3.0) if quantize else None
    programs = built(model, sites, objective, input_names=["input_ids", "attention_mask"])
    for n_rows, length in ((4, 6), (3, 5)):  # the program was traced with other sizes
        mask = torch.ones(n_rows, length, dtype=torch.int64)
        mask[-1, 3:] = 0
        inputs = {"input_ids": torch.randint(1, 20, mask.shape) * mask, "attention_mask": mask}
        targets = {
            "labels": torch.rand(n_rows) if n_outputs == 1 else torch.randint(0, n_outputs, (n_rows,)),
            "teacher_logits": torch.randn(n_rows, n_outputs) * 3,
        }
        reference, ours = (prepare_weights(model, quantized, sites) for _ in range(2))
        expected = TorchEngine(model, sites, reference, objective).step(Batch(inputs, targets), amax, seed=1)
        found = OrtEngine(programs, sites, ours, objective, threads=1).step(Batch(inputs, targets), amax, seed=1)
        assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-5)
        assert found.outputs.keys() == {"logits"}
        # float32 sums in another order, and where something is rounded, a tie that falls otherwise
        atol = (1e-2 if quantize else 1e-5) * float(reference.gradient.abs().max())
        torch.testing.assert_close(ours.gradient, reference.gradient, rtol=0, atol=atol)
        assert float(reference.gradient.abs().max()) > 0
