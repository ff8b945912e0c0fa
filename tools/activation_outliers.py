"""Print the outliers of a model's activations, site by site, and by what they are smoothed.

Observed as calibration does it, on float batches of a task's training rows: the largest absolute value of each channel.
Runs in the training environment.

    python tools/activation_outliers.py GLUE/STS-B --task STS-B --model minilm-l6
"""

import argparse
import itertools
from collections.abc import Sequence

import torch

from q8bert.data.readers import read_split
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.loop.batches import TokenizedSplit, tokenize_split
from q8bert.training.models.source import SourceModel, load_source_model
from q8bert.training.quantization.calibration import channel_amax
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.smoothing import outlier_threshold, smooth

MAX_LENGTH, BATCH_SIZE, N_BATCHES, SEED = 128, 16, 8, 11


def largest_of_channels(source: SourceModel, sites: Sequence[Site], split: TokenizedSplit) -> list[torch.Tensor]:
    """Return the largest absolute value of each channel of each site over the first training batches."""
    source.model.train(mode=False)
    batches = itertools.islice(split.training_steps(BATCH_SIZE, seed=SEED, start=0), N_BATCHES)
    found = [channel_amax(source.model, sites, split.batch(rows).inputs) for rows in batches]
    return [torch.stack(of_site).amax(dim=0) for of_site in zip(*found, strict=True)]


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
    channels = largest_of_channels(source, sites, split)
    print("| site | largest channel | second | exceeded by 2 % | scaled down: channels, largest factor |")
    print("|---|---|---|---|---|")
    for site, amax in zip(smooth(sites, channels), channels, strict=True):
        first, second = amax.topk(2).values.tolist()
        threshold = float(outlier_threshold(amax))
        n_scaled = sum(exponent > 0 for exponent in site.smoothing)
        factor = f"{n_scaled}, {2 ** max(site.smoothing)}" if site.smoothing else "none"
        print(f"| {site.name} | {first:.2f} | {second:.2f} | {threshold:.2f} | {factor} |")


if __name__ == "__main__":
    main()
