"""Train, quantize and score on GLUE over seeds, and print the table of the paper: one command, resumable after a kill.

For each task and seed it trains the FP32 twin and the INT8 models, exports them, quantizes the twin without training
(ours, ONNX Runtime's two ways, and NNCF's where it is installed), and scores every bundle. Each result is a JSON file
with its predictions and all that it was made by; what is there is not made again, and what was interrupted goes on.
Steps before quantization starts are the same in all runs of a seed, so the twin alone trains them.
Differences from the twin come with an interval of 95 %, over rows and over seeds.

    python tools/reproduce.py GLUE --tasks STS-B RTE MRPC CoLA --seeds 11 12 13 14 15
    python tools/reproduce.py GLUE --tasks QNLI --train-rows 10000 --seeds 11
    python tools/reproduce.py GLUE --model google-bert/bert-base-uncased --common "--device cuda --precision bfloat16"
    python tools/reproduce.py GLUE --tasks STS-B --held-out 0.1 --variant "early=--quantize-from 0.25"   # to choose
    python tools/reproduce.py GLUE --held-out 0.1 --modes one-shot --one-shot-variant "plain=--no-smoothing"
    python tools/reproduce.py --table results/glue                                  # only print what is there

Exit codes: 0 all done, 1 a command failed (the others were done), 2 wrong use, 130 stopped by Ctrl-C or `kill`.
"""

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reproduction.commands import CommandError, Commands
from reproduction.data import prepare_rows
from reproduction.identity import Identity
from reproduction.modes import MODES, Mode, chosen_modes
from reproduction.record import read_results
from reproduction.table import MixedResultsError, of_one_code, render
from reproduction.work import Work

from q8bert.spec.errors import Q8BertError
from q8bert.tasks.glue import GLUE_TASKS, glue_task


def make_work(args: argparse.Namespace, modes: Sequence[Mode], identity: Identity, commands: Commands) -> list[Work]:
    """Return what is to be done, seed by seed, so that every task has something early."""
    works = []
    for seed in args.seeds:
        for name in args.tasks:
            task = glue_task(name)
            part = f"{name}-{args.train_rows or 'all'}-{args.held_out:g}" + (
                f"-dev{args.dev_rows}" if args.dev_rows else ""
            )
            rows = prepare_rows(
                task, args.glue_dir / name, args.work_dir / "data" / part, n_train=args.train_rows,
                held_out=args.held_out, n_scored=args.dev_rows,
            )  # fmt: skip
            works.append(
                Work(
                    task=task, rows=rows, seed=seed, model=args.model, modes=modes, common=shlex.split(args.common),
                    identity=identity, results=args.results / identity.source / Path(args.model).name / part,
                    folder=args.work_dir / identity.source / f"{part}-seed{seed}", keep_runs=args.keep_runs,
                    threads=args.threads, commands=commands,
                    report=lambda text: print(text, file=sys.stderr, flush=True),
                )
            )  # fmt: skip
    return works


def do_all(works: Sequence[Work], n_jobs: int, commands: Commands) -> list[str]:
    """Do the work, several pieces at a time; returns what failed, in words. Ctrl-C ends what is under way."""

    def do(work: Work) -> str:
        try:
            work.run()
        except (CommandError, Q8BertError, ValueError) as error:
            if not commands.is_stopped:
                print(f"failed: {error}", file=sys.stderr, flush=True)
            return str(error)
        return ""

    pool = ThreadPoolExecutor(max_workers=n_jobs)
    try:
        return [failure for failure in pool.map(do, works) if failure]
    except KeyboardInterrupt:
        commands.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def named_options(text: str) -> tuple[str, str]:
    """Return a name and the options that it stands for, of ``NAME=OPTIONS``."""
    name, equals, options = text.partition("=")
    if not (equals and re.fullmatch(r"[\w.-]+", name)):  # it names files
        raise argparse.ArgumentTypeError(
            f"a variant is given as NAME=OPTIONS, its name of letters, digits, '.', '_' and '-'; got {text!r}"
        )
    return name, options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign and print the table.

    Args:
        arguments: Those of the command line; by default the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue_dir", type=Path, nargs="?", help="folder with one folder a task")
    parser.add_argument("--tasks", nargs="+", default=["STS-B", "RTE", "MRPC", "CoLA"], choices=list(GLUE_TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--modes", nargs="+", default=[], choices=[mode.name for mode in MODES])
    parser.add_argument(
        "--variant", type=named_options, action="append", default=[], metavar="NAME=OPTIONS",
        help="one more way to train: options of `q8bert train` in one text",
    )  # fmt: skip
    parser.add_argument(
        "--one-shot-variant", type=named_options, action="append", default=[], metavar="NAME=OPTIONS",
        help="one more way to quantize the twin: options of `q8bert quantize`",
    )  # fmt: skip
    parser.add_argument("--model", default="minilm-l6", help="what training starts from")
    parser.add_argument("--common", default="", help="options of `q8bert train` for all modes, in one text")
    parser.add_argument("--train-rows", type=int, default=0, help="training rows to use; 0 for all")
    parser.add_argument("--dev-rows", type=int, default=0, help="rows of the dev split to score on; 0 for all")
    parser.add_argument(
        "--held-out", type=float, default=0.0, help="share of training rows to score on, in dev's place"
    )
    parser.add_argument("--jobs", type=int, default=1, help="tasks and seeds at a time")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each")
    parser.add_argument("--results", type=Path, default=Path("results/glue"), help="folder of the JSON files")
    parser.add_argument("--work-dir", type=Path, default=Path("build/reproduce"), help="folder of runs and bundles")
    parser.add_argument(
        "--keep-runs", action="store_true", help="keep runs and bundles, for modes of the same twins that come later"
    )
    parser.add_argument("--source", help="print results of this state of the code; default the only one there")
    parser.add_argument(
        "--table", type=Path, metavar="RESULTS", help="print the table of a folder, and do nothing else"
    )
    args = parser.parse_args(arguments)
    failures: list[str] = []
    try:
        if args.table is None:
            if args.glue_dir is None:
                parser.error("give the folder of GLUE, or --table")
            if args.held_out and args.dev_rows:
                parser.error("--held-out scores on training rows; leave --dev-rows out")
            identity, commands = Identity.here(), Commands()
            works = make_work(args, chosen_modes(args.modes, args.variant, args.one_shot_variant), identity, commands)
            failures = do_all(works, args.jobs, commands)
            found = [result for result in read_results(args.results) if result.identity["source"] == identity.source]
        else:
            found = of_one_code(read_results(args.table), args.source)
        print(render(found))
    except (MixedResultsError, Q8BertError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 1 if failures else 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # nothing that was begun is left behind
    sys.exit(main())
