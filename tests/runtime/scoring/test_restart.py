"""A job that is started again: finished files are kept, and nothing of another job or another input is mixed in."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from q8bert.runtime import Classifier, ScoreReport, score_files
from q8bert.spec.errors import ConfigError, InputError, OutputError

Job = Callable[..., ScoreReport]
Write = Callable[..., Path]


def tree(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found if "_q8bert" not in path.parts)


@pytest.fixture
def inputs(tmp_path: Path, write_lines: Write, write_csv: Write) -> Path:
    folder = tmp_path / "in"
    write_lines(folder / "a.jsonl", [{"text": "good"}, {"text": "bad"}])
    write_csv(folder / "day=1" / "b.csv", ["sentence"], [["a dull film"]])
    write_lines(folder / "day=2" / "c.ndjson", [{"text": "fine"}])
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.csv").write_text("no")
    (folder / "notes.txt").write_text("no")
    (folder / "_old").mkdir()
    (folder / "_old" / "d.csv").write_text("no")
    return folder


def test_a_folder_is_mirrored_and_a_second_start_does_nothing(
    job: Job, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job(inputs)
    assert tree(tmp_path / "out") == ["a.jsonl", "day=1/b.csv", "day=2/c.ndjson"]
    assert (first.n_files, first.n_scored, first.n_kept, first.n_rows) == (3, 3, 0, 4)
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: pytest.fail("a bundle is loaded for nothing"))
    again = job(inputs)
    assert (again.n_files, again.n_scored, again.n_kept, again.n_rows, again.n_rows_scored) == (3, 0, 3, 4, 0)


def test_a_changed_input_is_scored_anew_and_a_touched_one_is_not(job: Job, inputs: Path, tmp_path: Path) -> None:
    job(inputs)
    facts = {name: (tmp_path / "out" / name).stat().st_ino for name in tree(tmp_path / "out")}
    os.utime(inputs / "a.jsonl", (1, 1))
    (inputs / "day=1" / "b.csv").write_text("sentence\na good film\n")
    (inputs / "e.csv").write_text("sentence\nnew\n")
    report = job(inputs)
    assert (report.n_scored, report.n_kept, report.changed) == (2, 2, (str(tmp_path / "out" / "day=1" / "b.csv"),))
    assert ",positive," in (tmp_path / "out" / "day=1" / "b.csv").read_text()
    kept = [name for name, inode in facts.items() if (tmp_path / "out" / name).stat().st_ino == inode]
    assert kept == ["a.jsonl", "day=2/c.ndjson"]


def test_an_output_that_is_gone_or_cut_off_is_made_again(job: Job, inputs: Path, tmp_path: Path) -> None:
    job(inputs)
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    (tmp_path / "out" / "a.jsonl").unlink()
    (tmp_path / "out" / "day=1" / "b.csv").write_bytes(b"half")
    assert job(inputs).n_scored == 2
    assert {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")} == whole


def test_another_bundle_or_other_options_are_refused_until_all_is_replaced(
    job: Job, small: Any, inputs: Path, tmp_path: Path
) -> None:
    job(inputs)
    old = {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")}
    with pytest.raises(InputError, match=r"holds outputs of another job: bundle .* answered, this one is"):
        job(inputs, bundle=small.bundle("SST-2", "float32"))
    with pytest.raises(InputError, match=r"batch_size was 32, now it is 8\. Answers are not mixed"):
        job(inputs, batch_size=8)
    with pytest.raises(InputError, match="prefix was '', now it is 'p_'"):
        job(inputs, prefix="p_")
    assert job(inputs, threads=2).n_kept == 3, "threads decide about nothing"
    assert {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")} == old
    report = job(inputs, bundle=small.bundle("SST-2", "float32"), overwrite=True)
    assert (report.n_scored, report.n_kept) == (3, 0)
    report = job(inputs, bundle=small.bundle("SST-2", "float32"), overwrite=True)
    assert (report.n_scored, report.n_kept) == (0, 3), "given again, it goes on"


def test_a_job_that_stopped_before_its_first_output_may_be_another(
    job: Job, tmp_path: Path, write_lines: Write
) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [{"words": "good"}, {"words": None}])
    with pytest.raises(InputError, match="lacks sentence or text"):
        job(source)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="line 2: column words: a text is missing"):
        job(source, text="words")
    assert job(source, text="words", skip_malformed=True).n_malformed == 1
    with pytest.raises(InputError, match="skip_malformed was True, now it is False"):
        job(source, text="words")


def test_a_file_of_somebody_else_is_not_replaced(job: Job, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text("precious")
    with pytest.raises(InputError, match=r"a\.jsonl stands there already and is no work of this job"):
        job(inputs)
    assert (tmp_path / "out" / "a.jsonl").read_text() == "precious"
    assert job(inputs, overwrite=True).n_scored == 3


def test_a_record_that_cannot_be_read_is_said(job: Job, inputs: Path, tmp_path: Path) -> None:
    job(inputs)
    (tmp_path / "out" / "_q8bert" / "files" / "a.jsonl.json").write_text("{")
    assert job(inputs).n_scored == 1
    (tmp_path / "out" / "_q8bert" / "job.json").write_text("{")
    with pytest.raises(InputError, match="what is known of it cannot be read"):
        job(inputs)
    assert job(inputs, overwrite=True).n_scored == 3


def test_inputs_that_cannot_be_a_job(job: Job, inputs: Path, tmp_path: Path, write_lines: Write) -> None:
    with pytest.raises(InputError, match="nothing does not exist"):
        job(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file that ends in \.csv"):
        job(tmp_path / "empty")
    with pytest.raises(InputError, match="would be input of"):
        job(inputs, output_dir=inputs / "answers")
    with pytest.raises(InputError, match=r"its ending is none of \.csv, .*; say how it is written by --format"):
        job(inputs / "notes.txt")
    write_lines(tmp_path / "other" / "a.jsonl", [{"text": "x"}])
    with pytest.raises(InputError, match="would have one output"):
        job(inputs, tmp_path / "other" / "a.jsonl")
    with pytest.raises(ConfigError, match=r"ray_actors \(3\) are of Ray; give --ray too"):
        job(inputs, ray_actors=3)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        job(inputs, output_dir=tmp_path / "file")


def test_an_input_that_changes_while_it_is_read_is_no_output(
    job: Job, tmp_path: Path, write_lines: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [{"text": "good"}])
    answers = Classifier.answers

    def change(self: Classifier, *given: Any, **options: Any) -> Any:
        with source.open("a") as file:
            file.write('{"text": "bad"}\n')
        return answers(self, *given, **options)

    monkeypatch.setattr(Classifier, "answers", change)
    with pytest.raises(InputError, match=r"rows\.jsonl changed while it was scored"):
        job(source)
    assert tree(tmp_path / "out") == []


@pytest.mark.parametrize("failure", [RuntimeError("no memory left"), KeyboardInterrupt()])
def test_a_failure_leaves_finished_files_and_nothing_else(
    job: Job, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    answers, n_calls = Classifier.answers, 0

    def fail_on_the_second_file(self: Classifier, *given: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise failure
        return answers(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "answers", fail_on_the_second_file)
        with pytest.raises(type(failure)):
            job(inputs)
    assert tree(tmp_path / "out") == ["a.jsonl"]
    report = job(inputs)
    assert (report.n_scored, report.n_kept, report.changed) == (2, 1, ())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_full_disk_leaves_nothing_half_written_and_the_job_goes_on_when_there_is_room(
    small: Any,
    tmp_path: Path,
    write_lines: Write,
    mount: Callable[..., None],
    command: Callable[..., Result],
    form: str,
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    # texts that no codec makes small
    texts = [f"good {os.urandom(500).hex()}" for _ in range(200)]
    write_lines(tmp_path / "in" / "a.jsonl", [{"text": "good"}])
    write_lines(tmp_path / "in" / "b.jsonl", [{"text": text} for text in texts])
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs")
    arguments = ("score", small.bundle("SST-2", "int8"), tmp_path / "in", "--output-dir", disk / "out", "--threads", 1,
                 "--output-format", form)  # fmt: skip
    done = command(*arguments)
    assert done.exit_code == 2
    assert f"b.{form} cannot be written (No space left on device). Make room" in done.stderr
    assert tree(disk / "out") == [f"a.{form}"]
    mount(disk, "-o", "remount,size=8m", "tmpfs")
    done = command(*arguments, "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert (report["n_kept"], report["n_scored"], report["n_rows"]) == (1, 1, 201)
    assert tree(disk / "out") == [f"a.{form}", f"b.{form}"]


def test_a_place_that_cannot_be_written_is_refused_before_any_row(
    job: Job, inputs: Path, tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    mount(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs")
    monkeypatch.setattr(Classifier, "answers", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(OutputError, match=r"cannot be written \(Read-only file system"):
        job(inputs, output_dir=tmp_path / "disk" / "out")


@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_file_that_it_was_at_and_no_other(
    small: Any, tmp_path: Path, write_lines: Write
) -> None:
    bundle = small.bundle("SST-2", "int8")
    for name in "abcdef":
        write_lines(tmp_path / "in" / f"{name}.jsonl", [{"text": f"{name} good film {at}"} for at in range(3000)])
    words = [sys.executable, "-c", "from q8bert.runtime.cli import main; main()"]
    words += ["score", str(bundle), str(tmp_path / "in"), "--output-dir", str(tmp_path / "out"), "--threads", "1"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (tmp_path / "out" / "b.jsonl").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL, "it was killed in the middle"
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True, timeout=300)
    report = json.loads(done.stdout)
    assert 1 <= report["n_kept"] < 6, "one that stood may lack its record yet, and is made again"
    assert (report["n_scored"], report["n_rows"]) == (6 - report["n_kept"], 18_000)
    score_files(bundle, tmp_path / "in", tmp_path / "whole", threads=1)
    for name in "abcdef":
        assert (tmp_path / "out" / f"{name}.jsonl").read_bytes() == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()


def test_the_command_says_what_it_did(small: Any, inputs: Path, tmp_path: Path, command: Callable[..., Result]) -> None:
    arguments = ("score", small.bundle("SST-2", "int8"), inputs / "a.jsonl", inputs / "day=1", "--output-dir",
                 tmp_path / "out", "--threads", 1)  # fmt: skip
    done = command(*arguments)
    assert done.exit_code == 0
    assert f"3 rows in 2 files → {tmp_path / 'out'}" in done.stdout
    assert tree(tmp_path / "out") == ["a.jsonl", "b.csv"]
    (inputs / "a.jsonl").write_text('{"text": "good"}\nbroken\n')
    refused = command(*arguments)
    assert refused.exit_code == 2
    assert "a.jsonl, line 2: not JSON" in refused.stderr
    skipping = command(*arguments, "--skip-malformed", "--overwrite", "--json")
    assert json.loads(skipping.stdout)["n_malformed"] == 1
    assert "rows without an answer: 1" in skipping.stderr
