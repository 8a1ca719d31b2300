"""What a tuning tries: libraries, graphs, threads and instances; and options of ONNX Runtime."""

from collections.abc import Sequence
from dataclasses import replace

from repr_runtime.backends.openvino.compiling import why_not
from repr_runtime.backends.tuning import Setting


def ways(goal: str, cores: int, precision: str, targets: Sequence[str]) -> list[Setting]:
    """What is tried of both libraries, the simplest first, ONNX Runtime's default before all.

    ``targets`` are those that the precision has graphs for: OpenVINO tries each, ONNX Runtime, to
    which TensorRT's int8 graph is none, the one for CPUs.
    """
    threads = sorted({cores, *(t for t in (1, 2, 4, 8, 16) if t < cores)})
    if goal == "latency":
        shares = [(t, 1) for t in threads]
    else:
        shares = [(t, cores // t) for t in threads if cores % t == 0]
    found = []
    if precision != "bf16":  # which it does not compute
        found += [Setting(), *(Setting(threads=t, instances=n) for t, n in shares)]
    if why_not(precision) is None:
        found += [
            Setting("openvino", target, threads=t, instances=n)
            for target in targets
            for t, n in shares
        ]
    # One instance with all cores as its threads is the default itself, but for their binding.
    return [s for s in found if s != Setting(threads=cores) or goal == "latency" or cores == 1]


def variants(setting: Setting) -> list[Setting]:
    """``setting`` with options of ONNX Runtime changed, where it is the library."""
    if setting.library != "onnxruntime":
        return []
    found = [replace(setting, optimization="extended")]
    found += [replace(setting, arena=False, memory_pattern=False)]
    return found + ([replace(setting, spinning=False)] if setting.threads not in (None, 1) else [])
