"""Pictures in and labels out, through whatever runs their tensors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repr_runtime.batching.arrays import Given
from repr_runtime.batching.deadlines import deadline_of
from repr_runtime.batching.queue import Answer
from repr_runtime.options import require_whole
from repr_runtime.predictions import Prediction
from repr_runtime.preprocess import Images
from repr_runtime.session import Session


class Classifying(ABC):
    """What a batcher adds to :meth:`run` for images."""

    session: Session
    max_batch: int

    @abstractmethod
    def run(
        self, sample: Given, *, timeout: float | None = None, deadline: float | None = None
    ) -> Answer:
        """The outputs for ``sample``, by name."""

    @abstractmethod
    async def run_async(
        self, sample: Given, *, timeout: float | None = None, deadline: float | None = None
    ) -> Answer:
        """The same, in any event loop."""

    def classify(
        self,
        images: Images,
        *,
        top: int = 5,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> list[Prediction]:
        """As :meth:`Session.classify`, through the batcher; ``timeout`` and ``deadline`` as in :meth:`run`.

        The calling thread preprocesses; more than ``max_batch`` are asked for part by part.
        """
        require_whole(1, top=top)
        deadline = deadline_of(timeout, deadline)
        parts = self._parts(images)
        return self._predictions([self.run(part, deadline=deadline) for part in parts], top)

    async def classify_async(
        self,
        images: Images,
        *,
        top: int = 5,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> list[Prediction]:
        """As :meth:`classify`, in any event loop; a thread of its pool preprocesses."""
        import asyncio  # whoever calls this has imported it

        require_whole(1, top=top)
        deadline = deadline_of(timeout, deadline)
        parts = await asyncio.to_thread(self._parts, images)
        answers = [await self.run_async(part, deadline=deadline) for part in parts]
        return self._predictions(answers, top)

    def _parts(self, images: Images) -> list[NDArray[Any]]:
        inputs = self.session.preprocess(images)
        return [inputs[i : i + self.max_batch] for i in range(0, len(inputs), self.max_batch)]

    def _predictions(self, answers: Sequence[Answer], top: int) -> list[Prediction]:
        outputs = [answer[self.session.outputs[0].name] for answer in answers]
        logits = np.concatenate(outputs)
        return self.session.label(logits, len(logits), top)
