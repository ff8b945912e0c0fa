"""The record of a run: one JSON object a line in ``log.jsonl``, and TensorBoard's curves."""

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from q8bert.spec.files import write_text

__all__ = ["LOG_FILE", "RunLog"]

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends events to a run's log; each has ``event``, ``step`` and numbers.

    Args:
        run: Folder of the run.
        resume_step: Step from which the run goes on; lines of later steps, written before an interruption,
            are dropped, for those steps are done again.
    """

    def __init__(self, run: Path, *, resume_step: int) -> None:
        path = run / LOG_FILE
        if path.exists():
            write_text(path, "".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= resume_step))
        self._file = path.open("a", encoding="utf-8")
        self._curves = SummaryWriter(str(run / "tensorboard"), purge_step=resume_step + 1)

    def write(self, event: str, *, step: int, **values: float | int | str | None) -> None:
        """Append one event; numbers also become curves named ``<event>/<name>``."""
        self._file.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._curves.add_scalar(f"{event}/{name}", value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._curves.close()


def _whole_lines(path: Path) -> list[str]:
    # a crash can leave a last line without its end
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
