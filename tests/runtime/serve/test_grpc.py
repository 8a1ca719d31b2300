"""The protocol over gRPC and over HTTP, asked by Triton's client; its messages are those published."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from serving import free_port, held, running
from tritonclient.grpc import service_pb2 as published
from tritonclient.utils import InferenceServerException

from repr_serve import HttpOptions, ModelOptions, Service, Settings, Source
from repr_serve.oip import wire
from repr_serve.server.worker import Application

X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


@dataclass
class Both:
    """A service on both ports."""

    service: Service
    http: str
    grpc: str


@pytest.fixture(scope="module")
def both(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path = tiny.write(tmp_path_factory.mktemp("both") / "tiny")
    settings = Settings(
        sources=[Source("tiny", path)],
        models=ModelOptions(device="cpu", instances=1, max_batch=4, queue_limit=4, timeout=20),
        http=HttpOptions(allow_control=True, max_body=2**20),
        grpc_port=free_port(),
    )
    made = Application(settings)
    with running(made, lifespan="on") as port:
        yield Both(made.service, f"127.0.0.1:{port}", f"127.0.0.1:{settings.grpc_port}")


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, both: Both) -> Iterator[tuple[Any, Any]]:
    """Triton's client of each protocol, and its module."""
    module, place = (
        (triton_http, both.http) if request.param == "http" else (triton_grpc, both.grpc)
    )
    with module.InferenceServerClient(place) as made:
        yield made, module


def given(module: Any, x: Any = X, datatype: str = "FP32", **how: Any) -> Any:
    made = module.InferInput("input", list(x.shape), datatype)
    made.set_data_from_numpy(x, **how)
    return made


def as_dict(answer: Any) -> Any:
    from google.protobuf.json_format import MessageToDict

    kept = {"preserving_proto_field_name": True}
    return answer if isinstance(answer, dict | list) else MessageToDict(answer, **kept)


def test_it_says_what_it_is(client: tuple[Any, Any], both: Both) -> None:
    ask, _ = client
    assert ask.is_server_live()
    assert ask.is_server_ready()
    version = both.service.model("tiny").version
    assert ask.is_model_ready("tiny")
    assert ask.is_model_ready("tiny", version)
    assert as_dict(ask.get_server_metadata())["name"] == "repr-serve"
    metadata = as_dict(ask.get_model_metadata("tiny"))
    assert (metadata["versions"], metadata["platform"]) == ([version], "onnxruntime_onnx")
    assert [*map(int, metadata["inputs"][0]["shape"])] == [-1, 3, 4, 4]
    index = as_dict(ask.get_model_repository_index())
    (line,) = index if isinstance(index, list) else index["models"]
    assert (line["name"], line["version"], line["state"]) == ("tiny", version, "READY")


def test_it_infers(client: tuple[Any, Any], both: Both, tiny: Any) -> None:
    ask, module = client
    version = both.service.model("tiny").version
    outputs = [module.InferRequestedOutput("logits")]
    for more in ({}, {"outputs": outputs}, {"model_version": version, "timeout": 10**7}):
        result = ask.infer("tiny", [given(module)], request_id="7", **more)
        np.testing.assert_allclose(result.as_numpy("logits"), tiny.logits(X), rtol=1e-4, atol=1e-4)
        response = as_dict(result.get_response())
        assert (response["id"], response["model_version"]) == ("7", version)


def test_half_precision_is_taken_as_it_is(client: tuple[Any, Any], tiny: Any) -> None:
    import ml_dtypes

    ask, module = client
    for datatype, dtype in (("FP16", np.float16), ("BF16", ml_dtypes.bfloat16)):
        half = X.astype(dtype)
        result = ask.infer("tiny", [given(module, half, datatype)])
        expected = tiny.logits(half.astype(np.float32))
        np.testing.assert_allclose(result.as_numpy("logits"), expected, rtol=1e-4, atol=1e-4)


def test_it_infers_many_at_once(both: Both, tiny: Any) -> None:
    samples = [tiny.inputs(1, seed) for seed in range(4)]
    with triton_http.InferenceServerClient(both.http, concurrency=4) as ask:
        jobs = [ask.async_infer("tiny", [given(triton_http, x)]) for x in samples]
        found = [job.get_result().as_numpy("logits") for job in jobs]
    results: list[Any] = [None] * 4
    done = threading.Semaphore(0)

    def keep(place: int) -> Any:
        def callback(result: Any, error: Any) -> None:
            results[place] = error or result.as_numpy("logits")
            done.release()

        return callback

    with triton_grpc.InferenceServerClient(both.grpc) as ask:
        for place, x in enumerate(samples):
            ask.async_infer("tiny", [given(triton_grpc, x)], keep(place))
        assert all(done.acquire(timeout=10) for _ in samples)
    for x, http, answer in zip(samples, found, results, strict=True):
        np.testing.assert_allclose(http, tiny.logits(x), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(answer, tiny.logits(x), rtol=1e-4, atol=1e-4)


def test_numbers_come_as_json_and_as_typed_contents(both: Both, tiny: Any) -> None:
    with triton_http.InferenceServerClient(both.http) as ask:
        outputs = [triton_http.InferRequestedOutput("logits", binary_data=False)]
        result = ask.infer("tiny", [given(triton_http, binary_data=False)], outputs=outputs)
        np.testing.assert_allclose(result.as_numpy("logits"), tiny.logits(X), rtol=1e-4, atol=1e-4)
    request = wire.message("ModelInferRequest")(model_name="tiny")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=X.shape)
    tensor.contents.fp32_contents.extend(X.ravel().tolist())
    answer = call(both, request)
    logits = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 5)
    np.testing.assert_allclose(logits, tiny.logits(X), rtol=1e-4, atol=1e-4)


def call(both: Both, request: Any, timeout: float = 10) -> Any:
    """A ModelInfer of our own messages, or of any bytes."""
    content = request if isinstance(request, bytes) else request.SerializeToString()
    with grpc.insecure_channel(both.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return wire.message("ModelInferResponse").FromString(infer(content, timeout=timeout))


@pytest.mark.parametrize(
    ("code", "words", "change"),
    [
        ("NOT_FOUND", "no model 'other'", {"model_name": "other"}),
        ("NOT_FOUND", "no version '9'", {"model_version": "9"}),
        ("INVALID_ARGUMENT", "missing 'input'", {"inputs": [], "raw_input_contents": []}),
        ("INVALID_ARGUMENT", "data has 0 values", {"raw_input_contents": []}),
        ("INVALID_ARGUMENT", "has 383 bytes, expected 384", {"raw_input_contents": [bytes(383)]}),
        ("INVALID_ARGUMENT", "has 2 tensors, the request 1", {"raw_input_contents": [b"", b""]}),
        ("INVALID_ARGUMENT", "no output 'y'", {"outputs": [{"name": "y"}]}),
        (
            "INVALID_ARGUMENT",
            "'classification' is not served",
            {"outputs": [{"name": "logits", "parameters": {"classification": {"int64_param": 2}}}]},
        ),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(
    both: Both, code: str, words: str, change: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {
        "model_name": "tiny",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": X.shape}],
        "raw_input_contents": [X.tobytes()],
    }
    with pytest.raises(grpc.RpcError) as caught:
        call(both, wire.message("ModelInferRequest")(**{**fields, **change}))
    assert (caught.value.code().name, words in caught.value.details()) == (code, True), caught.value


def test_bytes_that_are_no_message_and_too_many_are_refused(both: Both) -> None:
    for content, code in ((b"\xff" * 50, "INVALID_ARGUMENT"), (bytes(2**21), "RESOURCE_EXHAUSTED")):
        with pytest.raises(grpc.RpcError) as caught:
            call(both, content)
        assert caught.value.code().name == code


def test_a_full_queue_a_deadline_and_a_client_that_goes_away(both: Both) -> None:
    model = both.service.model("tiny")
    before = model.stats()
    with triton_grpc.InferenceServerClient(both.grpc) as ask:
        with held(model) as entered:
            done: list[Any] = []

            def submit() -> Any:
                return ask.async_infer(
                    "tiny", [given(triton_grpc)], lambda **ended: done.append(ended)
                )

            jobs = [submit()]
            assert entered.acquire(timeout=10)
            jobs += [submit(), submit()]
            until(lambda: model.stats().waiting == 2)
            with pytest.raises(InferenceServerException, match="4 samples wait, and 4 may"):
                ask.infer("tiny", [given(triton_grpc)])
            jobs.pop().cancel()
            until(lambda: model.stats().waiting == 1)
            with pytest.raises(
                InferenceServerException, match=r"no answer within|Deadline Exceeded"
            ):
                ask.infer("tiny", [given(triton_grpc)], client_timeout=0.2)
            until(lambda: model.stats().waiting == 1)
        until(
            lambda: len(done) >= 2
        )  # the one that was cancelled may say nothing, or be one of them
        until(lambda: model.stats().waiting + model.stats().running == 0)
    after = model.stats()
    assert after.answered - before.answered == 2
    assert after.cancelled + after.expired - before.cancelled - before.expired == 2
    assert after.refused - before.refused == 1


def until(what: Any) -> None:
    end = time.monotonic() + 10
    while not what() and time.monotonic() < end:
        time.sleep(0.002)
    assert what()


def test_models_are_loaded_and_unloaded(client: tuple[Any, Any]) -> None:
    ask, module = client
    ask.unload_model("tiny")
    assert not ask.is_model_ready("tiny")
    with pytest.raises(InferenceServerException, match="unloaded"):
        ask.infer("tiny", [given(module)])
    ask.load_model("tiny")
    assert ask.is_model_ready("tiny")
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        ask.load_model("other")


def test_keys_are_asked_for_in_both_protocols(tiny: Any, tmp_path: Path) -> None:
    from hashlib import sha256

    settings = Settings(
        sources=[Source("tiny", tiny.write(tmp_path / "tiny"))],
        models=ModelOptions(device="cpu", instances=1),
        http=HttpOptions(keys=(sha256(b"open sesame").digest(),)),
        grpc_port=free_port(),
    )
    with (
        running(Application(settings), lifespan="on"),
        triton_grpc.InferenceServerClient(f"127.0.0.1:{settings.grpc_port}") as ask,
    ):
        assert ask.is_server_ready()
        right = {"authorization": "Bearer open sesame"}
        for head in (None, {"authorization": "Bearer open"}):
            with pytest.raises(InferenceServerException, match="API key"):
                ask.infer("tiny", [given(triton_grpc)], headers=head)
            with pytest.raises(InferenceServerException, match="API key"):
                ask.get_model_metadata("tiny", headers=head)
        assert ask.infer("tiny", [given(triton_grpc)], headers=right).as_numpy("logits").shape


def test_our_messages_are_those_published() -> None:
    pool, theirs = wire.pool(), published.DESCRIPTOR
    for name in wire.MESSAGES:
        ours = pool.FindMessageTypeByName(f"inference.{name}")
        other: Any = theirs.message_types_by_name[name.partition(".")[0]]
        if "." in name:
            other = other.nested_types_by_name[name.partition(".")[2]]
        for field in ours.fields:
            same = other.fields_by_number[field.number]
            message = field.message_type and field.message_type.full_name
            assert (field.name, field.type, field.is_repeated, message) == (
                same.name,
                same.type,
                same.is_repeated,
                same.message_type and same.message_type.full_name,
            ), (name, field.name)
            if message and field.message_type.GetOptions().map_entry:
                value = field.message_type.fields_by_name["value"].message_type.full_name
                assert value == same.message_type.fields_by_name["value"].message_type.full_name
        left = {field.name for field in other.fields} - {field.name for field in ours.fields}
        assert left <= {"parameters"}, name
    methods = theirs.services_by_name[wire.SERVICE].methods_by_name
    for name in wire.METHODS:
        assert methods[name].input_type.name == f"{name}Request"
        assert methods[name].output_type.name == f"{name}Response"
