"""Compare ways of calibrating a float run without training, by the error of its logits on training rows held out.

    python tools/calibration_trade.py RUN --rows 32 128 512 --observations 1 4 16 64 512 --seeds 11 12 13
    python tools/calibration_trade.py RUN --rows 512 --observations 16 --percentiles 99 99.9 99.99 --seeds 11 12 13

Of each number of rows to calibrate with, and of each number of rows whose largest value makes one observation (the
range is the mean of all observations, so that one observation of all rows is their maximum) or each percentile, it
prints the relative error of the logits of the simulation, mean over seeds, each with other rows. No dev row is read.
"""

import argparse
from pathlib import Path

import numpy as np

from q8bert.export.post_training.calibration import calibrated
from q8bert.export.post_training.given import Asked, read_given
from q8bert.export.proofs.float_comparison import relative_error
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate
from q8bert.training.quantization.config import QuantizationConfig

_HELD_OUT = 512
_BATCH_SIZE = 32


def errors(
    run: Path, seed: int, sizes: list[int], observations: list[int], percentiles: list[float]
) -> dict[tuple[int, str], float]:
    """Return the relative error by number of rows and how ranges are found.

    Args:
        run: Folder of a float run.
        seed: Of the draw of rows.
        sizes: Numbers of rows.
        observations: Numbers of rows an observation.
        percentiles: Percentiles in place of means.

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
        means = [(f"{each} an observation", QuantizationConfig(), each) for each in observations if each <= size]
        others = [
            (f"percentile {each:g}", QuantizationConfig(ranges="percentile", range_percentile=each), 16)
            for each in percentiles
        ]
        for name, options, each in means + others:
            model = calibrated(given.model, rows, options=options, seed=seed, rows_per_observation=each)
            logits = simulate(model, PartlyQuantized.whole(model), given.held_out, batch_size=_BATCH_SIZE)
            found[size, name] = relative_error(logits, floats)
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--observations", type=int, nargs="+", default=[1, 4, 16, 64, 512])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--percentiles", type=float, nargs="*", default=[])
    options = parser.parse_args()
    found = [
        errors(options.run, seed, options.rows, options.observations, options.percentiles) for seed in options.seeds
    ]
    names = list(dict.fromkeys(name for _, name in found[0]))
    print(f"| rows | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for size in options.rows:
        cells = [
            f"{np.mean([one[size, name] for one in found]):.2e}" if (size, name) in found[0] else "" for name in names
        ]
        print(f"| {size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
