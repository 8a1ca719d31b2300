"""`export`: from a target to an artifact. The whole way, in order."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from repr_export.beforehand import require_calibration, require_ready
from repr_export.contents import Contents, total_multiply_adds
from repr_export.errors import FoldContractError, GraphError, ParityError
from repr_export.graph.integers import integer_values
from repr_export.graph.multiply_adds import activation_bytes, with_shapes
from repr_export.graph.serialize import serialize
from repr_export.graph.signature import Signature
from repr_export.graph.values import only_scales
from repr_export.layers import CompareLayers, layer_comparison
from repr_export.layout import lay_out
from repr_export.options import ExportOptions
from repr_export.parity import prove_parity
from repr_export.passes import FoldReport, PassError, run_pipeline
from repr_export.precision.evaluation import make_evaluation
from repr_export.precision.variants import Variant, VariantMaker
from repr_export.samples import given_shapes, sample_set, sample_sets, settle
from repr_export.sources.opening import open_source
from repr_export.sources.target import require_target
from repr_export.tensorrt.engines import ArtifactEngine, build_engines, engine_shapes
from repr_export.triton.repository import (
    TritonModels,
    check_repository,
    model_names,
    require_servable,
    write_triton,
)
from repr_models.spec import FoldContract
from repr_models.weights.download import Progress
from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.writing import check_free, write_artifact
from repr_runtime.options import require_path
from repr_runtime.preflight import preflight

DEFAULT_OUT = Path("artifacts")
_ACTIVATIONS = 2 * 2**30  # bytes of all values of a run: as much as ONNX Runtime may hold at worst


@dataclass(frozen=True)
class Exported:
    """An artifact that was written: where, what its manifest says, a note on the target, where else."""

    path: Path
    manifest: Manifest
    note: str
    triton: TritonModels | None = None


def export(
    target: str,
    out: str | Path = DEFAULT_OUT,
    options: ExportOptions | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
    download: Progress | None = None,
) -> Exported:
    """Export ``target`` into the folder ``out/NAME``: captured, folded, proven and written at once.

    ``target`` is a registered name, ``package.module:factory`` or ``FILE.onnx``;
    ``progress`` gets a few words at each step, ``download`` the name, the bytes so far and all
    bytes of a checkpoint that is fetched. An artifact of that name is replaced when the
    new one is whole, never before. Raises :class:`repr_export.errors.ExportError`,
    ``repr_models.errors.ModelsError``, or ``repr_runtime.errors.ArtifactError`` or its
    ``OptionError`` for what can be no path; nothing is written then.
    """
    options = options or ExportOptions()
    paths = {"target": target, "out": out, "weights": options.weights, "name": options.name}
    require_path(**{name: value for name, value in paths.items() if value is not None})
    require_target(target)
    require_ready(Path(out), options)
    progress("loading the network")
    source = open_source(target, options, download)
    require_calibration(source, options)
    folder = Path(out) / source.identity.folder
    check_free(folder)
    if options.triton is not None:
        lower = options.precision.names
        names = model_names(folder.name, lower, engines=options.engine is not None)
        check_repository(options.triton, names, folder)

    progress("capturing the graph")
    model = source.model()
    captured = serialize(model) if options.compare_layers else b""
    progress("folding BatchNorm")
    fold = _fold(model, source.fold)
    graph = serialize(model)

    progress("comparing with the original network")
    signature = Signature.of(model)
    specs = signature.inputs
    if options.triton is not None:
        require_servable((*specs, *signature.outputs))
    given, arrays = given_shapes(specs, options.shapes_of(specs), options.samples)
    layout, shapes = lay_out(specs, given)
    for_engines = engine_shapes(specs, layout, shapes) if options.engine else {}
    counted = with_shapes(model, layout.run_shapes(shapes))
    multiply_adds = total_multiply_adds(counted)
    at_once = _ACTIVATIONS // max(activation_bytes(counted), 1)
    layout = replace(layout, at_once=min(max(at_once, 1), layout.at_once))
    if arrays is None:
        integers = integer_values(model)
        sets = sample_sets(specs, layout, shapes, source.preprocessing, multiply_adds, integers)
    else:
        sets = (sample_set(arrays, layout, str(options.samples)),)
    source.try_out(sets[0].run_of([0] * (sets[0].layout.size or 1)))
    sets = settle(sets, source.reference)
    layers: CompareLayers | None = None
    if options.compare_layers:
        progress("comparing layer by layer")
        run = sets[0].run_of(sets[0].proof_runs()[0])
        layers = layer_comparison(captured, model, run)
    parity = prove_parity(source, graph, sets, progress, layers)

    variants: list[Variant] = []
    if options.precision.names:
        progress("running the original network on the images to judge by")
        evaluation = make_evaluation(source, sets[0])
        make = VariantMaker(
            specs, evaluation, source.preprocessing, options.precision, progress, layers
        )
        variants = make.all_of(model, graph)
    engines: list[ArtifactEngine] = []
    if options.engine is not None:
        graphs = {"fp32": graph, **{v.precision: v.graph for v in variants if v.target != "cpu"}}
        engines = build_engines(graphs, options.engine, for_engines, progress)

    progress("writing the artifact")
    manifest, files = Contents(
        source, model, graph, signature, multiply_adds, fold, parity, variants, engines
    ).artifact()
    write_artifact(folder, manifest, files, check=_verify)
    if options.triton is None:
        return Exported(folder, manifest, source.identity.note)
    progress("writing the Triton models")
    models = write_triton(folder, options.triton, options.triton_backend or "onnxruntime")
    return Exported(folder, manifest, source.identity.note, models)


def _verify(written: Path) -> None:
    """What `repr-inspect --verify` asks; an artifact that fails it was never exported."""
    for check in preflight(written, device="cpu", verify=True):
        if not check.passed:
            raise ParityError(
                f"the artifact as written does not pass its own check, {check.name}: "
                f"{check.detail.replace(str(written), 'it')}. No artifact was written"
            )


def _fold(model: ir.Model, contract: FoldContract | None) -> FoldReport:
    """Run the passes; as many BatchNorms must be folded as ``contract`` promises."""
    try:
        fold = run_pipeline(model).fold
    except PassError as error:
        raise GraphError(f"{error}; no artifact was written") from error
    left = sum(
        node.op_type == "BatchNormalization" and not only_scales(node)
        for node in model.graph.all_nodes()
    )
    if left != len(fold.refused):
        raise FoldContractError(
            f"{left} BatchNorms are left in the graph, {len(fold.refused)} were refused; this is a defect"
        )
    if contract and (fold.total, fold.changed) != (contract.batchnorms, contract.folded):
        reasons = "; ".join(f"{row.batchnorm}: {row.reason}" for row in fold.refused[:5])
        raise FoldContractError(
            f"{fold}, the network promises {contract.folded} of {contract.batchnorms}"
            + (f" ({reasons})" if reasons else "")
            + ". No artifact was written"
        )
    return fold
