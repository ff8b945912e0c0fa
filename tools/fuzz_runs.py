"""Damage the folder of a trained run at random, again and again, and check that q8bert says so or does not mind.

Each case copies a run, damages one thing below it (a file cut, emptied, deleted, exchanged with another, replaced by a
folder, by garbage or by a pointer of Git LFS, bytes flipped, a value of a JSON file made another) and reads the run as
``train`` and ``export`` do. What comes of it must be an error of q8bert's own, or the checkpoint as it was trained; a
traceback of anything else, or other weights, are a fault. A case is repeated by its number.

    python tools/fuzz_runs.py build/test-bundles/SST-2/int8-run --cases 10000
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.spec.errors import Q8BertError
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.runs.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.run_folder import newest_checkpoint, prepare_folder
from q8bert.training.runs.run_log import RunLog
from q8bert.training.runs.run_record import read_record

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 90868376\n"
# what may stand in a JSON file in place of anything else
VALUES: tuple[object, ...] = (
    None, True, -1, 0, 1, 3, 10**40, 10**400, 0.5, -1e308, float("nan"), "", "x", "\ud83e", [], [1], ["x"], [[]], {},
    {"x": 1},
)  # fmt: skip

Damage = Callable[[Path, random.Random], str]


def cut(path: Path, draw: random.Random) -> str:
    """Keep the beginning of a file."""
    length = draw.randrange(max(1, path.stat().st_size))
    path.write_bytes(path.read_bytes()[:length])
    return f"cut to {length} bytes"


def delete(path: Path, _: random.Random) -> str:
    """Delete a file."""
    path.unlink()
    return "deleted"


def make_folder(path: Path, _: random.Random) -> str:
    """Put a folder in a file's place."""
    path.unlink()
    path.mkdir()
    return "replaced by a folder"


def replace(path: Path, draw: random.Random) -> str:
    """Put another content in place of a file's."""
    content = draw.choice([b"", b"\0" * 64, b"{}", b"[" * 100_000, LFS_POINTER, draw.randbytes(100)])
    path.write_bytes(content)
    return f"replaced by {content[:20]!r}"


def exchange(path: Path, draw: random.Random) -> str:
    """Exchange a file with another one of the run, of its own name where there is one."""
    others = [other for other in files_below(run_of(path)) if other != path]
    alike = [other for other in others if other.name == path.name]
    other = draw.choice(alike or others)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"exchanged with {other.relative_to(run_of(path))}"


def flip(path: Path, draw: random.Random) -> str:
    """Flip some bits of a file."""
    content = bytearray(path.read_bytes())
    places = [draw.randrange(len(content)) for _ in range(draw.choice([1, 1, 20]))] if content else []
    for place in places:
        content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))
    return f"bits flipped at {places}"


def change_value(path: Path, draw: random.Random) -> str:
    """Make another one of a value of a JSON file, anywhere in it; of another file flip some bits."""
    if path.suffix != ".json":
        return flip(path, draw)
    content = json.loads(path.read_text(encoding="utf-8"))
    where, inner = [], content
    while True:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        key = draw.choice(keys)
        where.append(key)
        if not isinstance(inner[key], dict | list) or not inner[key] or draw.random() < 0.3:
            break
        inner = inner[key]
    value = draw.choice(VALUES)
    inner[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{where} made {str(value)[:20]!r}"


def lose_folder(path: Path, draw: random.Random) -> str:
    """Delete the folder of a file, or put the file in the folder's place."""
    folder, content = path.parent, path.read_bytes()
    if folder == run_of(path):
        return delete(path, draw)
    shutil.rmtree(folder)
    if draw.random() < 0.5:
        folder.write_bytes(content)
        return "its folder replaced by it"
    return "its folder deleted"


def rename_folder(path: Path, draw: random.Random) -> str:
    """Give a checkpoint's folder the name of another step."""
    if not path.parent.name.startswith("step-"):
        return flip(path, draw)
    target = path.parent.with_name(f"step-{draw.randrange(200):08d}")
    if not target.exists():
        path.parent.rename(target)
    return f"its folder renamed to {target.name}"


DAMAGES: tuple[Damage, ...] = (
    cut, delete, make_folder, replace, exchange, flip, change_value, change_value, lose_folder, rename_folder,
)  # fmt: skip


def run_of(path: Path) -> Path:
    """Return the folder of the run that a file is below."""
    return next(folder for folder in path.parents if folder.name == "damaged")


def files_below(folder: Path) -> list[Path]:
    """Return all files, in an order that depends on nothing but their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(run: Path, draw: random.Random) -> str:
    """Damage one thing of a run and say what was done."""
    path = draw.choice([path for path in files_below(run) if "tensorboard" not in path.parts])
    name = path.relative_to(run)
    return f"{name}: {draw.choice(DAMAGES)(path, draw)}"


@dataclass(frozen=True)
class Campaign:
    """A run that is damaged again and again.

    Attributes:
        trained: The run as it was trained.
        sites: Those of its model.
        weights: Of every checkpoint, by step.
        without_checksums: Whether it is made one of an earlier release, in which nothing shows that bits were flipped.
    """

    trained: TrainedRun
    sites: tuple[Site, ...]
    weights: Mapping[int, Mapping[str, torch.Tensor]]
    without_checksums: bool = False

    @classmethod
    def of(cls, run: Path, *, without_checksums: bool = False) -> "Campaign":
        """Read a run that is whole."""
        trained = load_trained_run(run)
        weights = {step: load_checkpoint(folder).weights for step, folder in checkpoint_folders(run).items()}
        return cls(trained, find_sites(trained.source.model), weights, without_checksums)

    def case(self, number: int) -> tuple[str, str]:
        """Damage a copy of the run and use it.

        Args:
            number: Of the case.

        Returns:
            What was done and, where a fault was found, what came of it; otherwise the name of q8bert's error, or
            ``harmless``.
        """
        draw = random.Random(number)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(shutil.copytree(self.trained.config.output_dir, Path(folder, "damaged")))
            if self.without_checksums:
                for path in run.glob("checkpoints/*/state.json"):
                    content = json.loads(path.read_text(encoding="utf-8"))
                    path.write_text(json.dumps({**content, "files": {}}), encoding="utf-8")
            done = damage(run, draw)
            uses = (self._go_on, self._export)
            return done, "; ".join(f"{use.__name__.strip('_')}: {self._outcome(use, run)}" for use in uses)

    def _outcome(self, use: Callable[[Path], None], run: Path) -> str:
        try:
            use(run)
        except Q8BertError as error:
            return type(error).__name__ if len(str(error)) > 20 else f"FAULT: says only {error}"
        except Exception:  # noqa: BLE001 - whatever it is, it is a fault
            return f"FAULT: {traceback.format_exc()}"
        return "harmless"

    def _go_on(self, run: Path) -> None:
        """Read all that ``train`` reads to go on."""
        if not (run / "run.json").exists() or not checkpoint_folders(run):
            return  # it would start anew
        prepare_folder(run, read_record(run), overwrite=False, report=lambda _: None)
        checkpoint = newest_checkpoint(run, self.trained.source.model, self.sites)
        assert checkpoint is not None
        with RunLog(run, resume_step=checkpoint.progress.step):
            pass
        self._compare(checkpoint.progress.step, checkpoint.weights)

    def _export(self, run: Path) -> None:
        """Read all that ``export`` reads."""
        trained = load_trained_run(run)
        trained.tokenizer()
        self._compare(trained.checkpoint.progress.step, trained.checkpoint.weights)

    def _compare(self, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        if self.without_checksums:
            return
        assert all(torch.equal(weights[name], tensor) for name, tensor in self.weights[step].items()), "other weights"


def main() -> None:
    """Run the campaign; exits 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--without-checksums", action="store_true", help="as checkpoints of earlier releases")
    args = parser.parse_args()
    campaign = Campaign.of(args.run, without_checksums=args.without_checksums)
    outcomes: Counter[str] = Counter()
    for number in range(args.first, args.first + args.cases):
        done, outcome = campaign.case(number)
        outcomes["FAULT" if "FAULT" in outcome else outcome] += 1
        if "FAULT" in outcome:
            print(f"case {number}: {done}: {outcome}")
    for outcome, count in outcomes.most_common():
        print(f"{count:6d} {outcome}")
    sys.exit(outcomes["FAULT"] > 0)


if __name__ == "__main__":
    main()
