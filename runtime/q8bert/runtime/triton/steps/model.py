"""What Triton's Python backend loads; ``config.pbtxt`` says which step it is. Written by ``q8bert triton``."""

from typing import Any

from q8bert.runtime.triton.steps.backend import Backend

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """The class that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the step; what goes wrong here keeps the model from being ready, and stands in Triton's log."""
        self._backend = Backend.load(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, each on its own."""
        return self._backend.answers(requests)
