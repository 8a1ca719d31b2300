"""What is said of a graph on a GPU: TF32, and the nodes that the library gave to the CPU."""

from types import SimpleNamespace
from typing import Any

import onnxruntime as ort

from repr_runtime.backends.placement import RECORD, remark


def session(**nodes: int) -> Any:
    """One of a library that says where the nodes are; the first provider is asked for."""

    def part(name: str, count: int) -> Any:
        return SimpleNamespace(ep_name=name, get_nodes=lambda: [None] * count)

    return SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: [part(*item) for item in nodes.items()],
    )


def test_nodes_on_the_cpu_are_counted() -> None:
    whole = session(CUDAExecutionProvider=60)
    assert remark(whole, tf32=False) == ", TF32 off"
    split = session(CUDAExecutionProvider=57, CPUExecutionProvider=3)
    assert remark(split, tf32=True) == ", TF32 allowed, of 60 nodes 3 on CPUExecutionProvider"
    old = SimpleNamespace(get_providers=whole.get_providers)
    assert remark(old, tf32=True) == ", TF32 allowed"


def test_the_library_tells_it_where_it_is_asked_to(tiny: Any) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD, "1")
    real = ort.InferenceSession(tiny.graph(), options, providers=["CPUExecutionProvider"])
    assert remark(real, tf32=False) == ", TF32 off"
    pretended = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider"],
        get_provider_graph_assignment_info=real.get_provider_graph_assignment_info,
    )
    assert "on CPUExecutionProvider" in remark(pretended, tf32=False)
