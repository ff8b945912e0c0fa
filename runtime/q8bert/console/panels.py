"""The help of a command with many options: under headings, in plain text.

Typer groups options for rich help alone, which leaves a third of 80 columns for what an option means, and puts errors
into boxes. This writes Click's plain help, a section a heading.
"""

from typing import Any

from typer.core import TyperCommand

__all__ = ["PanelCommand"]


class PanelCommand(TyperCommand):
    """A command whose options stand under their ``rich_help_panel``, in order of first appearance."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then a section for every heading.

        Args:
            ctx: Click's context.
            formatter: Click's writer of help.
        """
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
                sections.setdefault(panel, []).append(record)
        for panel, records in sections.items():
            with formatter.section(panel):
                formatter.write_dl(records)
