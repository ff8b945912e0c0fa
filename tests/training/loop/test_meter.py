"""Loss and time of some steps, summed by hand."""

import pytest

from q8bert.training.loop.meter import Meter


def test_means_are_over_the_steps_and_rows_a_second_over_their_time() -> None:
    meter = Meter()
    for n_rows, seconds, loss in ((16, 0.5, 2.0), (16, 0.25, 1.0), (8, 0.25, 3.0)):
        meter = meter.after(n_rows=n_rows, seconds=seconds, loss=loss)
    assert (meter.n_steps, meter.n_rows, meter.seconds) == (3, 40, 1.0)
    assert meter.mean_loss == 2.0
    assert meter.seconds_per_step == pytest.approx(1 / 3)
    assert meter.rows_per_second == 40.0
    assert meter.times() == {"seconds_per_step": 0.333333, "rows_per_second": 40.0}
    assert str(meter) == "loss 2.0000, 0.333 s a step, 40 rows/s"


def test_a_step_that_was_left_out_takes_time_and_has_no_loss() -> None:
    meter = Meter().after(n_rows=4, seconds=1.0, loss=None)
    assert (meter.mean_loss, meter.seconds_per_step) == (None, 1.0)
    assert str(meter) == "no loss, every step was left out, 1 s a step, 4 rows/s"
    assert meter.after(n_rows=4, seconds=1.0, loss=0.5).mean_loss == 0.5


def test_before_any_step_there_is_nothing_to_divide_by() -> None:
    assert (Meter().mean_loss, Meter().seconds_per_step, Meter().rows_per_second) == (None, 0.0, 0.0)
