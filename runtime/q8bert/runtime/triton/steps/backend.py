"""Between Triton's Python backend and a step: its arguments, requests and responses.

``triton_python_backend_utils`` exists only inside of Triton, so it is imported where it is used.
https://github.com/triton-inference-server/python_backend
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from q8bert.runtime.triton.steps.choice import load_step
from q8bert.runtime.triton.steps.step import Arrays, Outcome, Place, Step
from q8bert.spec.errors import InputError

__all__ = ["Backend", "place_of"]


class Backend:
    """A step behind Triton's interface.

    Args:
        step: The step.
    """

    def __init__(self, step: Step) -> None:
        self._step = step

    @classmethod
    def load(cls, args: Mapping[str, str]) -> Self:
        """Load the step that Triton's configuration names.

        Args:
            args: What Triton gives to ``initialize``.

        Returns:
            The step, ready to answer.

        Raises:
            BundleError: If files are missing or altered, or the model cannot run.
        """
        return cls(load_step(place_of(args)))

    def answers(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests.

        Args:
            requests: Triton's ``InferenceRequest`` objects.

        Returns:
            One ``InferenceResponse`` each, in order.
        """
        import triton_python_backend_utils as pb_utils  # noqa: PLC0415

        return [_response(pb_utils, outcome) for outcome in self._step.run([self._inputs(one) for one in requests])]

    def _inputs(self, request: Any) -> Arrays:
        given = {tensor.name(): tensor for tensor in request.inputs()}
        return {name: given[name].as_numpy() for name in self._step.input_names}


def place_of(args: Mapping[str, str]) -> Place:
    """Return where a step is, from what Triton gives to ``initialize``.

    Args:
        args: Folder and version of the model, its configuration as JSON, and the instance's device.

    Returns:
        The place.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return Place(
        folder=Path(args["model_repository"], args["model_version"]),
        parameters={key: value["string_value"] for key, value in parameters.items()},
        gpu=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
    )


def _response(pb_utils: Any, outcome: Outcome) -> Any:
    if isinstance(outcome, Exception):
        code = pb_utils.TritonError.INVALID_ARG if isinstance(outcome, InputError) else pb_utils.TritonError.INTERNAL
        return pb_utils.InferenceResponse([], error=pb_utils.TritonError(str(outcome), code))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outcome.items()])
