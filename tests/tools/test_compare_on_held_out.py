"""Arms are compared on held-out training rows: what is kept is not trained again, and the interval is scipy's."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

TOOL = Path(__file__).parents[2] / "tools" / "compare_on_held_out.py"


def compare(small: Any, work_dir: Path, *arms: str, seeds: tuple[int, ...] = (1, 2, 3)) -> str:
    common = [
        f"model={small.model}", "engine=torch", "max_steps=6", "eval_every=3", "batch_size=8", "max_length=24",
        "learning_rate=3e-3", "calibration_batches=1",
    ]  # fmt: skip
    command = [sys.executable, str(TOOL), str(small.data("SST-2")), "--task", "SST-2", "--work-dir", str(work_dir)]
    command += ["--seeds", *map(str, seeds), "--threads", "1", "--options", *common]
    for arm in arms:
        command += ["--arm", *arm.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_arms_are_paired_by_seed_and_what_is_kept_is_not_trained_again(small: Any, tmp_path: Path) -> None:
    arms = ("plain", "twin teacher=twin", "fp32 quantize=false")
    shown = compare(small, tmp_path, *arms)
    file = tmp_path / "SST-2" / "comparison.json"
    results = json.loads(file.read_text())["results"]
    assert len(results) == 9
    by_arm: dict[str, list[float]] = {"plain": [], "twin": [], "fp32": []}
    for key, result in results.items():
        options = json.loads(key)
        name = "fp32" if options.get("quantize") is False else options.get("teacher", "plain")
        by_arm[name].append(100 * result["last_metrics"]["accuracy"])
        assert (result["train_rows"], result["held_out_rows"], result["best_step"]) == (480, 120, 6)
    differences = np.subtract(by_arm["twin"], by_arm["plain"])
    expected = stats.ttest_rel(by_arm["twin"], by_arm["plain"]).confidence_interval(0.95)
    numbers = re.search(r"last:.*?twin - plain: (\S+) \[(\S+), (\S+)\]", shown, re.DOTALL)
    assert numbers
    found = [float(number) for number in numbers.groups()]
    if np.ptp(differences):  # scipy knows no interval of differences that are all one
        assert found == pytest.approx([differences.mean(), expected.low, expected.high], abs=0.006)
    assert not list((tmp_path / "SST-2" / "runs").iterdir())

    # as an interrupted campaign left it: one result is missing
    removed = list(results)[4]
    content = json.loads(file.read_text())
    kept = {key: value for key, value in results.items() if key != removed} | {"from elsewhere": {"metrics": {}}}
    file.write_text(json.dumps(content | {"results": kept}))
    assert compare(small, tmp_path, *arms) == shown
    again = json.loads(file.read_text())["results"]
    assert again == results | {"from elsewhere": {"metrics": {}}}


def test_an_arm_without_a_value_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), str(tmp_path), "--arm", "twin", "teacher"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'teacher' is no option of an arm; write it as name=value" in done.stderr
