"""Damage the folder of a trained run at random, again and again, and check that q8bert says so or does not mind.

Each case copies a run, damages one thing below it (a file, as ``fuzz_damage`` does, or the folder of a checkpoint:
gone, a file, or of another step) and reads the run as ``train`` and ``export`` do. What comes of it must be an error of
q8bert's own, or the checkpoint as it was trained; a traceback of anything else, or other weights, are a fault. A case
is repeated by its number.

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
from fuzz_damage import damage_folder

from q8bert.export.trained_run import TrainedRun, load_trained_run
from q8bert.spec.errors import Q8BertError
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.identity.run_record import read_record
from q8bert.training.runs.run_folder import newest_checkpoint, prepare_folder
from q8bert.training.runs.run_log import RunLog

# damage to whole folders of checkpoints; the rest is to files
_SHARE_OF_FOLDERS = 0.2


def damage(run: Path, draw: random.Random) -> str:
    """Damage one thing of a run and say what was done: a file of it, or now and then the folder of a checkpoint."""
    folders = list(checkpoint_folders(run).values())
    if draw.random() >= _SHARE_OF_FOLDERS:
        return damage_folder(run, draw)
    folder = draw.choice(folders)
    match draw.choice(["deleted", "a file", "another step"]):
        case "deleted":
            shutil.rmtree(folder)
            return f"{folder.name} deleted"
        case "a file":
            shutil.rmtree(folder)
            folder.write_bytes(draw.randbytes(100))
            return f"{folder.name} replaced by a file"
    target = folder.with_name(f"step-{draw.randrange(200):08d}")
    if not target.exists():
        folder.rename(target)
    return f"{folder.name} renamed to {target.name}"


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
        return cls(trained, find_sites(trained.model.source.model), weights, without_checksums)

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
        checkpoint = newest_checkpoint(run, self.trained.model.source.model, self.sites)
        assert checkpoint is not None
        with RunLog(run, resume_step=checkpoint.progress.step):
            pass
        self._compare(checkpoint.progress.step, checkpoint.weights)

    def _export(self, run: Path) -> None:
        """Read all that ``export`` reads."""
        trained = load_trained_run(run)
        trained.model.tokenizer()
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
