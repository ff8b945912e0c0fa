"""Files that are not what they say are refused with their name, the cause and what to do."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from q8bert.spec.errors import ModelError

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
WEIGHTS, PICKLE, CONFIG, TOKENIZER = "model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"


@pytest.fixture
def folder(make_source: Callable[..., Path]) -> Path:
    return make_source(AutoModelForSequenceClassification)


@pytest.fixture
def pickled(folder: Path) -> Path:
    """The folder, with its weights in a pickle."""
    torch.save(load_file(folder / WEIGHTS), folder / PICKLE)
    (folder / WEIGHTS).unlink()
    return folder


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The folder, with its weights in two files."""
    weights = list(load_file(folder / WEIGHTS).items())
    (folder / WEIGHTS).unlink()
    places = {}
    for number, part in enumerate((weights[::2], weights[1::2]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), folder / shard)
        places |= {name: shard for name, _ in part}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, TOKENIZER, "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("break_file", "message"),
    [
        (lambda path: path.write_bytes(POINTER), "is a Git LFS pointer, not the file itself. Run `git lfs pull`"),
        (lambda path: path.write_bytes(b""), "is empty. Copy or download"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "again"),
        (lambda path: path.write_bytes(b"\x9a" * 999), "again"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder, where a file is needed"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "is a link to nothing"),
    ],
    ids=["pointer", "empty", "cut", "noise", "folder", "link"],
)
def test_a_file_that_is_not_what_it_says(folder: Path, load: Any, file: str, break_file: Any, message: str) -> None:
    break_file(folder / file)
    with pytest.raises(ModelError, match=message) as raised:
        load(folder)
    assert str(folder if file == TOKENIZER else folder / file) in str(raised.value)


@pytest.mark.parametrize("keep", [60, 2000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_pickle(pickled: Path, load: Any, keep: int, zipped: bool) -> None:
    path = pickled / PICKLE
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=zipped)
    load(pickled)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is (cut or )?damaged.*again"):
        load(pickled)


def test_a_pointer_in_the_place_of_a_pickle(pickled: Path, load: Any) -> None:
    (pickled / PICKLE).write_bytes(POINTER)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a Git LFS pointer"):
        load(pickled)


class _Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(pickled: Path, load: Any, protocol: int) -> None:
    torch.save({"a": torch.zeros(2), "b": _Code(pickled / "ran")}, pickled / PICKLE, pickle_protocol=protocol)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin .*can run code.*model\.safetensors"):
        load(pickled)
    assert not (pickled / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"state_dict": {"a": torch.zeros(2)}}, {"epoch": 3}])
def test_a_pickle_of_something_else(pickled: Path, load: Any, content: Any) -> None:
    torch.save(content, pickled / PICKLE)
    with pytest.raises(ModelError, match="not a table of weights by name"):
        load(pickled)


def test_shards_are_read(sharded: Path, load: Any, logits: Any) -> None:
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(sharded))
    torch.testing.assert_close(logits(load(sharded).model), wanted)


def test_an_index_that_names_what_is_not_there(sharded: Path, load: Any) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors is missing.*again"):
        load(sharded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda map_: dict.fromkeys(map_, "../x.safetensors"), "not a file beside it"),
        (lambda map_: map_ | {"more": "model-00001-of-00002.safetensors"}, "holds more, and it does not"),
        (list, "in which file"),
        (lambda map_: dict.fromkeys(map_, 1), "in which file"),
    ],
)
def test_an_index_that_does_not_fit(sharded: Path, load: Any, change: Any, message: str) -> None:
    path = sharded / f"{WEIGHTS}.index.json"
    path.write_text(json.dumps({"weight_map": change(json.loads(path.read_text())["weight_map"])}))
    with pytest.raises(ModelError, match=message):
        load(sharded)


def test_a_folder_without_weights_is_told_what_it_has(folder: Path, load: Any) -> None:
    (folder / WEIGHTS).rename(folder / "tf_model.h5")
    with pytest.raises(ModelError, match=r"holds no weights: model\.safetensors.*there is.*tf_model\.h5"):
        load(folder)


def test_weights_in_integers_are_refused(folder: Path, load: Any, edit_weights: Any) -> None:
    edit_weights(folder, {"classifier.weight": torch.ones(2, 16, dtype=torch.int8)})
    with pytest.raises(ModelError, match=r"classifier\.weight is of type int8; quantized weights"):
        load(folder)


def test_a_file_that_may_not_be_read(folder: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *args: Any, **more: Any) -> Any:
        if path.name == WEIGHTS:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read: .*Permission denied"):
        load(folder)


def test_a_folder_is_loaded_without_the_network(folder: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*args: Any, **_: Any) -> Any:
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    load(folder)
    assert not asked
