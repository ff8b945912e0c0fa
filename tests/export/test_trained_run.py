"""What export reads of a run: the rows that it had, or a word that they are others."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from q8bert.export.trained_run import load_trained_run
from q8bert.spec.errors import CheckpointError


@pytest.mark.parametrize("split", ["train", "dev"])
def test_rows_that_are_not_the_runs_are_said_and_moved_ones_are_not(small: Any, tmp_path: Path, split: str) -> None:
    trained = load_trained_run(small.run("SST-2", "int8"))
    data = Path(shutil.copytree(small.data("SST-2"), tmp_path / "data"))
    said: list[str] = []
    n_rows = len(trained.rows(str(data), split, said.append))
    assert said == []
    with (data / f"{split}.tsv").open("a") as file:
        file.write("a good film\t1\n")
    assert len(trained.rows(str(data), split, said.append)) == n_rows + 1
    (sentence,) = said
    assert f"the {split} rows of {data} are not those that the run had ({n_rows + 1} now, {n_rows} then)" in sentence


def test_a_damaged_best_checkpoint_is_refused_with_the_remedy(small: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "int8"), tmp_path / "run"))
    path = load_trained_run(run).checkpoint.path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json cannot be used .*It is the best one: put it back, or train again"
    ):
        load_trained_run(run)
