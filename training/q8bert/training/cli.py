"""The command ``train``: parse, call, print."""

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from q8bert.glue.command import Speaker, exit_codes, progress_bar
from q8bert.glue.task_file import choose_task
from q8bert.training.config import TrainConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train_command)


def train_command(
    data_dir: Annotated[str, typer.Option(help="The task's own folder, e.g. GLUE/STS-B, or hub:nyu-mll/glue.")],
    output_dir: Annotated[
        Path, typer.Option(help="Folder of the run; a run with the same options there is continued.")
    ],
    task: Annotated[
        Optional[str],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(help="CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI."),
    ] = None,
    task_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="TOML description of a task of your own, instead of --task."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="minilm-l6, a folder in Hugging Face's layout, or a hub id.")
    ] = "minilm-l6",
    engine: Annotated[str, typer.Option(help="ort (ONNX Runtime Training) or torch.")] = TrainConfig.engine,
    quantize: Annotated[bool, typer.Option(help="--no-quantize trains the FP32 twin.")] = True,
    granularity: Annotated[
        str, typer.Option(help="Weight scales: per_channel or per_tensor.")
    ] = TrainConfig.granularity,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = TrainConfig.epochs,
    batch_size: Annotated[int, typer.Option(help="Rows an optimizer step.")] = TrainConfig.batch_size,
    eval_batch_size: Annotated[int, typer.Option(help="Rows a batch in evaluation.")] = TrainConfig.eval_batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = TrainConfig.learning_rate,
    weight_decay: Annotated[
        float, typer.Option(help="Decoupled weight decay, not on biases and LayerNorm.")
    ] = TrainConfig.weight_decay,
    warmup_ratio: Annotated[float, typer.Option(help="Share of steps that warm up.")] = TrainConfig.warmup_ratio,
    decay_power: Annotated[float, typer.Option(help="Power of the polynomial decay.")] = TrainConfig.decay_power,
    end_learning_rate: Annotated[float, typer.Option(help="Rate at the end.")] = TrainConfig.end_learning_rate,
    max_grad_norm: Annotated[
        float, typer.Option(help="Gradients are clipped to this norm.")
    ] = TrainConfig.max_grad_norm,
    max_length: Annotated[
        int, typer.Option(help="Longest row in tokens; the runtime obeys it too.")
    ] = TrainConfig.max_length,
    range_decay: Annotated[
        float, typer.Option(help="Decay of the moving average of activation ranges.")
    ] = TrainConfig.range_decay,
    calibration_batches: Annotated[
        int, typer.Option(help="Float batches observed before quantization.")
    ] = TrainConfig.calibration_batches,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = TrainConfig.seed,
    dropout: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Dropout of the whole model. Default: the model's own."),
    ] = None,
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Leave malformed rows out, list and count them.")
    ] = False,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves the choice to the engine.")] = TrainConfig.threads,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete a run of other options in --output-dir.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.")] = False,
) -> None:
    """Fine-tune a BERT-family classifier with quantization awareness."""
    with exit_codes():
        config = TrainConfig(
            task=choose_task(task, task_file),
            data_dir=data_dir,
            model=model,
            output_dir=output_dir,
            engine=engine,
            quantize=quantize,
            granularity=granularity,
            epochs=epochs,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            decay_power=decay_power,
            end_learning_rate=end_learning_rate,
            max_grad_norm=max_grad_norm,
            max_length=max_length,
            range_decay=range_decay,
            calibration_batches=calibration_batches,
            seed=seed,
            dropout=dropout,
            skip_malformed=skip_malformed,
            threads=threads,
        )
        speaker = Speaker(as_json=json)
        from q8bert.training import train  # noqa: PLC0415 - torch loads slowly

        with progress_bar(speaker, "training") as show:
            result = train(config, overwrite=overwrite, report=speaker.say, show_step=show)
        for row in result.skipped:
            speaker.say(f"skipped: {row}")
        if result.skipped:
            speaker.say(f"{len(result.skipped)} malformed rows left out")
        table = Table("metric", "points", title=f"{config.task.name} dev, best checkpoint (step {result.best_step})")
        for name, value in result.metrics.items():
            table.add_row(name, f"{100 * value:.2f}")
        speaker.result(result, lambda console: console.print(table))
