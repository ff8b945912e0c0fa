"""The command ``train``: its options are those of ``TrainConfig`` and its groups, flat."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape
from rich.table import Table

from q8bert.console.command import Speaker, exit_codes, progress_bar
from q8bert.console.panels import PanelCommand
from q8bert.tasks.task_file import choose_task
from q8bert.training.options import MAIN_PANEL, flat_fields
from q8bert.training.presets import PRESETS
from q8bert.training.runs.config import TrainConfig

__all__ = ["register"]


# in the order of the command line's help
_PANELS = (
    MAIN_PANEL,
    "Data",
    "Model",
    "Quantization",
    "Distillation",
    "Optimization",
    "Evaluation",
    "Output",
    "Hardware",
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train", cls=PanelCommand)(_with_options(train_command))


def train_command(context: typer.Context, **given: Any) -> None:
    """Fine-tune a BERT-family classifier with quantization awareness."""
    with exit_codes():
        overwrite, speaker = given.pop("overwrite"), Speaker(as_json=given.pop("json"))
        task, preset = choose_task(given.pop("task"), given.pop("task_file")), given.pop("preset")
        # what was not given is left to the preset, or to the defaults of the configuration
        asked = {name: value for name, value in given.items() if _is_given(context, name)}
        config = TrainConfig.from_options(task=task, preset=preset, **_values(asked))
        from q8bert.training import train  # noqa: PLC0415 - torch loads slowly

        if os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1":
            train(config, overwrite=overwrite)  # started by torchrun; the first process speaks for all
            return
        if preset is not None:
            speaker.say(f"preset {preset}: {PRESETS[preset].of}, with these differences:")
            for difference in PRESETS[preset].differences:
                speaker.say(f"note: {difference}")
        with progress_bar(speaker, "training") as show:
            result = train(config, overwrite=overwrite, report=speaker.say, show_step=show)
        for row in result.skipped:
            speaker.say(f"skipped: {row}")
        if result.skipped:
            speaker.say(f"{len(result.skipped)} malformed rows left out")
        if result.n_skipped_steps:
            speaker.say(f"{result.n_skipped_steps} steps were left out: a float16 gradient overflowed")
        columns = (f"best checkpoint (step {result.best_step})", f"last (step {result.n_steps})")
        table = Table("metric", *columns, title=escape(f"{config.task.name} dev, points"))
        for name, value in result.metrics.items():
            table.add_row(name, f"{100 * value:.2f}", f"{100 * result.last_metrics[name]:.2f}")
        speaker.result(result, lambda console: console.print(table))
        speaker.next_command("export", result.path, "--output-dir", Path("bundles") / result.path.name)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in {"DEFAULT", "DEFAULT_MAP"}


def _with_options(command: Any) -> Any:
    """Give the command the signature that Typer reads: one keyword for each field, and those of every command."""
    by_panel = [*_command_parameters(), *_config_parameters()]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *(parameter for panel in _PANELS for of, parameter in by_panel if of == panel)]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _config_parameters() -> list[tuple[str, inspect.Parameter]]:
    parameters = []
    for owner, field, known in flat_fields(TrainConfig):
        kind = get_type_hints(owner)[field.name]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        if _is_repeated(owner, field.name):  # in Typer's words
            kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[misc]
        names = [f"--{field.name.replace('_', '-')}"] if known.only_on else []
        parameters.append(_option(field.name, kind, default, known.help, *names, panel=known.panel))
    return parameters


def _is_repeated(owner: type[Any], name: str) -> bool:
    return get_origin(get_type_hints(owner)[name]) is tuple


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given for options that may be repeated as tuples, as ``TrainConfig`` has them."""
    repeated = {field.name for owner, field, _ in flat_fields(TrainConfig) if _is_repeated(owner, field.name)}
    return {name: tuple(value or ()) if name in repeated else value for name, value in given.items()}


def _command_parameters() -> list[tuple[str, inspect.Parameter]]:
    return [
        _option("task", str | None, None, "CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI.", panel=MAIN_PANEL),
        _option(
            "task_file",
            Path | None,
            None,
            "TOML description of a task of your own, instead of --task.",
            panel=MAIN_PANEL,
        ),
        _option(
            "preset",
            str | None,
            None,
            f"Options of another implementation in place of the defaults: {' or '.join(PRESETS)}. What is given "
            "besides wins; what cannot be had is printed.",
            panel=MAIN_PANEL,
        ),
        _option(
            "overwrite",
            bool,
            False,
            "Delete the run in --output-dir, whatever its options, and start anew.",
            "--overwrite",
            panel="Output",
        ),
        _option("json", bool, False, "Print one JSON object on stdout, the rest on stderr.", "--json", panel="Output"),
    ]


def _option(name: str, kind: Any, default: Any, text: str, *names: str, panel: str) -> tuple[str, inspect.Parameter]:
    annotation = Annotated[kind, typer.Option(*names, help=text, rich_help_panel=panel)]
    return panel, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
