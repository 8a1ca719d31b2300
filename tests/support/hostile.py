"""What an attacker puts into a pickle."""

import os
from pathlib import Path
from typing import Any


class Hostile:
    """Unpickled without a check, this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
