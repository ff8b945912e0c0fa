"""``torchrun … -m q8bert.training`` is ``q8bert train`` in each of several processes; options are the same."""

import typer

from q8bert.machine.openmp import sleep_soon
from q8bert.training.cli import register

__all__ = ["main"]


def main() -> None:
    """Run the command ``train``."""
    sleep_soon()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    register(app)
    app()


if __name__ == "__main__":
    main()
