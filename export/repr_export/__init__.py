"""repr_export: from a trained network to an artifact; see `repr_export.pipeline.export`."""

import logging

import repr_runtime  # noqa: F401  before ONNX Runtime, which it keeps from reporting to its maker

for _library in (
    "onnx_ir",
    "onnxscript",
):  # what they warn of is for who asks for it, not for stderr
    logging.getLogger(_library).addHandler(logging.NullHandler())
