"""Which step a model of the ensemble is. Only what the step needs is imported: tokenizer and labels need no engine."""

from q8bert.runtime.triton.steps.step import Place, Step
from q8bert.spec.errors import ConfigError

__all__ = ["LABELS", "MODEL", "STEP", "STEPS", "TOKENIZER", "load_step"]

# the parameter of config.pbtxt that names the step
STEP = "step"
TOKENIZER, MODEL, LABELS = "tokenizer", "model", "labels"
STEPS = (TOKENIZER, MODEL, LABELS)


def load_step(place: Place) -> Step:
    """Load a step.

    Args:
        place: Where it is.

    Returns:
        The step.

    Raises:
        BundleError: If files are missing or altered, or the model cannot run.
        ConfigError: If ``config.pbtxt`` names no step.
    """
    match place.parameters.get(STEP):
        case "tokenizer":
            from q8bert.runtime.triton.steps.tokenizing import TokenizerStep  # noqa: PLC0415

            return TokenizerStep.load(place)
        case "model":
            from q8bert.runtime.triton.steps.running import ModelStep  # noqa: PLC0415 - onnxruntime

            return ModelStep.load(place)
        case "labels":
            from q8bert.runtime.triton.steps.labelling import LabelStep  # noqa: PLC0415

            return LabelStep.load(place)
        case other:
            raise ConfigError([f"{place.folder.parent}/config.pbtxt: {STEP} must be one of {STEPS}, got {other!r}"])
