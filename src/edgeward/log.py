"""One logger set-up for all roles: JSON lines with role and trace id.

Responsible for the form of a log line. What may be said in one is a law: never a patient's name, identifier, pixel or
sample (a test searches for them). Roles write to standard error; the supervisor collects the lines into one file.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The trace id of the item being worked on; set it at the start of a task."""

_LIBRARIES = ("pynetdicom", "pydicom", "nats", "uvicorn", "highdicom", "numba", "asyncio", "PIL", "aiomqtt")


class JsonLines(logging.Formatter):
    """Format a record as one JSON object on one line."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line end. Fields given as ``extra={"fields": {...}}`` are merged in."""
        line: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name.removeprefix("edgeward."),
            "message": record.getMessage(),
        }
        trace = trace_id.get()
        if trace:
            line["trace"] = trace
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(role: str, level: str = "INFO") -> None:
    """Send this process's log to standard error as JSON lines.

    Libraries are held to warnings: at lower levels some of them print data sets, which would put identity in the log.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edgeward").setLevel(level)
    # pydicom's warnings quote values of the data set.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
