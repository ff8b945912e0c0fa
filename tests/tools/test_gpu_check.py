"""The check of a GPU, as far as it runs without one: its parts on the CPU, its borders, its record, its exit codes."""

import importlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
TOOLS = Path(__file__).parents[2] / "tools"
PARTS = ("environment", "gradients", "training", "serving", "speed")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of the check's parts by its name."""
    monkeypatch.syspath_prepend(TOOLS)

    def load(part: str | None = None) -> ModuleType:
        return importlib.import_module("gpu_check" if part is None else f"gpu_checks.{part}")

    return load


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "gpu_check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def in_quick_mode(tool: Any, tmp_path: Path, *, without_ort: str | None = None) -> Any:
    return tool("setting").Setting(torch.device("cpu"), True, tmp_path, without_ort)


def findings_until(tool: Any, seconds: float) -> Any:
    return tool("findings").Findings(time.monotonic() + seconds)


# ---- whole runs ----------------------------------------------------------------------------------


def assert_everything_was_measured(record: dict[str, Any], *, device: str) -> None:
    assert {name: part["status"] for name, part in record["parts"].items()} == dict.fromkeys(PARTS, "passed")
    tables = {name: part["tables"] for name, part in record["parts"].items()}
    assert any(row["what"] == "torch" and row["value"] for row in tables["environment"]["environment"])
    compared = [row for row in tables["gradients"]["float32"] if row["against"] == "torch cpu"]
    assert {row["ours"] for row in compared} == {f"torch {device}", f"ort {device}"}
    assert all(row["gradient"] < 1e-4 for row in compared)
    runs = {(row["engine"], row["precision"]): row for row in tables["training"]["runs"]}
    assert set(runs) == {(engine, p) for engine in ("ort", "torch") for p in ("float32", "float16", "bfloat16")}
    for name, row in runs.items():
        if name != ("ort", "bfloat16"):
            assert row["state"] == "ok", name
            assert row["resumed"] == "going on from step 30"
            assert row["ended_at"] == 60
            assert row["last_loss"] < row["first_loss"]
    steps = tables["speed"]["steps"]
    assert {row["contender"] for row in steps} == {"ort_qat", "torch_qat", "torch_float"}
    assert all(0 < row["best_ms"] <= row["median_ms"] for row in steps if row["state"] == "ok")
    assert all(row["rows_a_second_32x128"] > 0 for row in tables["serving"]["calls"])


@pytest.mark.slow
def test_every_part_passes_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    done = run("--device", "cpu", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(output.read_text())
    assert_everything_was_measured(record, device="cpu")
    refused = [row for row in record["parts"]["training"]["tables"]["runs"] if row["state"] != "ok"]
    assert [row["state"][:27] for row in refused] == ["not supported: ConfigError:"]
    assert all(f"{name}: passed in " in done.stderr for name in PARTS)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_part_passes_on_a_gpu(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    done = run("--quick", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_everything_was_measured(json.loads(output.read_text()), device="cuda:0")


def test_without_onnx_runtime_torch_alone_is_compared_and_the_record_says_so(tool: Any, tmp_path: Path) -> None:
    findings = findings_until(tool, 600)
    tool("gradients").check_gradients(in_quick_mode(tool, tmp_path, without_ort="it is not there"), findings)
    assert [row["ours"] for row in findings.tables["float32"]] == ["torch cpu"]
    assert [row["precision"] for row in findings.tables["half precision"]] == ["float16", "bfloat16"]
    assert findings.faults == []
    assert "ONNX Runtime cannot run here: it is not there" in findings.notes[0]


# ---- borders -------------------------------------------------------------------------------------


def test_a_part_that_fails_leaves_the_others_and_the_record(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = tool()

    def breaks(setting: Any, findings: Any) -> None:
        findings.row("table", {"what": "before", "value": math.nan})
        raise ZeroDivisionError("on purpose")

    def cannot(setting: Any, findings: Any) -> None:
        raise tool("findings").CannotRunError("something is not installed")

    monkeypatch.setitem(check.PARTS, "gradients", (breaks, 5.0))
    monkeypatch.setitem(check.PARTS, "training", (cannot, 5.0))
    output = tmp_path / "found.json"
    arguments = ["--device", "cpu", "--quick", "--output", str(output), "--parts", "gradients,training,environment"]
    assert check.main(arguments) == 1
    parts = json.loads(output.read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "gradients": "failed", "training": "cannot run", "environment": "passed",
    }  # fmt: skip
    assert parts["gradients"]["reason"] == "ZeroDivisionError: on purpose"
    assert "in breaks" in parts["gradients"]["tracebacks"][0]
    assert parts["gradients"]["tables"] == {"table": [{"what": "before", "value": "nan"}]}
    assert parts["training"]["reason"] == "something is not installed"
    assert parts["environment"]["tables"]["environment"]
    printed = capsys.readouterr()
    assert "FAULT: ZeroDivisionError: on purpose" in printed.out
    assert "gradients: failed in " in printed.err
    assert check.main([*arguments[:-1], "training,environment"]) == 0  # what cannot run here is no failure


def test_a_check_that_is_killed_keeps_what_it_had(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = tool()

    def killed(setting: Any, findings: Any) -> None:
        findings.row("steps", {"contender": "ort", "state": "ok"})
        raise KeyboardInterrupt

    monkeypatch.setitem(check.PARTS, "gradients", (killed, 5.0))
    output = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        check.main(["--device", "cpu", "--quick", "--output", str(output), "--parts", "environment,gradients"])
    parts = json.loads(output.read_text())["parts"]
    assert (parts["environment"]["status"], parts["gradients"]["status"]) == ("passed", "running")
    assert parts["gradients"]["tables"] == {"steps": [{"contender": "ort", "state": "ok"}]}


def test_rows_stand_alone_and_what_is_not_offered_is_no_fault(tool: Any) -> None:
    is_not_offered = tool("setting").is_not_offered
    findings = findings_until(tool, 60)

    def raising(error: Exception) -> Any:
        def measure() -> Any:
            raise error

        return measure

    missing = RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Sub\nmore")
    for precision, error in (("bfloat16", missing), ("float32", missing), ("float16", ValueError("wrong"))):
        findings.attempt(
            "rows", {"precision": precision}, raising(error),
            is_unsupported=lambda error, precision=precision: is_not_offered(error, precision),
        )  # fmt: skip
    findings.attempt("rows", {"precision": "last"}, lambda: {"value": 1})
    assert [row["state"] for row in findings.tables["rows"]] == [
        "not supported: RuntimeError: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Sub",
        "failed: RuntimeError: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Sub",
        "failed: ValueError: wrong",
        "ok",
    ]
    assert len(findings.faults) == len(findings.tracebacks) == 2
    assert 'File "tools/gpu_checks/findings.py"' in findings.tracebacks[0].replace("\\", "/")  # not where that stands


def test_rows_are_left_out_where_time_is_over(tool: Any, tmp_path: Path) -> None:
    findings = findings_until(tool, 0)
    tool("speed").check_speed(in_quick_mode(tool, tmp_path), findings)
    rows = findings.tables["steps"]
    assert [row["contender"] for row in rows] == ["ort_qat", "torch_qat", "torch_float"]
    assert {row["state"] for row in rows} == {"left out: less than 8 s of the part's time were left"}
    assert findings.faults == []


@pytest.mark.slow
def test_programs_are_built_ahead_by_other_processes(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from q8bert.training.programs import cache as programs

    ahead = tool("ahead").ProgramsAhead([("tiny", "float32"), ("no such size", "float32")], tmp_path)
    (said,) = ahead.wait()
    ahead.close()
    assert said.strip().endswith("KeyError: 'no such size'")

    def build(*args: Any, **options: Any) -> Any:
        raise AssertionError("it is built already")

    monkeypatch.setattr(programs, "build_programs", build)
    assert tool("ahead").program_of("tiny", "float32", tmp_path).training
    with pytest.raises(AssertionError, match="built already"):
        tool("ahead").program_of("tiny", "float16", tmp_path)


def test_what_is_still_being_built_is_stopped_at_the_end(tool: Any, tmp_path: Path) -> None:
    ahead = tool("ahead").ProgramsAhead([("tiny", "float32")] * 3, tmp_path)
    started = time.monotonic()
    while not ahead._running and time.monotonic() - started < 30:
        time.sleep(0.01)
    ahead.close()
    assert not ahead._running
    assert list(tmp_path.iterdir()) == []


# ---- figures -------------------------------------------------------------------------------------


def outcome(tool: Any, **gradients: list[float]) -> Any:
    named = {name.replace("__", "."): torch.tensor(values) for name, values in gradients.items()}
    return tool("cases").Outcome(2.0, torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([4.0]), named)


def test_gradients_are_compared_with_the_largest_element_of_their_tensor_and_key_biases_as_they_are(tool: Any) -> None:
    theirs = outcome(tool, first=[10.0, 0.0], second=[0.1, 0.0], key__bias=[1e-9])
    ours = outcome(tool, first=[10.0, 1.0], second=[0.1, 0.05], key__bias=[3e-9])
    found = tool("gradients").difference(ours, theirs)
    assert (found["parameter"], found["gradient"]) == ("second", pytest.approx(0.5))
    assert found["key_biases"] == pytest.approx(2e-9)
    assert (found["loss"], found["logits"], found["observations"]) == (0.0, 0.0, 0.0)


def test_a_gradient_that_is_no_number_is_the_worst_one(tool: Any) -> None:
    theirs = outcome(tool, first=[1.0], second=[1.0], third=[1.0], a_key__bias=[0.0], b_key__bias=[0.0])
    ours = outcome(tool, first=[9.0], second=[math.nan], third=[9.0], a_key__bias=[1.0], b_key__bias=[math.nan])
    found = tool("gradients").difference(ours, theirs)
    assert found["parameter"] == "second"
    assert math.isnan(found["gradient"])
    assert math.isnan(found["key_biases"])


def test_the_error_of_all_gradients_is_relative_to_their_length(tool: Any) -> None:
    theirs = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    ours = {"a": torch.tensor([3.0, 0.5]), "b": torch.tensor([[4.0]])}
    error, cosine = tool("gradients").vector_error(ours, theirs)
    assert error == pytest.approx(0.1)
    assert cosine == pytest.approx(25 / (5 * math.sqrt(25.25)))


def test_texts_have_the_length_asked_for(tool: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    models = tool("models")
    models.write_model(tmp_path, "tiny")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [len(tokenizer.encode(models.full_text(n, seed=n)).ids) for n in (32, 128)] == [32, 128]
    assert tokenizer.encode(models.full_text(32, seed=0)).ids.count(tokenizer.token_to_id("[UNK]")) == 0


def test_the_task_can_be_told_by_its_words(tool: Any, tmp_path: Path) -> None:
    models = tool("models")
    models.write_data(tmp_path, n_train=50, n_dev=50)
    for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]:
        text, label = line.split("\t")
        words = set(text.split())
        assert bool(words & set(models.GOOD)) is (label == "1")
        assert bool(words & set(models.BAD)) is (label == "0")
    assert 0.5 <= models.majority_share(tmp_path) < 0.7


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "speed,nothing"], "unknown parts: nothing; there are environment, gradients"),
        (["--device", "tpu"], "device must be cpu, cuda or cuda:N, got 'tpu'"),
        (["--device", "cuda:99"], "device cuda:99 was asked for, but torch"),
        (["--device", "cpu", "--output", "no/such/folder/found.json"], "there is no folder no/such/folder"),
    ],
)
def test_wrong_options_are_refused_with_code_2(
    tool: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tool().main(arguments)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
