"""Time `AsyncClassifier` on a mixed stream, nine short rows to a long one, against batches in order of arrival.

Clients send a row each and the next one when they have its answer. `tokens` is the service as it is: batches by tokens,
short rows padded little, a worker a core. `arrival` takes rows as they come, 32 at a time, and pads all to the longest:
with the same workers, and with one worker on all cores, which is how the service was before. They take turns.

    python tools/bench_mixed_stream.py build/bench/minilm-l6-SST-2/int8 --rounds 5 --seconds 5
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_machine import machine

from q8bert.machine.cores import available_cores
from q8bert.runtime import AsyncClassifier, Classifier, RuntimeOptions

_WORDS = ("the", "a", "of", "and", "in", "film", "story", "people", "time", "good", "bad", "never", "house", "number")
_SHORT, _LONG = (4, 12), (90, 110)  # words
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class Contender:
    """A way to make batches.

    Attributes:
        threads: CPU threads of a worker.
        options: Of the service.
    """

    threads: int
    options: Mapping[str, Any]


def contenders() -> dict[str, Contender]:
    """Return the ways that are compared, by name."""
    n_cores = available_cores()
    by_arrival = {"max_padding": 0.999, "max_batch_tokens": 1 << 30}
    return {
        "tokens": Contender(1, {}),
        "arrival, a worker a core": Contender(1, by_arrival),
        "arrival, one worker": Contender(n_cores, by_arrival | {"workers": 1}),
    }


def texts(n: int, *, seed: int) -> list[str]:
    """Return rows of which every tenth is long, in random order."""
    rng = random.Random(seed)
    lengths = [rng.randint(*(_LONG if number % 10 == 0 else _SHORT)) for number in range(n)]
    rng.shuffle(lengths)
    return [" ".join(rng.choices(_WORDS, k=length)) for length in lengths]


async def drive(
    bundle: Path, contender: Contender, rows: Sequence[str], *, n_clients: int, seconds: float
) -> tuple[list[float], float, float]:
    """Let clients ask for some seconds.

    Args:
        bundle: The bundle.
        contender: How batches are made.
        rows: What is asked, over and over.
        n_clients: How many ask at a time.
        seconds: How long, without the warm-up.

    Returns:
        Latencies in milliseconds, CPU seconds of this process, and the share of tokens that were padding.
    """
    classifier = Classifier.load(bundle, options=RuntimeOptions.service(threads=contender.threads))
    async with AsyncClassifier(classifier, **contender.options) as service:
        begins = time.monotonic() + _WARM_UP_S
        ends, latencies = begins + seconds, list[float]()

        async def client(number: int) -> None:
            while (started := time.monotonic()) < ends:
                await service(rows[number % len(rows)])
                if begins <= (now := time.monotonic()) <= ends:
                    latencies.append(1000 * (now - started))
                number += n_clients

        asking = asyncio.gather(*map(client, range(n_clients)))
        await asyncio.sleep(begins - time.monotonic())
        before = time.process_time()
        await asyncio.sleep(ends - time.monotonic())
        used = time.process_time() - before  # not that of rows which end later and are not counted
        await asking
        return latencies, used, service.snapshot().padding_share


def main() -> None:
    """Run the turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn, without its warm-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = texts(5000, seed=options.seed)
    found: dict[str, list[tuple[list[float], float, float]]] = {name: [] for name in contenders()}
    for _ in range(options.rounds):
        for name, contender in contenders().items():
            asked = drive(options.bundle, contender, rows, n_clients=options.clients, seconds=options.seconds)
            found[name].append(asyncio.run(asked))
    print(
        f"{machine()}, {options.clients} clients, {options.rounds} turns of {options.seconds:g} s, seed {options.seed}"
    )
    print("| batches by | rows a second, median of turns | p50 ms | p99 ms | CPU ms a row | padding |")
    print("|---|---|---|---|---|---|")
    for name, turns in found.items():
        latencies = sorted(one for turn in turns for one in turn[0])
        cells = (
            f"{statistics.median(len(turn[0]) / options.seconds for turn in turns):.0f}",
            f"{statistics.median(latencies):.0f}",
            f"{latencies[int(0.99 * (len(latencies) - 1))]:.0f}",
            f"{1000 * sum(turn[1] for turn in turns) / len(latencies):.2f}",
            f"{100 * statistics.mean(turn[2] for turn in turns):.0f} %",
        )
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
