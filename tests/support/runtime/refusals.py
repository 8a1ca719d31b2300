"""What an error must be: exactly of its kind, with these parts in its words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from repr_runtime.errors import ReproError


@contextmanager
def refuses(kind: type[ReproError], *parts: str) -> Iterator[pytest.ExceptionInfo[ReproError]]:
    """What is done inside raises exactly ``kind``, and each of ``parts`` stands in its words."""
    with pytest.raises(ReproError) as caught:
        yield caught
    assert type(caught.value) is kind
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)
