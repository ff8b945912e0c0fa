"""Compare ways of calibrating a float run without training, by the error of its logits on training rows held out.

    python tools/calibration_trade.py RUN --rows 32 128 512 --observations 1 4 16 64 512 --seeds 11 12 13

Of each number of rows to calibrate with, and of each number of rows whose largest value makes one observation (the
range is the mean of all observations, so that one observation of all rows is their maximum), it prints the relative
error of the logits of the simulation, mean over seeds, each with other rows. No dev row is read.
"""

import argparse
from pathlib import Path

import numpy as np

from q8bert.export.post_training.calibration import calibrated
from q8bert.export.post_training.given import Asked, read_given
from q8bert.export.proofs.float_comparison import relative_error
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate

_HELD_OUT = 512
_BATCH_SIZE = 32


def errors(run: Path, seed: int, sizes: list[int], observations: list[int]) -> dict[tuple[int, int], float]:
    """Return the relative error by number of rows and rows an observation.

    Args:
        run: Folder of a float run.
        seed: Of the draw of rows.
        sizes: Numbers of rows.
        observations: Numbers of rows an observation.

    Returns:
        The errors.
    """
    asked = Asked(
        model=str(run), rows=None, rows_option="--data", data_dir=None, task=None, revision=None,
        max_length=None, format=None, skip_malformed=False, seed=seed,
    )  # fmt: skip
    given = read_given(asked, n_calibration=max(sizes), n_held_out=_HELD_OUT, labelled=False, report=lambda _: None)
    floats = simulate(given.model, PartlyQuantized(frozenset(), frozenset()), given.held_out, batch_size=_BATCH_SIZE)
    found = {}
    for size in sizes:
        rows = given.calibration.select(np.arange(size))
        for each in (each for each in observations if each <= size):
            model = calibrated(
                given.model, rows, granularity="per_channel", smoothing=True, keep_float=(), seed=seed,
                rows_per_observation=each,
            )  # fmt: skip
            logits = simulate(model, PartlyQuantized.whole(model), given.held_out, batch_size=_BATCH_SIZE)
            found[size, each] = relative_error(logits, floats)
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--observations", type=int, nargs="+", default=[1, 4, 16, 64, 512])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    options = parser.parse_args()
    found = [errors(options.run, seed, options.rows, options.observations) for seed in options.seeds]
    print(f"| rows | {' | '.join(f'{each} an observation' for each in options.observations)} |")
    print("|---" * (len(options.observations) + 1) + "|")
    for size in options.rows:
        cells = [
            f"{np.mean([one[size, each] for one in found]):.2e}" if (size, each) in found[0] else ""
            for each in options.observations
        ]
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
