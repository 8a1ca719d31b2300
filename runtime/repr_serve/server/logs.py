"""The command's log: lines for a person, or JSON for a program."""

import json
import logging
import time
from typing import Any


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and what the record carries besides."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_settings(as_json: bool, level: str) -> dict[str, Any]:
    """For ``logging.config.dictConfig``: everything to the standard error."""
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s"}
    formatter = {"()": "repr_serve.server.logs.JsonFormatter"} if as_json else text
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": formatter},
        "handlers": {"default": {"class": "logging.StreamHandler", "formatter": "default"}},
        "root": {"handlers": ["default"], "level": "WARNING"},
        "loggers": {
            "repr_serve": {"level": level.upper()},
            "repr_runtime": {"level": "WARNING" if level == "info" else level.upper()},
            # What a client sends wrong is its own matter: it could write as many lines as it likes.
            "uvicorn": {"level": "ERROR"},
            "python_multipart": {"level": "ERROR"},
        },
    }
