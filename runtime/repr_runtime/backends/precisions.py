"""Which precisions this CPU computes, and which it would only emulate."""

from collections.abc import Mapping

from repr_runtime.backends.openvino.compiling import why_not
from repr_runtime.machine import cpu_has_vnni


def cpu_precisions() -> Mapping[str, str]:
    """What running each precision on this CPU is: ``computed``, with by what, or why it is not."""
    bf16 = why_not("bf16")
    seven = "computed, but with weights of 7 bits: the CPU has no VNNI"
    return {
        "fp32": "computed",
        "bf16": "computed, by OpenVINO" if bf16 is None else f"does not run: {bf16}",
        "int8": "computed" if cpu_has_vnni() else seven,
        "fp16": "emulated: right for accuracy, its latency says nothing",
    }


def sentence() -> str:
    """All of them, for a person."""
    return "; ".join(f"{name} {how}" for name, how in cpu_precisions().items())
