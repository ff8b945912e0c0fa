"""Data files and task files as people write them, with what goes wrong in them."""

import csv
import io
import json
from random import Random
from typing import Any

from fuzz_damage import damage_bytes, other_value

from q8bert.tasks.task import Task

__all__ = ["rows_as_csv", "rows_as_json_lines", "rows_as_tsv", "task_as_toml"]

_WORDS = [
    "good",
    "film",
    "the",
    '"quoted"',
    "it's",
    "ünïcode",
    "\u2028",
    "\x00",
    "日本",
    "a,b",
    "'",
    "\\t",
    "😀",
    "\x85",
    "NA",
    "null",
]
_CELLS = [
    "",
    " ",
    "nan",
    "inf",
    "-0",
    "1e400",
    "1,5",
    "٣",
    "0x10",
    "TRUE",
    "3.0.1",
    "-1",
    "2",
    "9" * 5_000,
    "a" * 200_000,
]
_ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "shift_jis"]


def rows_as_tsv(task: Task, rng: Random) -> bytes:
    """Return a TSV file for a task, mostly damaged."""
    names, rows = _table(task, rng)
    header = [] if task.data.headerless_columns and rng.random() < 0.8 else [names]
    end = rng.choice(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
    text = end.join("\t".join(row) for row in [*header, *rows]) + rng.choice([end, ""])
    return _as_bytes(text, rng)


def rows_as_csv(task: Task, rng: Random) -> bytes:
    """Return a CSV file for a task, mostly damaged."""
    names, rows = _table(task, rng)
    buffer = io.StringIO()
    writer = csv.writer(
        buffer,
        delimiter=rng.choice(",,,;\t"),
        quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE)),
        escapechar="\\",
    )
    writer.writerows([names, *rows])
    text = buffer.getvalue()
    if rng.random() < 0.3:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(['"', '""', ",", "\n", "\r"]) + text[at:]
    return _as_bytes(text, rng)


def rows_as_json_lines(task: Task, rng: Random) -> bytes:
    """Return a JSON lines file for a task, mostly damaged."""
    names, rows = _table(task, rng)
    aliases = {task.data.text_column: "text", task.data.text_pair_column: "text_pair", task.data.label_column: "label"}
    keys = [aliases.get(name, name) for name in names] if rng.random() < 0.3 else names
    lines = []
    for row in rows:
        values: Any = dict(zip(keys, row, strict=False))
        if rng.random() < 0.2:
            values[rng.choice([*keys, "text", "label", "more"])] = other_value(rng)
        if rng.random() < 0.05:
            values = other_value(rng)
        lines.append(_line(values, rng))
    separator = rng.choice(["\n", "\n", "\n", "\r\n", ",\n", " ", "\n\n"])
    text = separator.join(lines)
    if rng.random() < 0.1:
        text = f"[{text}]"
    return _as_bytes(text, rng)


def _line(value: Any, rng: Random) -> str:
    try:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return "[" * 100_000


def task_as_toml(rng: Random) -> bytes:
    """Return a task file, mostly damaged."""
    values: dict[str, Any] = {
        "name": "tickets", "text_column": "subject", "text_pair_column": "body", "label_column": "queue",
        "labels": ["billing", "sales"], "metrics": ["f1", "accuracy"],
    }  # fmt: skip
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        key = rng.choice([*values, "label_codes", "headerless_columns", "files", "hub_name", "has_training_data", "x"])
        match rng.randrange(4):
            case 0:
                values.pop(key, None)
            case 1:
                values[key] = rng.choice(["subject", "queue", "", [], ["a"], ["a", "a"], ["f1"], ["pearson"], ["bleu"]])
            case _:
                values[key] = other_value(rng)
    lines = [f"{key} = {_toml(value, rng)}" for key, value in values.items()]
    if rng.random() < 0.1:
        lines.append(
            rng.choice(["[files]", "[files]\ntrain = 1", "[[labels]]", "name = 'again'", "x = 2020-13-41", "="])
        )
    return _as_bytes("\n".join(lines) + "\n", rng)


def _toml(value: Any, rng: Random) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(inner, rng)}' for key, inner in value.items()) + "}"
    try:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return "[" * 5_000


def _table(task: Task, rng: Random) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows; some cells are lost, added, exchanged or of another kind."""
    data = task.data
    named = [data.text_column, data.text_pair_column, data.label_column, "more"]
    names = list(data.headerless_columns) or [name for name in named if name]
    labels = list(data.label_codes or task.head.labels) or [f"{rng.uniform(0, 5):.3f}" for _ in range(5)]
    rows = []
    for _ in range(rng.choice([0, 1, 2, 5, 20])):
        cells = [" ".join(rng.choices(_WORDS[:5], k=rng.randint(0, 6))) for _ in names]
        cells[names.index(data.label_column)] = rng.choice(labels)
        rows.append(cells)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        row = rng.choice([names, *rows])
        at = rng.randrange(len(row)) if row else 0
        match rng.randrange(6):
            case 0:
                del row[at : at + 1]
            case 1:
                row.insert(at, rng.choice(_CELLS))
            case 2 if row:
                row[at] = row[rng.randrange(len(row))]
            case 3:
                rows.append(list(row))
            case _ if row:
                row[at] = rng.choice([*_CELLS, *_WORDS])
    return names, rows


def _as_bytes(text: str, rng: Random) -> bytes:
    content = text.encode("utf-8", errors="surrogatepass")
    if rng.random() < 0.1:
        content = text.encode(rng.choice(_ENCODINGS), errors="replace")
    if rng.random() < 0.25:
        content = damage_bytes(content, rng)
    return content
