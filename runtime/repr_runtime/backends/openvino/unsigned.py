"""Signed levels made unsigned in graphs that join channels: OpenVINO gets those wrong.

Levels of -128..127 in front of a convolution, next to a Concat that nothing else reads, OpenVINO
(2026.4) aligns as if their scale were 1: what is joined reaches the convolution rounded to whole
numbers, whatever the scale. Levels of 0..255, with a zero point higher by 128, stand for the same
values, and are right:

    FakeQuantize (-128..127) ── Convert (i8) ── Convert (f32) ── …
    FakeQuantize (0..255) ── Convert (u8) ── Convert (f32) ── Subtract (128) ── …

What reads them as int8, as no DequantizeLinear does, keeps the signed ones, which are right there.
"""

import importlib
from typing import Any

import numpy as np

_ZERO = 128
"""Of the unsigned levels, what 0 is of the signed."""


def make_unsigned(model: Any) -> None:
    """Rewrite the signed levels of ``model``, in place, if it joins float tensors."""
    ops = model.get_ops()
    if not any(op.get_type_name() == "Concat" and _dtype(op) == "f32" for op in ops):
        return
    opset = importlib.import_module("openvino.opset1")
    for signed in filter(_stores_signed, ops):
        levels = signed.input_value(0).get_node()
        data, low, high, *ends = (levels.input_value(index) for index in range(5))
        raised = [opset.constant(end.get_node().data + np.float32(_ZERO)) for end in ends]
        made = opset.fake_quantize(data, low, high, *raised, levels.get_attributes()["levels"])
        stored = opset.convert(made, "u8")
        for reader in (port.get_node() for port in signed.output(0).get_target_inputs()):
            if reader.get_type_name() == "Convert" and _dtype(reader) == "f32":
                zero = opset.convert(opset.constant(np.uint8(_ZERO)), "f32")
                value = opset.subtract(opset.convert(stored, "f32"), zero)
                reader.output(0).replace(value.output(0))


def _stores_signed(op: Any) -> bool:
    """Whether it makes int8 of a computed tensor, between constant ends."""
    if op.get_type_name() != "Convert" or _dtype(op) != "i8":
        return False
    levels = op.input_value(0).get_node()
    if levels.get_type_name() != "FakeQuantize":
        return False
    kinds = [levels.input_value(index).get_node().get_type_name() for index in (0, 3, 4)]
    return kinds[0] != "Constant" and kinds[1:] == ["Constant", "Constant"]


def _dtype(op: Any) -> str:
    return str(op.output(0).get_element_type().get_type_name())
