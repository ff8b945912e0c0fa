"""Names and folders of a command line."""

from pathlib import Path

import pytest

from q8bert.spec.bundle.named import named_folders
from q8bert.spec.errors import ConfigError


def test_a_model_is_called_as_it_is_told_or_as_its_folder() -> None:
    assert named_folders(["a=some/where", "else/where/b.1"]) == {"a": Path("some/where"), "b.1": Path("else/where/b.1")}
    assert named_folders(["a=b=c"]) == {"a": Path("b=c")}


def test_a_link_has_its_own_name_not_that_of_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tmp_path / "one")
    assert list(named_folders([str(tmp_path / "current")])) == ["current"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "one bundle or more"),
        (["=x"], "got ''"),
        ([""], "got ''"),
        (["a="], "NAME=FOLDER"),
        (["a b=x"], "'a b'"),
        (["ü=x"], "'ü'"),
        (["-a=x"], "'-a'"),
        ([".hidden=x"], "'.hidden'"),
        (["a/b=x"], "'a/b'"),
        (["a=x", "a=y"], "2 models are called 'a'"),
        (["x/a", "y/a"], "2 models are called 'a'"),
    ],
)
def test_names_that_cannot_be_are_refused(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        named_folders(given)


def test_every_model_that_a_name_stands_for_needs_its_own_and_all_faults_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        named_folders(["a=x", "a-model=y", "b c=z"], models_of=lambda name: (name, f"{name}-model"))
    assert "2 models are called 'a-model'" in str(caught.value)
    assert "'b c'" in str(caught.value)
