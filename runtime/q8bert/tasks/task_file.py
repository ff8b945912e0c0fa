"""A user's own task, described in a small TOML file.

.. code-block:: toml

    name = "tickets"
    text_column = "subject"
    text_pair_column = "body"       # leave out for one text a row
    label_column = "queue"
    labels = ["billing", "sales"]   # leave out for regression
    metrics = ["f1", "accuracy"]    # the first one picks the best checkpoint

    format = "quoted-tsv"           # tsv, quoted-tsv, csv, jsonl, parquet, …; leave out where endings say it

    [files]                         # leave out when they are train.tsv, train.csv or train.jsonl, dev.…
    train = "2025.tsv"
    dev = "2026.tsv"

The keys are ``labels`` and those of :class:`q8bert.tasks.data_set.DataSet`.
"""

import tomllib
from pathlib import Path

from q8bert.spec.checked import checked
from q8bert.spec.errors import ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.task import Task, task_from_json

__all__ = ["choose_task", "read_task_file"]


@checked
def read_task_file(path: Path | str) -> Task:
    """Read a task description.

    Args:
        path: A TOML file as shown above.

    Returns:
        The task.

    Raises:
        ConfigError: If the file is missing, is not TOML, or describes no possible task.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError([f"--task-file {path} does not exist"]) from error
    except OSError as error:
        raise ConfigError([f"--task-file {path} cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8"]) from error
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise ConfigError([f"{path} is not valid TOML: {error}"]) from error
    if "labels" not in content and "metrics" not in content:
        content["metrics"] = ["pearson", "spearman"]
    elif "metrics" not in content:
        content["metrics"] = ["accuracy"]
    return task_from_json(content, source=str(path))


@checked
def choose_task(name: str | None, task_file: Path | str | None) -> Task:
    """Return the task that a command was given, by GLUE name or by file.

    Args:
        name: GLUE name, or None.
        task_file: TOML description, or None.

    Returns:
        The task.

    Raises:
        ConfigError: If both or neither are given, or what is given does not exist.
    """
    if (name is None) == (task_file is None):
        raise ConfigError(["give either --task with a GLUE name or --task-file with a description of your own"])
    if task_file is not None:
        return read_task_file(task_file)
    return glue_task(str(name))
