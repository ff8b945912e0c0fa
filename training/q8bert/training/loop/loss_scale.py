"""Dynamic loss scaling: float16 gradients kept large enough not to vanish and small enough not to overflow.

The loss is multiplied by a scale before the backward pass and gradients are divided by it afterwards. Where one
overflowed, the step is left out and the scale divided by a factor; after a window of steps without overflow it is
multiplied again (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).
"""

from dataclasses import dataclass, replace

from q8bert.spec.errors import CalibrationError

__all__ = ["LossScale"]

# gradients that overflow even so are not large but infinite
_SMALLEST = 2.0**-10
# scaled losses must stay well inside float32
_LARGEST = 2.0**40


@dataclass(frozen=True)
class LossScale:
    """The scale and what is remembered to change it; a value, an update returns a new one.

    Attributes:
        scale: What the loss is multiplied by.
        factor: Divides or multiplies the scale.
        window: Steps without overflow after which it rises; 0 for a scale that never changes.
        steps_since_change: Steps without overflow since then.
        n_skipped: Steps left out so far.
    """

    scale: float = 1.0
    factor: float = 2.0
    window: int = 0
    steps_since_change: int = 0
    n_skipped: int = 0

    @property
    def is_dynamic(self) -> bool:
        """Whether an overflow is expected and answered, rather than an error."""
        return self.window > 0

    def after_step(self) -> "LossScale":
        """Return the scale after a step whose gradients were finite."""
        steps = self.steps_since_change + 1
        if not self.is_dynamic or steps < self.window:
            return replace(self, steps_since_change=steps)
        return replace(self, scale=min(self.scale * self.factor, _LARGEST), steps_since_change=0)

    def after_overflow(self) -> "LossScale":
        """Return the scale after a step that was left out.

        Returns:
            The new value.

        Raises:
            CalibrationError: If no scale is small enough: it is not the scale, training has diverged.
        """
        scale = self.scale / self.factor
        if not self.is_dynamic or scale < _SMALLEST:
            raise CalibrationError(
                f"the gradients are not finite at a loss scale of {self.scale:g}: training has diverged. Lower "
                "--learning-rate" + (", or train with --precision float32" if self.is_dynamic else "")
            )
        return replace(self, scale=scale, steps_since_change=0, n_skipped=self.n_skipped + 1)
