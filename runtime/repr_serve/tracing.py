"""A span of OpenTelemetry for each request, where that is installed: a client's trace goes on in it."""

import time
from collections.abc import Mapping

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError:
    _INSTALLED = False
else:
    _INSTALLED = True


_KNOWN = 0.5  # seconds for which it is not asked again, since that costs as much as a small request
_active, _asked = False, 0.0


def active() -> bool:
    """Whether anything would become of a span."""
    global _active, _asked
    if _INSTALLED and time.monotonic() - _asked > _KNOWN:
        _asked = time.monotonic()
        _active = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return _active


def record(
    protocol: str, model: str, outcome: str, seconds: float, carrier: Mapping[str, str]
) -> None:
    """A request has come to its end now; of ``carrier`` the fields of W3C's trace context are read.

    Only while :func:`active`.
    """
    end = time.time_ns()
    span = (
        trace.get_tracer_provider()
        .get_tracer("repr_serve")
        .start_span(
            f"infer {model}".strip(),
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            start_time=end - int(seconds * 1e9),
            attributes={"protocol": protocol, "model": model, "outcome": outcome},
        )
    )
    if outcome != "ok":
        span.set_status(trace.StatusCode.ERROR, outcome)
    span.end(end)


def flush() -> None:
    """Send what was recorded, at the end of a process: it may end without a word to its libraries."""
    if active():
        getattr(trace.get_tracer_provider(), "force_flush", bool)()
