"""Give thousands of damaged inputs to the real doors: each must end in success or in an error that says what is wrong.

Data files, task files, run folders, checkpoints, source models and bundles are written by a seeded generator, most of
them damaged, and opened as commands open them. An input fails where it ends in another error than q8bert's own, in
one whose message does not name the file, in a dead process, in no answer for ten seconds, or in more than four GiB of
memory. Rows and requests come to a classifier and to an asyncio service in the same way, and each has to get an answer
or an error of its own. Workers open the inputs; one that dies or hangs is replaced, and the next input is taken.

Prints how every kind of input ended, and what failed where. What failed is also written, a JSON object a line, with
what replays it: ``--kinds … --only CASE`` opens one input again, keeps it, and shows the whole trace.

Exit codes: 0 nothing failed, 1 something did.

    python tools/make_test_bundles.py build/test-bundles
    python tools/fuzz_inputs.py --cases 10000 --seed 0 --json build/fuzz.json
    python tools/fuzz_inputs.py --seed 0 --kinds source --only 17
"""

import argparse
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

OUTCOMES = ("success", "refused", "unnamed", "traceback", "memory", "dead", "hanging")
_TIME_LIMIT = 10.0
_START_LIMIT = 120.0  # a worker imports torch first
_MEMORY_LIMIT = 4 * 2**30


@dataclass(frozen=True)
class Ending:
    """How one input ended.

    Attributes:
        kind: Kind of input.
        seed: Seed of all inputs.
        case: Number of this one.
        outcome: One of :data:`OUTCOMES`; the first two are as they should be.
        error: Class of the error, or empty.
        where: Innermost line of q8bert that was on the way, or empty.
        message: What the error says, shortened.
    """

    kind: str
    seed: int
    case: int
    outcome: str
    error: str = ""
    where: str = ""
    message: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it ended as no input may."""
        return self.outcome not in {"success", "refused"}


def opened(kind: str, seed: int, case: int, *, trained: Path, folder: Path) -> tuple[Ending, BaseException | None]:
    """Make one input and open it.

    Args:
        kind: Kind of input.
        seed: Seed of all inputs.
        case: Number of this one.
        trained: What tools/make_test_bundles.py made.
        folder: An empty folder.

    Returns:
        How it ended, and the error if there was one.
    """
    from fuzz_doors import KINDS

    from q8bert.spec.errors import Q8BertError

    use = KINDS[kind].prepare(trained, folder, Random(f"{kind} {seed} {case}"))
    try:
        use()
    except BaseException as error:  # noqa: BLE001 - Rust's panics are no Exception
        message = str(error)
        named = not getattr(KINDS[kind], "has_files", True) or any(
            name in message for name in [str(folder), *(path.name for path in folder.rglob("*.*"))]
        )
        outcome = "traceback"
        if isinstance(error, MemoryError):
            outcome = "memory"
        elif isinstance(error, Q8BertError):
            outcome = "refused" if named else "unnamed"
        text = message if len(message) < 400 else f"{message[:200]} … {message[-150:]}"
        return Ending(kind, seed, case, outcome, type(error).__name__, _where(error), text), error
    return Ending(kind, seed, case, "success"), None


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "q8bert" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else ""


def work(kind: str, seed: int, cases: range, trained: Path) -> None:
    """Open inputs one after the other and write how each ended, a line of JSON each, on what was stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # libraries may print
    import fuzz_doors  # noqa: F401 - not within the limits of the first input

    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_LIMIT, resource.RLIM_INFINITY))
    print("ready", file=answers)
    for case in cases:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        ending, _ = opened(kind, seed, case, trained=trained, folder=folder)
        shutil.rmtree(folder)
        print(json.dumps(asdict(ending)), file=answers)


def endings(kind: str, seed: int, n_cases: int, trained: Path) -> Iterator[Ending]:
    """Yield how the inputs of a kind ended; a worker that dies or hangs at one of them is replaced."""
    case = 0
    while case < n_cases:
        command = [sys.executable, __file__, "--worker", kind, str(seed), str(case), str(n_cases), str(trained)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
            lines = _lines(worker)
            if next(lines) != "ready":
                raise SystemExit(f"the worker for {kind} does not start: {' '.join(command)}")
            for line in lines:
                if line in {"dead", "hanging"}:
                    if case < n_cases:
                        yield Ending(kind, seed, case, line)
                        case += 1
                    break
                yield Ending(**json.loads(line))
                case += 1
            worker.kill()


def _lines(worker: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield a worker's lines; the last one says that it is dead, as at its end, or that it hangs."""
    assert worker.stdout is not None
    fd, buffer, limit = worker.stdout.fileno(), b"", _START_LIMIT
    while True:
        ready, _, _ = select.select([fd], [], [], limit)
        limit = _TIME_LIMIT
        chunk = os.read(fd, 2**16) if ready else b""
        if not chunk:
            yield "dead" if ready else "hanging"
            return
        *whole, buffer = (buffer + chunk).split(b"\n")
        yield from (line.decode() for line in whole)


def print_table(found: Sequence[Ending]) -> None:
    """Print how every kind ended, and what failed, most frequent first."""
    counts = {
        kind: Counter(one.outcome for one in found if one.kind == kind)
        for kind in dict.fromkeys(one.kind for one in found)
    }
    print(f"{'kind':<12}" + "".join(f"{name:>10}" for name in ("cases", *OUTCOMES)))
    for kind, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(
            f"{kind:<12}" + "".join(f"{number:>10}" for number in (count.total(), *(count[name] for name in OUTCOMES)))
        )
    failed: dict[tuple[str, ...], list[Ending]] = defaultdict(list)
    for one in found:
        if one.has_failed:
            failed[one.kind, one.outcome, one.error, one.where].append(one)
    for (kind, outcome, error, where), group in sorted(failed.items(), key=lambda item: -len(item[1])):
        print(
            f"\n{len(group)} × {kind}, {outcome} {error} at {where or '?'}, e.g. --kinds {kind} --only {group[0].case}"
        )
        print(f"    {group[0].message[:240]!r}")


def replay(kinds: Sequence[str], seed: int, case: int, trained: Path) -> None:
    """Open one input of each kind again, keep it, and show the whole trace."""
    for kind in kinds:
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        ending, error = opened(kind, seed, case, trained=trained, folder=folder)
        if error is not None:
            traceback.print_exception(error)
        print(f"{kind} {case}, in {folder}: {ending.outcome}")


def main() -> int:
    """Generate, open, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", help="default: all that this release reads")
    parser.add_argument("--only", type=int, metavar="CASE", help="replay one input of the kinds given")
    parser.add_argument(
        "--trained", type=Path, default=Path("build/test-bundles"), help="what make_test_bundles.py made"
    )
    parser.add_argument("--json", type=Path, help="file for the counts")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz-findings.jsonl"), help="file for what failed")
    parser.add_argument("--jobs", type=int, default=1, help="workers at a time")
    args = parser.parse_args()
    from fuzz_doors import KINDS, kinds_that_are_read

    trained = args.trained.resolve()
    with tempfile.TemporaryDirectory() as folder:
        kinds = args.kinds or kinds_that_are_read(Path(folder))
    if args.only is not None:
        replay(kinds, args.seed, args.only, trained)
        return 0
    started, whole = time.monotonic(), sum(KINDS[kind].share for kind in kinds)
    sizes = {kind: -int(-args.cases * KINDS[kind].share // whole) for kind in kinds}  # rounded up
    with ThreadPoolExecutor(args.jobs) as pool:
        parts = pool.map(lambda kind: list(endings(kind, args.seed, sizes[kind], trained)), kinds)
        found = [one for part in parts for one in part]
    print_table(found)
    failed = [one for one in found if one.has_failed]
    print(f"\n{len(found)} inputs, seed {args.seed}: {len(failed)} failed; {time.monotonic() - started:.0f} s")
    args.findings.parent.mkdir(parents=True, exist_ok=True)
    args.findings.write_text("".join(json.dumps(asdict(one)) + "\n" for one in failed), encoding="utf-8")
    if args.json is not None:
        counts: dict[str, Any] = {
            kind: dict(Counter(one.outcome for one in found if one.kind == kind)) for kind in kinds
        }  # fmt: skip
        args.json.write_text(json.dumps({"seed": args.seed, "cases": len(found), "kinds": counts}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, seed, first, end, material = sys.argv[2:]
        work(name, int(seed), range(int(first), int(end)), Path(material))
    else:
        sys.exit(main())
