"""What is written where, what is refused, and what stands after something went wrong."""

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from q8bert.runtime.triton import repository as module
from q8bert.runtime.triton.options import TritonOptions
from q8bert.runtime.triton.repository import write_repository
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.errors import BundleError, ConfigError, OutputError

PYTHON = TritonOptions(backend="python")


def everything(folder: Path) -> Mapping[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sentiment(small: Any) -> Path:
    bundle: Path = small.bundle("SST-2", "int8")
    return bundle


@pytest.fixture
def float_sentiment(small: Any) -> Path:
    bundle: Path = small.bundle("SST-2", "float32")
    return bundle


# ---- names --------------------------------------------------------------------------------------


def test_a_model_and_the_steps_of_another_are_not_called_alike(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 models are called 'a-model'"):
        write_repository(["a=x", "a-model=y"], tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


# ---- a repository that is not there yet ---------------------------------------------------------


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_every_model_has_its_files(sentiment: Path, tmp_path: Path, backend: str) -> None:
    report = write_repository([f"it={sentiment}"], tmp_path / "r", options=TritonOptions(backend=backend))
    files = everything(tmp_path / "r")
    code = {"model.py"} if backend == "python" else set()
    within = {name: {key.split("/", 2)[2] for key in files if key.startswith(f"{name}/1/")} for name in
              ("it", "it-tokenizer", "it-model", "it-labels")}  # fmt: skip
    assert within["it"] == {"manifest.json"}
    assert within["it-tokenizer"] == {"manifest.json", "model.py", "tokenizer.json"}
    assert within["it-labels"] == {"manifest.json", "model.py"}
    assert within["it-model"] == {path.name for path in sentiment.iterdir()} | code
    assert open_bundle(tmp_path / "r" / "it-model" / "1").manifest == open_bundle(sentiment).manifest
    assert report.models[0].outputs == ("label", "probabilities", "truncated")
    assert Path(report.service).is_file()


def test_versions_begin_at_one_or_where_they_are_told(sentiment: Path, tmp_path: Path) -> None:
    assert write_repository([f"it={sentiment}"], tmp_path / "a").models[0].version == 1
    assert write_repository([f"it={sentiment}"], tmp_path / "b", version=7).models[0].version == 7
    assert (tmp_path / "b" / "it-model" / "7" / "model.onnx").is_file()


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_bundle_is_not_written(sentiment: Path, tmp_path: Path, damage: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(sentiment, bundle)
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").unlink()
    if damage != "gone":
        (bundle / "model.onnx").write_bytes(content[:-1] if damage == "cut" else content[:-1] + b"?")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        write_repository([f"it={bundle}", f"other={sentiment}"], tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("label", ["two\nlines", "", " blank"])
def test_a_label_that_is_no_line_is_refused(
    sentiment: Path, tmp_path: Path, label: str, altered: Callable[..., Path]
) -> None:
    bundle = altered(sentiment, change=lambda manifest: manifest["task"].update(labels=["good", label]))
    with pytest.raises(ConfigError, match="line of its own"):
        write_repository([f"it={bundle}"], tmp_path / "r")


@pytest.mark.parametrize(
    ("option", "value"),
    [("backend", "tensorrt"), ("device", "tpu"), ("instances", 0), ("max_queue", 0), ("timeout_ms", 0), ("keep", 1),
     ("max_batch_size", 2**31), ("on_long", "cry"), ("threads", "2")],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        TritonOptions(**{option: value})


# ---- a repository that is there -----------------------------------------------------------------


def test_a_new_version_leaves_the_older_one_as_it_was(sentiment: Path, float_sentiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    write_repository([f"it={sentiment}"], folder, options=PYTHON)
    before = everything(folder)
    assert write_repository([f"it={float_sentiment}"], folder, options=PYTHON).models[0].version == 2
    after = everything(folder)
    assert {name for name in before if after.get(name) != before[name]} == {"it/config.pbtxt"}
    assert before["it/config.pbtxt"].decode().replace("versions: 1", "versions: 2").replace(
        "model_version: 1", "model_version: 2"
    ) == after["it/config.pbtxt"].decode()  # fmt: skip
    assert open_bundle(folder / "it-model" / "2").manifest == open_bundle(float_sentiment).manifest
    assert write_repository([f"it={sentiment}"], folder, options=PYTHON, version=9).models[0].version == 9


def test_a_new_model_leaves_the_others_as_they_were(sentiment: Path, small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    write_repository([f"it={sentiment}"], folder)
    (folder / "somebody's").mkdir()
    (folder / "somebody's" / "config.pbtxt").write_text("name: 'x'")
    before = everything(folder)
    report = write_repository([f"pairs={small.bundle('STS-B', 'int8')}"], folder)
    after = everything(folder)
    assert {name for name in before if after.get(name) != before[name]} == {"inferenceservice.yaml"}
    assert Path(report.service).read_text().startswith("# it, pairs;")


@pytest.mark.parametrize("version", [1, 2, 0, -1])
def test_versions_only_grow(sentiment: Path, tmp_path: Path, version: int) -> None:
    write_repository([f"it={sentiment}"], tmp_path / "r", version=2)
    before = everything(tmp_path / "r")
    with pytest.raises(ConfigError, match="above 2"):
        write_repository([f"it={sentiment}"], tmp_path / "r", version=version)
    assert everything(tmp_path / "r") == before


def test_another_interface_is_no_version(
    small: Any, sentiment: Path, tmp_path: Path, altered: Callable[..., Path]
) -> None:
    write_repository([f"it={sentiment}"], tmp_path / "r")
    before = everything(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"two texts a row, not one; labels none, not negative, positive"):
        write_repository([f"it={small.bundle('STS-B', 'int8')}"], tmp_path / "r")
    turned = altered(sentiment, change=lambda manifest: manifest["task"].update(labels=["positive", "negative"]))
    with pytest.raises(ConfigError, match="labels positive, negative, not negative, positive"):
        write_repository([f"it={turned}"], tmp_path / "r", replace_config=True)
    assert everything(tmp_path / "r") == before


def test_a_form_of_the_model_that_older_versions_have_not_is_no_version(
    sentiment: Path, tmp_path: Path, altered: Callable[..., Path]
) -> None:
    target = {"file": "model.cuda.onnx", "max_abs_diff": 0.0, "n_rows": 1}
    both = altered(
        sentiment,
        files={"model.cuda.onnx": (sentiment / "model.onnx").read_bytes()},
        change=lambda manifest: manifest.update(targets={"cuda": target}),
    )
    on_gpu = TritonOptions(device="gpu")
    write_repository([f"it={sentiment}"], tmp_path / "r", options=on_gpu)
    with pytest.raises(ConfigError, match=r"loaded from model\.cuda\.onnx, which version 1 has not"):
        write_repository([f"it={both}"], tmp_path / "r", options=on_gpu, replace_config=True)
    write_repository([f"it={both}"], tmp_path / "other", options=on_gpu)
    assert (tmp_path / "other" / "it-model" / "1" / "model.cuda.onnx").is_file()


def test_another_configuration_is_asked_for_by_name(sentiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    write_repository([f"it={sentiment}"], folder)
    by_hand = folder / "it-model" / "config.pbtxt"
    by_hand.write_text(by_hand.read_text().replace("count: 1", "count: 5", 1))
    before = everything(folder)
    with pytest.raises(ConfigError, match=r"it-model/config\.pbtxt.*'count: 1', and is 'count: 5'.*--replace-config"):
        write_repository([f"it={sentiment}"], folder)
    with pytest.raises(ConfigError, match="'max_batch_size: 4', and is 'max_batch_size: 32'"):
        write_repository([f"it={sentiment}"], folder, options=TritonOptions(instances=5, max_batch_size=4))
    assert everything(folder) == before
    write_repository([f"it={sentiment}"], folder, options=TritonOptions(instances=3), replace_config=True)
    assert "count: 3" in by_hand.read_text()


def test_a_folder_of_somebody_else_is_not_touched(sentiment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    (folder / "it" / "1").mkdir(parents=True)
    (folder / "it" / "config.pbtxt").write_text("mine")
    with pytest.raises(ConfigError, match="was not written by"):
        write_repository([f"it={sentiment}"], folder)
    assert set(everything(folder)) == {"it/config.pbtxt"}


def test_a_file_is_no_repository(sentiment: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_text("mine")
    with pytest.raises(OutputError):
        write_repository([f"it={sentiment}"], tmp_path / "r")
    assert (tmp_path / "r").read_text() == "mine"


# ---- what goes wrong on the way -----------------------------------------------------------------


@pytest.mark.parametrize("is_there", [False, True])
def test_where_the_disk_is_full_nothing_can_be_called_that_is_not_whole(
    sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    folder = tmp_path / "r"
    if is_there:
        write_repository([f"it={sentiment}"], folder)
    before = everything(folder)
    real, left = Path.write_bytes, [9 if is_there else 12]

    def write_bytes(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OutputError, match="Make room"):
        write_repository([f"it={sentiment}"], folder)
    monkeypatch.undo()
    after = everything(folder)
    assert {name: after[name] for name in before} == before, "what was there is there, and the ensemble names it"
    assert not [name for name in after if ".partial" in name]
    assert is_there or not folder.exists()
    # the same command again does it, over what the first attempt left of its steps
    assert write_repository([f"it={sentiment}"], folder).models[0].version == (2 if is_there else 1)
    assert open_bundle(folder / "it-model" / ("2" if is_there else "1")).manifest == open_bundle(sentiment).manifest


def test_what_a_failed_attempt_left_is_no_version(sentiment: Path, tmp_path: Path) -> None:
    # Triton would count it among the versions that it keeps, and drop the one that is served
    folder = tmp_path / "r"
    write_repository([f"it={sentiment}"], folder)
    shutil.copytree(folder / "it-tokenizer" / "1", folder / "it-tokenizer" / "2")
    write_repository([f"it={sentiment}"], folder, version=3)
    for model in ("it-tokenizer", "it-model", "it-labels", "it"):
        assert {path.name for path in (folder / model).iterdir() if path.name.isdigit()} == {"1", "3"}


def test_a_bundle_that_is_replaced_meanwhile_is_noticed(
    sentiment: Path, float_sentiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(sentiment, bundle)
    real = module.plan_of

    def plan_of(*args: Any, **kwargs: Any) -> Any:
        plan = real(*args, **kwargs)
        step = plan.steps[1]
        other = (float_sentiment / "manifest.json").read_bytes()
        object.__setattr__(step, "own", {**step.own, "manifest.json": other})
        return plan

    monkeypatch.setattr(module, "plan_of", plan_of)
    with pytest.raises(BundleError):
        write_repository([f"it={bundle}"], tmp_path / "r")
    assert not (tmp_path / "r").exists()


# ---- the command --------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(command: Any, sentiment: Path, small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a repository"
    done = command(
        "triton", f"one={sentiment}", f"two={small.bundle('STS-B', 'int8')}", "--output-dir", folder, "--version", 3,
        "--backend", "python", "--device", "gpu", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "repository": str(folder),
        "backend": "python",
        "device": "gpu",
        "models": [
            {"name": "one", "version": 3, "bundle": str(sentiment), "inputs": ["text"],
             "outputs": ["label", "probabilities", "truncated"]},
            {"name": "two", "version": 3, "bundle": str(small.bundle("STS-B", "int8")), "inputs": ["text", "text_pair"],
             "outputs": ["score", "truncated"]},
        ],
        "service": str(folder / "inferenceservice.yaml"),
    }  # fmt: skip
    assert f"next: tritonserver --model-repository '{folder}' --disable-auto-complete-config" in done.stderr
    again = command("triton", f"one={sentiment}", "--output-dir", folder)
    assert again.exit_code == 2
    assert "--replace-config" in again.stderr
    assert command("triton", tmp_path / "nothing", "--output-dir", folder).exit_code == 2
