"""Puts the bodies of model-local functions where they are called, so that passes see one graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass


def inline_functions(model: ir.Model) -> int:
    """Inline every model-local function, in place; returns how many functions there were."""
    count = len(model.functions)
    if count:
        InlinePass()(model)
    return count
