"""The log: one JSON object a line. Texts and tokens of callers are never in it."""

import json
import logging
import time
from typing import Any, TextIO

__all__ = ["JsonLines", "open_log"]

# what every record has; the rest was given by whoever logged it
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line.

        Args:
            record: What was logged; its ``extra`` become keys.

        Returns:
            ASCII without line ends.
        """
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def open_log(stream: TextIO, *, level: str) -> logging.Logger:
    """Return the server's logger, and let uvicorn's write into the same stream.

    Args:
        stream: Takes the lines.
        level: Least severe level that is written: ``debug``, ``info``, ``warning`` or ``error``.

    Returns:
        The logger.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name, least in (("q8bert.server", level), ("uvicorn.error", max(level, "warning", key=_LEVELS.index))):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least.upper())
        logger.propagate = False
    return logging.getLogger("q8bert.server")


_LEVELS = ("debug", "info", "warning", "error")
