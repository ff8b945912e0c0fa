"""The cache of optimized models: the same answers, made once, never used when altered or made for something else."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.runtime.engines.optimized_cache import entry_key, new_entry
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import BundleError, ConfigError
from q8bert.spec.files import sha256_of

INPUTS = {
    "input_ids": np.array([[2, 5, 3], [2, 13, 3]], dtype=np.int64),
    "attention_mask": np.ones((2, 3), dtype=np.int64),
    "token_type_ids": np.zeros((2, 3), dtype=np.int64),
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., NDArray[np.float32]]:
    def load_and_run(model: Path | bytes, **options: Any) -> NDArray[np.float32]:
        chosen = RuntimeOptions(threads=1, cache_dir=tmp_path / "cache", **options)
        return Session(model, options=chosen).run(INPUTS)

    return load_and_run


def entries(tmp_path: Path) -> list[Path]:
    """Everything in the cache, so that a leftover shows."""
    return sorted((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_cached_model_gives_the_same_bits(small: Any, tmp_path: Path, run: Any, precision: str) -> None:
    model = small.bundle("SST-2", precision) / "model.onnx"
    expected = Session(model, threads=1).run(INPUTS)
    first = run(model)
    (entry,) = entries(tmp_path)
    made = entry.stat().st_ino
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(run(model), expected)
    assert [(path, path.stat().st_ino) for path in entries(tmp_path)] == [(entry, made)]
    assert entry.stem.endswith(sha256_of(entry))


def test_the_entry_is_what_is_loaded_the_second_time(small: Any, tmp_path: Path, run: Any) -> None:
    good, other = (small.bundle("SST-2", precision) / "model.onnx" for precision in ("int8", "float32"))
    run(good)
    (entry,) = entries(tmp_path)
    # another model under the key of the first, with a name that fits its bytes: only the cache can give its logits
    forged = entry.with_name(f"{entry.stem.partition('-')[0]}-{sha256_of(other)}.onnx")
    shutil.copy(other, forged)
    entry.unlink()
    np.testing.assert_allclose(run(good), Session(other, threads=1).run(INPUTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_an_altered_entry_is_built_again_with_a_warning(small: Any, tmp_path: Path, run: Any, damage: str) -> None:
    model = small.bundle("SST-2", "int8") / "model.onnx"
    expected = run(model)
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes({"flipped": bytes(content), "cut": bytes(content[:1000]), "emptied": b""}[damage])
    with pytest.warns(RuntimeWarning, match="was discarded and is built again: its bytes are not those"):
        np.testing.assert_array_equal(run(model), expected)
    assert entries(tmp_path) == [entry]
    assert entry.stem.endswith(sha256_of(entry))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model)


def test_an_entry_that_onnx_runtime_cannot_load_is_built_again_with_a_warning(
    small: Any, tmp_path: Path, run: Any
) -> None:
    model = small.bundle("SST-2", "int8") / "model.onnx"
    expected = run(model)
    (entry,) = entries(tmp_path)
    entry.unlink()
    entry.write_bytes(b"no model")
    fitting = entry.rename(entry.with_name(f"{entry.stem.partition('-')[0]}-{sha256_of(entry)}.onnx"))
    with pytest.warns(RuntimeWarning, match="could not load"):
        np.testing.assert_array_equal(run(model), expected)
    assert entries(tmp_path) == [entry]
    assert not fitting.exists()


def test_another_model_or_level_is_another_entry(small: Any, tmp_path: Path, run: Any) -> None:
    int8, float32 = (small.bundle("SST-2", precision) / "model.onnx" for precision in ("int8", "float32"))
    for model, level in [(int8, "all"), (float32, "all"), (int8, "extended")]:
        run(model, optimization=level)
    assert len({path.stem.partition("-")[0] for path in entries(tmp_path)}) == 3
    # bytes are the same model as the file that they are from, and threads do not change the graph
    run(int8.read_bytes())
    run(int8, spinning=False)
    assert len(entries(tmp_path)) == 3


def test_the_key_holds_the_build_and_the_cpu(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return entry_key(b"a model", providers=(("CPUExecutionProvider", {}),), options=RuntimeOptions())

    here = key()
    with monkeypatch.context() as patch:
        patch.setattr("onnxruntime.__version__", "99.0")
        assert key() != here
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "another")
        assert key() != here
    assert key() == here


def test_a_model_that_cannot_be_loaded_leaves_no_entry(tmp_path: Path, run: Any) -> None:
    with pytest.raises(BundleError, match="could not load"):
        run(b"no model")
    assert entries(tmp_path) == []
    with pytest.raises(BundleError, match=r"could not load .*nowhere\.onnx"):
        run(tmp_path / "nowhere.onnx")


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_entry(tmp_path / "cache", "a" * 32) as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert entries(tmp_path) == []


@pytest.mark.slow
def test_two_processes_that_start_together_make_one_entry(small: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from q8bert.runtime import Classifier, RuntimeOptions; "
        "options = RuntimeOptions.service(cache_dir=sys.argv[2]); "
        "print(Classifier.load(sys.argv[1], options=options)(['great'])[0].label)"
    )
    command = [sys.executable, "-c", code, str(small.bundle("SST-2", "int8")), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == ["positive"] * 2
    assert len(entries(tmp_path)) == 1


def test_a_bundle_is_loaded_through_the_cache(small: Any, tmp_path: Path, texts: list[str]) -> None:
    bundle = small.bundle("SST-2", "int8")
    options = RuntimeOptions.service(cache_dir=str(tmp_path / "cache"))
    expected = Classifier.load(bundle, threads=1).logits(texts)
    for _ in range(2):
        np.testing.assert_array_equal(Classifier.load(bundle, options=options).logits(texts), expected)
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused_whatever_lies_in_it(
    small: Any, tmp_path: Path, run: Any, mode: int
) -> None:
    good, other = (small.bundle("SST-2", precision) / "model.onnx" for precision in ("int8", "float32"))
    expected = run(good)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    (entry,) = entries(tmp_path)
    entry.unlink()
    shutil.copy(other, entry.with_name(f"{entry.stem.partition('-')[0]}-{sha256_of(other)}.onnx"))
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(ConfigError, match=r"cache_dir .*cache can be written by others .*`chmod go-w "):
        run(good)
    (tmp_path / "cache").chmod(0o755)
    for forged in entries(tmp_path):
        forged.unlink()
    np.testing.assert_array_equal(run(good), expected)


def test_entries_that_nobody_used_for_a_month_are_deleted(small: Any, tmp_path: Path, run: Any) -> None:
    models = [small.bundle("SST-2", precision) / "model.onnx" for precision in ("int8", "float32")]
    run(models[0])
    run(models[0], optimization="extended")
    used, unused = sorted(entries(tmp_path), key=lambda path: path.stat().st_mtime)
    left = tmp_path / "cache" / f"{'a' * 32}.xyz.partial"
    left.mkdir()
    foreign = tmp_path / "cache" / "notes.txt"
    foreign.write_text("mine")
    month = 31 * 24 * 60 * 60
    for path in (used, unused, left, foreign):
        os.utime(path, (path.stat().st_mtime - month,) * 2)
    run(models[0])  # which uses the first again
    run(models[1])  # which makes another
    there = entries(tmp_path)
    assert used in there
    assert foreign in there
    assert unused not in there
    assert left not in there
    assert len(there) == 3


def test_a_folder_that_cannot_be_written_is_refused(small: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = RuntimeOptions(cache_dir=tmp_path / "file")
    with pytest.raises(ConfigError, match=r"cache_dir .*file cannot be written: .* Give another folder"):
        Session(small.bundle("SST-2", "int8") / "model.onnx", options=options)


def test_what_cannot_be_cached_is_refused(run: Any, tmp_path: Path) -> None:
    providers = (("TensorrtExecutionProvider", {}), ("CPUExecutionProvider", {}))
    with pytest.raises(ConfigError, match="TensorrtExecutionProvider, which compiles the graph itself"):
        entry_key(b"a model", providers=providers, options=RuntimeOptions())
    with pytest.raises(ConfigError, match="cannot be used with a model whose weights are in other files"):
        Session(b"a model", weights={"weights.bin": b""}, options=RuntimeOptions(cache_dir=tmp_path / "cache"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_cache_that_is_filled_is_used(small: Any, tmp_path: Path, run: Any) -> None:
    model = small.bundle("SST-2", "int8") / "model.onnx"
    expected = run(model)
    (tmp_path / "cache").chmod(0o500)
    np.testing.assert_array_equal(run(model), expected)
    (tmp_path / "cache").chmod(0o700)
