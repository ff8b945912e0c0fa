"""The commands of serving: each file parses, calls, prints; here they are registered."""

import typer

from q8bert.console.panels import PanelCommand
from q8bert.runtime.commands.bench import bench_command
from q8bert.runtime.commands.doctor import doctor_command
from q8bert.runtime.commands.evaluate import evaluate_command
from q8bert.runtime.commands.predict import predict_command
from q8bert.runtime.commands.score import score_command
from q8bert.runtime.commands.serve import serve_command
from q8bert.runtime.commands.submit import submit_command
from q8bert.runtime.commands.triton import triton_command
from q8bert.runtime.commands.verify import verify_command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("evaluate", cls=PanelCommand)(evaluate_command)
    app.command("predict", cls=PanelCommand)(predict_command)
    app.command("score", cls=PanelCommand, short_help="Score whole files, on one machine or on Ray.")(score_command)
    app.command("submit", cls=PanelCommand, short_help="Write a file for GLUE's leaderboard.")(submit_command)
    app.command("verify", cls=PanelCommand, short_help="Check a bundle against its float twin.")(verify_command)
    app.command("serve", cls=PanelCommand, short_help="Serve bundles over HTTP.")(serve_command)
    app.command("triton", cls=PanelCommand, short_help="Write bundles as a model repository of NVIDIA Triton.")(
        triton_command
    )
    app.command("bench", cls=PanelCommand, short_help="Time a bundle on this machine.")(bench_command)
    app.command("doctor", short_help="Say what this environment can do and what it lacks.")(doctor_command)
