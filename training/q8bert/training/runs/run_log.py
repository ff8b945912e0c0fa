"""The record of a run: one JSON object a line in ``log.jsonl``, and TensorBoard's curves."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import output_errors, write_bytes

__all__ = ["RunLog", "delete_log"]

LOG_FILE = "log.jsonl"
CURVES_FOLDER = "tensorboard"


class RunLog:
    """Appends events to a run's log; each has ``event``, ``step`` and numbers.

    Args:
        run: Folder of the run.
        resume_step: Step from which the run goes on; lines of later steps, written before an interruption,
            are dropped, for those steps are done again.

    Raises:
        CheckpointError: If what stands there is no log of a run.
        OutputError: If it cannot be written; so do all methods.
    """

    def __init__(self, run: Path, *, resume_step: int) -> None:
        self._path = run / LOG_FILE
        with output_errors(self._path):
            if self._path.exists():
                write_bytes(self._path, b"".join(_lines_until(self._path, resume_step)))
            self._file = self._path.open("a", encoding="utf-8")
        with output_errors(run / CURVES_FOLDER):
            self._curves = SummaryWriter(str(run / CURVES_FOLDER), purge_step=resume_step + 1)

    def write(self, event: str, *, step: int, **values: float | int | str | None) -> None:
        """Append one event; numbers also become curves named ``<event>/<name>``."""
        with output_errors(self._path):
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
        with output_errors(self._path):
            self._file.close()
            self._curves.close()


def delete_log(run: Path) -> None:
    """Delete a run's log and its curves, and nothing that others put beside them."""
    with output_errors(run / LOG_FILE):
        (run / LOG_FILE).unlink(missing_ok=True)
        for path in (run / CURVES_FOLDER).glob("events.out.tfevents.*"):
            path.unlink()
        with suppress(OSError):  # there is none, or others have something in it
            (run / CURVES_FOLDER).rmdir()


def _lines_until(path: Path, step: int) -> Iterator[bytes]:
    *lines, _ = path.read_bytes().split(b"\n")  # a crash can leave a last line without its end
    for number, line in enumerate(lines, start=1):
        try:
            is_kept = json.loads(line)["step"] <= step
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{path}, line {number} is no event of a run's log ({type(error).__name__}: {error}), got "
                f"{line[:60]!r}. Delete the line, or the whole log, and give the same command"
            ) from error
        if is_kept:
            yield line + b"\n"
