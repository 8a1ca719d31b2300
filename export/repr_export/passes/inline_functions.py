"""Puts the bodies of model-local functions where they are called, so that passes see one graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from repr_export.passes.result import PassResult


def inline_functions(model: ir.Model) -> PassResult:
    """Inline every model-local function, in place."""
    count = len(model.functions)
    if count:
        InlinePass()(model)
    return PassResult(count, "functions inlined")
