"""Print the outliers of a model's activations, site by site, and on which grids they are put.

Observed as calibration does it, on float batches of a task's training rows: the largest absolute value of each channel.
Runs in the training environment.

    python tools/activation_outliers.py GLUE/STS-B --task STS-B --model minilm-l6
"""

import argparse
import itertools

import torch

from q8bert.data.readers import read_split
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.loop.batches import tokenize_split
from q8bert.training.models.source import load_source_model
from q8bert.training.quantization.calibration import calibrate, see_sites
from q8bert.training.quantization.sites import find_sites
from q8bert.training.quantization.smoothing import outlier_threshold

MAX_LENGTH, BATCH_SIZE, N_BATCHES, SEED, DECAY = 128, 16, 8, 11, 0.99


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", help="folder of the task's files")
    parser.add_argument("--task", default="STS-B", choices=list(GLUE_TASKS))
    parser.add_argument("--model", default="minilm-l6")
    args = parser.parse_args()
    task = glue_task(args.task)
    torch.manual_seed(SEED)
    source = load_source_model(
        args.model, n_outputs=task.head.n_outputs, labels=task.head.labels, max_length=MAX_LENGTH, dropout=None
    )
    split = tokenize_split(
        read_split(task, args.data_dir, "train"), task.head, TextTokenizer(source.tokenizer, max_length=MAX_LENGTH),
        input_names=source.input_names, pad_token_id=source.pad_token_id,
    )  # fmt: skip
    sites = find_sites(source.model)
    batches = [
        [split.batch(rows).inputs]
        for rows in itertools.islice(split.training_steps(BATCH_SIZE, seed=SEED, start=0), N_BATCHES)
    ]
    chosen, _ = calibrate(source.model, sites, batches, decay=DECAY, smoothing=True)
    print("| site | largest channel | second | exceeded by 2 % | scaled down: channels, largest factor | zero point |")
    print("|---|---|---|---|---|---|")
    for site, seen in zip(chosen, see_sites(source.model, sites, batches), strict=True):
        amax = torch.maximum(-seen.lowest, seen.highest).amax(dim=0)
        first, second = amax.topk(2).values.tolist()
        threshold = float(outlier_threshold(amax))
        n_scaled = sum(exponent > 0 for exponent in site.smoothing)
        factor = f"{n_scaled}, {2 ** max(site.smoothing)}" if site.smoothing else "none"
        print(f"| {site.name} | {first:.2f} | {second:.2f} | {threshold:.2f} | {factor} | {site.zero_point} |")


if __name__ == "__main__":
    main()
