"""The generator of damaged inputs: the same from the same seed, harmless to its source, and blind to no way to fail."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

# stands beside a copy of the tool, in the place of the real doors
DOORS = """
import ctypes, time
from types import SimpleNamespace
from q8bert.spec.errors import InputError

def fail(error):
    raise error

def prepare(trained, folder, rng):
    (folder / "data.tsv").write_text("x")
    n_made = len(list(trained.iterdir()))  # outlives a worker
    (trained / str(n_made)).touch()
    uses = [
        lambda: None,
        lambda: fail(InputError(f"{folder}/data.tsv is empty")),
        lambda: fail(InputError("something is empty")),
        lambda: fail(KeyError("label")),
        lambda: bytearray(2**40),
        lambda: ctypes.string_at(0),
        lambda: time.sleep(60),
        lambda: None,
    ]
    return uses[n_made]

KINDS = {"all": SimpleNamespace(prepare=prepare, share=1.0)}
"""


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("fuzz_damage")


def folder_of_files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"layers": [1, {"size": 32}], "name": "x"}))
    header = b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in sorted(folder.iterdir())}


def test_damage_follows_from_the_seed_and_leaves_the_source_whole(tmp_path: Path, damage: ModuleType) -> None:
    source = folder_of_files(tmp_path / "source")
    whole = contents(source)
    kinds, n_changed = set(), 0
    for seed in range(300):
        twins = [damage.copied(source, tmp_path / f"{seed}-{twin}") for twin in "ab"]
        said = [damage.damage_folder(twin, Random(seed)) for twin in twins]
        assert said[0] == said[1]
        assert contents(twins[0]) == contents(twins[1])
        n_changed += contents(twins[0]) != whole
        kinds.add(said[0].rpartition(": ")[2])
    assert contents(source) == whole
    assert n_changed > 250
    assert {"missing", "damaged bytes", "damaged JSON", "damaged header", "a folder of its name"} <= kinds


def test_every_way_to_end_is_told_apart_and_the_next_input_is_taken(tmp_path: Path) -> None:
    text = (TOOLS / "fuzz_inputs.py").read_text()
    assert "_TIME_LIMIT = 10.0" in text
    (tmp_path / "fuzz_inputs.py").write_text(text.replace("_TIME_LIMIT = 10.0", "_TIME_LIMIT = 1.0"))
    (tmp_path / "fuzz_doors.py").write_text(DOORS)
    (tmp_path / "trained").mkdir()
    code = (
        "import fuzz_inputs, json; from pathlib import Path; "
        "print(json.dumps([one.outcome for one in fuzz_inputs.endings('all', 0, 8, Path('trained'))]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == ["success", "refused", "unnamed", "traceback", "memory", "dead", "hanging", "success"]
