"""What is learned of a teacher in a run: asked once, kept in the run's folder, found there again by a resumed run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from q8bert.spec.errors import CheckpointError
from q8bert.training.loop.processes import Processes
from q8bert.training.runs.teacher_outputs import (
    TEACHER_FILE,
    checksum_of_outputs,
    read_teacher_outputs,
    write_teacher_outputs,
)
from q8bert.training.teachers.teacher import Teacher, ask

__all__ = ["Lesson", "learn_lesson"]


@dataclass(frozen=True)
class Lesson:
    """What a teacher said of the training rows.

    Attributes:
        outputs: Float64 ``(n_rows, n_outputs)``: logits, or scores in the units of the data.
        checksum: Their SHA-256, by which checkpoints name them.
    """

    outputs: Tensor
    checksum: str


def learn_lesson(
    run: Path,
    teacher: Teacher,
    *,
    known: str,
    can_be_asked: bool,
    about: dict[str, str],
    n_outputs: int,
    batch_size: int,
    processes: Processes,
    report: Callable[[str], None],
) -> Lesson:
    """Return what a teacher says of the training rows: from the run's folder where the run has learned from it already.

    Args:
        run: The run's folder.
        teacher: The teacher.
        known: SHA-256 of what the run has learned from so far; empty if it starts to learn now.
        can_be_asked: Whether the teacher still says now what it said then. The float twin does not, once the run has
            trained on.
        about: Of which rows and of which teacher it is, kept with it.
        n_outputs: Width of the outputs.
        batch_size: Rows a forward pass.
        processes: Those that train together.
        report: Called with a sentence where the teacher is asked.

    Returns:
        What was said, the same on every process.

    Raises:
        CheckpointError: If what the run has learned from is lost, and cannot be had again.
        ModelError: If an output is not finite.
        OutputError: If the folder cannot be written.
    """
    is_there = (run / TEACHER_FILE).exists()
    processes.agree(int(is_there), on=f"whether {run} holds what the teacher said (here {is_there})")
    if not known and not can_be_asked:
        raise CheckpointError(
            f"the checkpoint that {run} goes on from does not say what it learned from its teacher. Start again with "
            "--overwrite"
        )
    if known and (is_there or not can_be_asked):
        remedy = "Put it back as it was, or start again with --overwrite"
        if can_be_asked:
            remedy = "Put it back as it was, or delete it: the same command asks the teacher again"
        return Lesson(read_teacher_outputs(run, checksum=known, remedy=remedy), known)
    report(f"{teacher.name} is asked for its outputs for {len(teacher.rows)} training rows")
    outputs = ask(teacher, n_outputs=n_outputs, batch_size=batch_size, processes=processes)
    checksum = checksum_of_outputs(outputs)
    if known not in {"", checksum}:
        report(
            "the teacher's outputs are not those of before to the last bit, so the run is not what it would have been"
        )
    if processes.is_first:
        write_teacher_outputs(run, outputs, about=about)
    processes.wait()
    return Lesson(outputs, checksum)
