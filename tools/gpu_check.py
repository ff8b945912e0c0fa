"""Check training and serving on a GPU, and time both: one command, at most six minutes, no network.

``environment``  card, driver, libraries; whether torch and ONNX Runtime start on the card
``gradients``    both engines on the card against torch on the CPU
``training``     short runs with each engine and precision, stopped half-way and resumed
``serving``      an INT8 bundle on the card, beside torch in float16, against the CPU's answers
``speed``        time and memory of a training step: both engines, plain torch, torch.compile

Needs what q8bert[train-gpu] installs. Where ONNX Runtime cannot run on the card, torch alone is checked, and the
output says so. Each part stands alone: what fails in one leaves the others. The JSON file is replaced after
everything that is found, so a check that is killed keeps what it had.

Exit codes: 0 all parts that could run passed, 1 a part failed, 2 wrong use.

    python tools/gpu_check.py --output gpu_check.json
    python tools/gpu_check.py --parts gradients,speed
    python tools/gpu_check.py --device cpu --quick          # tries the check itself, no GPU needed
"""

import argparse
import faulthandler
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_checks.ahead import ProgramsAhead
from gpu_checks.environment import check_environment
from gpu_checks.findings import Findings, run_part
from gpu_checks.gradients import check_gradients
from gpu_checks.serving import check_serving
from gpu_checks.setting import CONTENDERS, PRECISIONS, Setting, find_device, obstacle_to_ort
from gpu_checks.speed import check_speed, timed_sizes
from gpu_checks.tables import print_part, print_summary
from gpu_checks.training import check_training

from q8bert.spec.files import write_json

Part = Callable[[Setting, Findings], None]

# name → what runs, and its share of the six minutes in seconds; what a part leaves over, the next ones may use
PARTS: Mapping[str, tuple[Part, float]] = {
    "environment": (check_environment, 15.0),
    "gradients": (check_gradients, 75.0),
    "training": (check_training, 75.0),
    "serving": (check_serving, 60.0),
    "speed": (check_speed, 130.0),  # the last one, since it can leave rows out where the others took longer
}
_LIMIT_SECONDS = 360.0
_STDERR = 2  # its number, which stands also where sys.stderr was replaced
_QUICK_FACTOR = 10.0  # a CPU, busy with other things, may take its time


class Record:
    """The JSON file: one object, replaced after everything that is found.

    Args:
        path: Where it is written.
        options: What was asked for.
    """

    def __init__(self, path: Path, options: Mapping[str, object]) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        self._path = path
        self._head = {"started_at": datetime.now(UTC).isoformat(timespec="seconds"), "options": dict(options)}
        self._started = time.monotonic()
        self.write()

    def write(self) -> None:
        """Replace the file."""
        seconds = round(time.monotonic() - self._started, 2)
        write_json(self._path, {**self._head, "seconds": seconds, "parts": self.parts})


def run_parts(names: Sequence[str], setting: Setting, record: Record, parts: Mapping[str, tuple[Part, float]]) -> None:
    """Run parts one after the other; each is recorded and printed as it ends.

    Args:
        names: Parts to run.
        setting: What they are told.
        record: Where their findings are kept.
        parts: All there are.
    """
    deadline = time.monotonic()
    for name in names:
        part, budget = parts[name]
        budget *= _QUICK_FACTOR if setting.quick else 1
        deadline += budget
        found: dict[str, Any] = {"status": "running", "reason": "", "seconds": None, "budget_seconds": budget}
        record.parts[name] = found

        def changed(what: str, name: str = name) -> None:
            record.write()
            if what:
                _say(f"  {name}: {what}")

        findings = Findings(deadline, changed)
        found |= {key: getattr(findings, key) for key in ("tables", "notes", "faults", "tracebacks")}
        record.write()
        _say(f"{name} …")
        found |= run_part(lambda findings, part=part: part(setting, findings), findings)  # type: ignore[misc]
        record.write()
        print_part(name, found)
        _say(f"{name}: {found['status']} in {found['seconds']:.1f} s (budget {budget:.0f} s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check.

    Args:
        arguments: Those of the command line; by default the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help=f"of the speed part: {','.join(CONTENDERS)}")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps, to try the check itself")
    args = parser.parse_args(arguments)
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown parts: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    contenders = tuple(args.contenders.split(","))
    if unknown := [name for name in contenders if name not in CONTENDERS]:
        parser.error(f"unknown contenders: {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    if not args.output.parent.is_dir():
        parser.error(f"--output {args.output}: there is no folder {args.output.parent}")
    try:
        device = find_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    options = {"parts": names, "contenders": list(contenders), "device": str(device), "quick": args.quick}
    # a part that hangs cannot be stopped from inside: the process ends, with the place where it hung
    seconds = _LIMIT_SECONDS * (_QUICK_FACTOR if args.quick else 1)
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        return _check(names, contenders, device, args.output, options, quick=args.quick)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _check(
    names: Sequence[str],
    contenders: tuple[str, ...],
    device: Any,
    output: Path,
    options: Mapping[str, object],
    *,
    quick: bool,
) -> int:
    record = Record(output, options)
    without_ort = obstacle_to_ort(device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        setting = Setting(device, quick, Path(folder), without_ort)
        # the test of this check builds its few tiny programs where they are needed
        is_ahead = "speed" in names and "ort_qat" in contenders and without_ort is None and not quick
        wanted = [(size, precision) for size in timed_sizes(setting) for precision in PRECISIONS] if is_ahead else []
        with closing(ProgramsAhead(wanted, setting.graphs)) as ahead:
            waiting = Setting(device, quick, Path(folder), without_ort, ahead.wait, contenders)
            run_parts(names, waiting, record, PARTS)
    print_summary(record.parts)
    _say(f"written: {output}")
    return int(any(found["status"] == "failed" for found in record.parts.values()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
