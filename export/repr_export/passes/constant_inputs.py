"""Makes the initializers that old models list among their inputs plain constants.

Up to IR version 3 the format required every initializer to be a graph input too, so its being
there says nothing about the author's intention, and ONNX Runtime takes it as a constant. From
version 4 on, an initializer that is also an input is a default that a caller may override; that
is part of the model's signature and is left alone (and never folded).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from repr_export.passes.result import PassResult

_THINGS = "inputs made constants"

OVERRIDABLE_SINCE = 4
"""The first IR version in which an initializer need not be a graph input."""


def drop_constant_inputs(model: ir.Model) -> PassResult:
    """Take initializers out of the inputs of a model of IR version 3 or earlier, in place.

    The IR version becomes 4, the first that allows such a graph.
    """
    if model.ir_version >= OVERRIDABLE_SINCE:
        return PassResult(0, _THINGS)
    before = len(model.graph.inputs)
    RemoveInitializersFromInputsPass()(model)
    model.ir_version = OVERRIDABLE_SINCE
    return PassResult(before - len(model.graph.inputs), _THINGS)
