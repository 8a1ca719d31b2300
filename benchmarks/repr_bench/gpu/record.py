"""What one trial finds, stage by stage: each is in the file before the next begins."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repr_runtime.files import replace_file


class StageError(Exception):
    """A stage failed, and said so; what needs it cannot be tried."""


class Record:
    """The stages of a trial in the JSON file ``path``; ``about`` is what was tried."""

    def __init__(self, path: Path, **about: Any) -> None:
        self.path, self.about, self.stages = path, about, list[dict[str, Any]]()

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Do one thing; what it finds goes into the dictionary that it gets.

        Whatever it raises is kept whole, with notes and causes, and becomes a
        :class:`StageError`. A crash leaves the stage as one that has not ended.
        """
        found: dict[str, Any] = {}
        entry: dict[str, Any] = {"stage": name, "ok": None, "message": "", "found": found}
        self.stages.append(entry)
        self._write()
        print(f"{name} …", flush=True)
        began = time.perf_counter()
        try:
            yield found
        except Exception as error:
            traceback.print_exc()
            entry |= {"ok": False, "message": whole(error)}
            raise StageError(name) from error
        else:
            entry["ok"] = True
        finally:
            entry["seconds"] = round(time.perf_counter() - began, 3)
            self._write()
            print(f"{name}: {entry['message'] or found or 'ok'}", flush=True)

    def _write(self) -> None:
        body = {**self.about, "stages": self.stages}
        replace_file(self.path, (json.dumps(body, indent=1, default=str) + "\n").encode())

    @property
    def failed(self) -> list[str]:
        """One line for each stage that failed."""
        return [f"{each['stage']}: {each['message']}" for each in self.stages if not each["ok"]]


def whole(error: BaseException) -> str:
    """All that ``error`` and what caused it say, with their types and notes."""
    parts, seen = [], set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        notes = "".join(f"; {note}" for note in getattr(found, "__notes__", ()))
        parts.append(f"{type(found).__name__}: {found}{notes}")
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "; because of ".join(parts)
