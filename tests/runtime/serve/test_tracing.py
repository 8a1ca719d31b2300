"""A client's trace goes on in the service, over either protocol, where OpenTelemetry is installed."""

from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving import ask, free_port, running, tensor

from repr_serve import ModelOptions, Settings, Source, tracing
from repr_serve.server.worker import Application

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_each_request_is_a_span_of_its_clients_trace(
    tiny: Any, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    # It sends in a minute: what is there before was sent when the service ended.
    provider.add_span_processor(BatchSpanProcessor(kept, schedule_delay_millis=60_000))
    monkeypatch.setattr(tracing.trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(tracing, "_asked", 0.0)
    settings = Settings(
        sources=[Source("tiny", artifact)],
        models=ModelOptions(device="cpu", instances=1),
        grpc_port=free_port(),
    )
    head = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with (
        running(Application(settings), lifespan="on") as port,
        triton.InferenceServerClient(f"127.0.0.1:{settings.grpc_port}") as client,
    ):
        x = tiny.inputs(1)
        assert ask(port, "/v2/models/tiny/infer", {"inputs": [tensor(x)]}, head).status == 200
        assert ask(port, "/v2/models/tiny/infer", {"inputs": []}, head).status == 400
        assert ask(port, "/v2/models/tiny/infer", {"inputs": [tensor(x)]}).status == 200
        given = triton.InferInput("input", x.shape, "FP32")
        given.set_data_from_numpy(x)
        client.infer("tiny", [given], headers=head)
    spans = kept.get_finished_spans()
    found = [(s.name, s.attributes["protocol"], s.attributes["outcome"]) for s in spans]
    assert found == [
        ("infer tiny", "http", "ok"),
        ("infer tiny", "http", "request"),
        ("infer tiny", "http", "ok"),
        ("infer tiny", "grpc", "ok"),
    ]
    for span in (spans[0], spans[1], spans[3]):
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
    assert spans[2].parent is None
    assert [span.status.is_ok for span in spans] == [True, False, True, True]
    assert all(0 < span.end_time - span.start_time < 20e9 for span in spans)
