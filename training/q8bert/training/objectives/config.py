"""Who is learned from besides the labels."""

from dataclasses import dataclass, fields
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import Check, above
from q8bert.training.options import option

__all__ = ["TWIN", "DistillationConfig"]

# the teacher that a run becomes itself
TWIN = "twin"


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Options of learning from a teacher; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    teacher: Annotated[str, Check("twin, a folder or a name", bool)] | None = option(
        default=None,
        help="Whose outputs are learned too: twin (the run's own float model where quantization starts), the folder of "
        "a run, or a model as --model names it, fine-tuned on the task. Default: labels alone.",
    )
    teacher_revision: str | None = option(
        default=None, help="Branch, tag or commit of a teacher of the hub; its main branch if not given."
    )
    teacher_temperature: Annotated[float, above(0)] = option(
        default=2.0, help="What teacher's and student's logits are divided by; for classification."
    )
    teacher_weight: Annotated[float, Check("between 0 and 1", lambda value: 0 <= value <= 1)] = option(
        default=0.5, help="Share of the teacher in the loss; that of the labels is the rest."
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        if self.teacher is None:
            return [
                f"{known.name} ({getattr(self, known.name)}) is of a teacher, and none is given; give --teacher too"
                for known in fields(self)
                if getattr(self, known.name) != known.default
            ]
        if self.teacher == TWIN and self.teacher_revision is not None:
            return [
                f"teacher_revision ({self.teacher_revision}) is for a teacher of the hub, and twin is this run's own"
            ]
        return []

    @property
    def learns_from_twin(self) -> bool:
        """Whether the teacher is the run's own float model."""
        return self.teacher == TWIN

    @property
    def finished_teacher(self) -> str | None:
        """The teacher that is there before the run, if there is one."""
        return None if self.learns_from_twin else self.teacher
