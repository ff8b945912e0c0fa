"""What some steps came to: their mean loss, and how long they took, evaluation and saving left out."""

from dataclasses import dataclass

__all__ = ["Meter"]


@dataclass(frozen=True)
class Meter:
    """Sums over some steps; a value, a step returns a new one.

    It stands in the checkpoint, so that a run that is gone on with says what one that was never interrupted would.

    Attributes:
        n_steps: Steps.
        n_rows: Rows in them, over all processes.
        seconds: Time of the steps alone, from fetching rows to rounding weights.
        loss_sum: Sum of their losses.
        n_losses: How many have one: those whose gradients overflowed in float16 do not.
    """

    n_steps: int = 0
    n_rows: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    n_losses: int = 0

    def after(self, *, n_rows: int, seconds: float, loss: float | None) -> "Meter":
        """Return the sums with one more step.

        Args:
            n_rows: Its rows.
            seconds: How long it took.
            loss: Mean loss over its rows; None for a step that was left out.

        Returns:
            The new value.
        """
        return Meter(
            self.n_steps + 1,
            self.n_rows + n_rows,
            self.seconds + seconds,
            self.loss_sum + (loss or 0.0),
            self.n_losses + (loss is not None),
        )

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the steps; None where none has one."""
        return self.loss_sum / self.n_losses if self.n_losses else None

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step; 0 before any."""
        return self.seconds / max(1, self.n_steps)

    @property
    def rows_per_second(self) -> float:
        """Rows a second; 0 before any."""
        return self.n_rows / self.seconds if self.seconds else 0.0

    def times(self) -> dict[str, float]:
        """Return what the log says of the time."""
        return {
            "seconds_per_step": round(self.seconds_per_step, 6),
            "rows_per_second": round(self.rows_per_second, 3),
        }

    def __str__(self) -> str:
        """Return loss and times in words."""
        loss = "no loss, every step was left out" if self.mean_loss is None else f"loss {self.mean_loss:.4f}"
        return f"{loss}, {self.seconds_per_step:.3g} s a step, {self.rows_per_second:.4g} rows/s"
