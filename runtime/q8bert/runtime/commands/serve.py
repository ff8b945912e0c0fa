"""The command ``serve``: bundles behind the Open Inference Protocol."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from q8bert.console.command import exit_codes, line
from q8bert.machine.builds import require
from q8bert.runtime.commands.options import (
    HARDWARE,
    ROWS,
    AsJson,
    Bfloat16,
    Engine,
    Graph,
    Providers,
    RefuseLong,
    Threads,
    parse_providers,
    ready,
)
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.predict.graph_choice import AUTO
from q8bert.spec.checked import fitted
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import one_of

__all__ = ["serve_command"]

ADDRESS, LIMITS, TIMES = "Address", "Limits", "Times, in seconds"
_LEVELS = ("debug", "info", "warning", "error")
_LONGEST_TOKEN = 8192


def serve_command(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="A bundle, or a folder of them called 1, 2, …; as NAME=FOLDER where its own name will not do.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=ADDRESS)] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", rich_help_panel=ADDRESS)] = 8000,
    own_port: Annotated[
        Optional[int],  # noqa: UP045 - Typer reads the union at run time
        typer.Option(
            help="A second port that this process has alone, for probes and metrics.", rich_help_panel=ADDRESS
        ),
    ] = None,
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Let several processes share the port.", rich_help_panel=ADDRESS)
    ] = False,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File with the token that callers have to send.", rich_help_panel=ADDRESS),
    ] = None,
    token_env: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name of an environment variable with that token.", rich_help_panel=ADDRESS),
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Largest body.", rich_help_panel=LIMITS)] = 4 * 2**20,
    max_buffered_bytes: Annotated[
        int, typer.Option(help="Largest sum of all bodies at one time.", rich_help_panel=LIMITS)
    ] = 256 * 2**20,
    max_rows: Annotated[int, typer.Option(help="Most rows of a request.", rich_help_panel=LIMITS)] = 512,
    max_queue: Annotated[
        int, typer.Option(help="Most rows of a model that wait for their answer.", rich_help_panel=LIMITS)
    ] = 1024,
    max_connections: Annotated[int, typer.Option(help="Most connections.", rich_help_panel=LIMITS)] = 2048,
    max_characters: Annotated[int, typer.Option(help="Most characters of a row.", rich_help_panel=LIMITS)] = 100_000,
    timeout: Annotated[float, typer.Option(help="Deadline of a request.", rich_help_panel=TIMES)] = 30.0,
    read_timeout: Annotated[
        float, typer.Option(help="For a client to send a head, to send a body, to read.", rich_help_panel=TIMES)
    ] = 10.0,
    keep_alive: Annotated[
        int, typer.Option(help="A connection may be idle; more than a proxy keeps its own.", rich_help_panel=TIMES)
    ] = 75,
    leave: Annotated[
        float, typer.Option(help="After SIGTERM: not ready, and still taking requests.", rich_help_panel=TIMES)
    ] = 1.0,
    drain: Annotated[
        float, typer.Option(help="After that: for answers that are on their way.", rich_help_panel=TIMES)
    ] = 30.0,
    reload: Annotated[
        float, typer.Option(help="Between two looks at the folders; 0: never.", rich_help_panel=TIMES)
    ] = 2.0,
    refuse_long: RefuseLong = False,
    max_batch_size: Annotated[int, typer.Option(help="Most rows a batch.", rich_help_panel=ROWS)] = 32,
    max_batch_tokens: Annotated[int, typer.Option(help="Most tokens a batch.", rich_help_panel=ROWS)] = 4096,
    max_padding: Annotated[
        float, typer.Option(help="Most padding of a row, as a share of its batch's longest.", rich_help_panel=ROWS)
    ] = 0.25,
    max_delay_ms: Annotated[
        float, typer.Option(help="Longest wait for others while a worker is idle.", rich_help_panel=ROWS)
    ] = 2.0,
    engine: Engine = ONNX_RUNTIME,
    provider: Providers = None,
    graph: Graph = AUTO,
    threads: Threads = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Batches at one time; 0: cores by threads.", rich_help_panel=HARDWARE)
    ] = 0,
    bfloat16: Bfloat16 = False,
    log_level: Annotated[str, typer.Option(help=f"Least severe: {', '.join(_LEVELS)}.")] = "info",
    json: AsJson = False,
) -> None:
    """Serve bundles over HTTP by the Open Inference Protocol, with a page to try them on at /.

    The log is JSON lines on stderr. SIGTERM ends the server after its last answer, SIGHUP has it look at the folders.
    """
    with exit_codes():
        require("fastapi", "uvicorn", "prometheus_client", extra="serve", purpose="serving over HTTP")
        speaker = ready(engine, as_json=json, scoring=False)
        fitted(Annotated[str, one_of(_LEVELS)], log_level, "log_level")
        from q8bert.runtime.engines.options import RuntimeOptions  # noqa: PLC0415 - onnxruntime loads slowly
        from q8bert.runtime.server.http.logs import open_log  # noqa: PLC0415
        from q8bert.runtime.server.models.sources import parse_sources  # noqa: PLC0415
        from q8bert.runtime.server.options import ModelOptions, ServerOptions  # noqa: PLC0415
        from q8bert.runtime.server.process import run_server  # noqa: PLC0415

        options = ServerOptions(
            host=host, port=port, own_port=own_port, reuse_port=reuse_port, token=_token(token_file, token_env),
            max_body_bytes=max_body_bytes, max_buffered_bytes=max_buffered_bytes, max_rows=max_rows,
            max_queue=max_queue, max_connections=max_connections, read_s=read_timeout, keep_alive_s=keep_alive,
            timeout_s=timeout, leave_s=leave, drain_s=drain, reload_s=reload,
        )  # fmt: skip
        model_options = ModelOptions(
            engine=engine, providers=parse_providers(provider), graph=graph,
            runtime=RuntimeOptions.service(threads=threads, bfloat16=bfloat16),
            on_long="refuse" if refuse_long else "truncate", max_batch_size=max_batch_size,
            max_batch_tokens=max_batch_tokens, max_padding=max_padding, max_delay_ms=max_delay_ms,
            max_characters=max_characters, workers=workers or None,
        )  # fmt: skip
        sources = parse_sources(bundles)
        log = open_log(sys.stderr, level=log_level)
        report = run_server(sources, options=options, model_options=model_options, log=log, version=version("q8bert"))

        def render(console: Console) -> None:
            ended = ", ".join(f"{number} {outcome}" for outcome, number in sorted(report.outcomes.items()))
            line(console, f"served {', '.join(report.models)} for {report.seconds:.0f} s: {ended or 'no requests'}")

        speaker.result(report, render)


def _token(file: Path | None, variable: str | None) -> str | None:
    if file is not None and variable is not None:
        raise ConfigError(["give --token-file or --token-env, not both"])
    if file is not None:
        with file.open(encoding="utf-8", errors="replace") as opened:
            token = opened.read(_LONGEST_TOKEN).strip()
        if not token:
            raise ConfigError([f"{file} is empty; write the token into it, or leave --token-file out"])
        return token
    if variable is None:
        return None
    if not (token := os.environ.get(variable, "").strip()):
        raise ConfigError([f"the environment variable {variable} is not set or empty; set it to the token"])
    return token
