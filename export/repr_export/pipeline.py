"""`export`: from a target to an artifact. The whole way, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from repr_export.contents import Signature, manifest_and_files, total_multiply_adds
from repr_export.errors import FoldContractError, GraphError
from repr_export.graph.serialize import serialize
from repr_export.options import ExportOptions
from repr_export.parity import prove_parity
from repr_export.passes import FoldReport, PassError, run_pipeline
from repr_export.precision.evaluation import make_evaluation
from repr_export.precision.variants import Variant, VariantMaker
from repr_export.samples import sample_sets
from repr_export.sources.opening import open_source
from repr_export.tensorrt.engines import ArtifactEngine, build_engines
from repr_models.spec import FoldContract
from repr_models.weights.download import Progress
from repr_runtime.artifact.manifest import Manifest
from repr_runtime.artifact.writing import check_free, write_artifact

DEFAULT_OUT = Path("artifacts")


@dataclass(frozen=True)
class Exported:
    """An artifact that was written: where, what its manifest says, a note on the target."""

    path: Path
    manifest: Manifest
    note: str


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
    ``repr_models.errors.ModelsError`` or ``repr_runtime.errors.ArtifactError``; nothing is
    written then.
    """
    options = options or ExportOptions()
    progress("loading the network")
    source = open_source(target, options, download)
    folder = Path(out) / source.identity.folder
    check_free(folder)

    progress("capturing the graph")
    model = source.model()
    progress("folding BatchNorm")
    fold = _fold(model, source.fold)
    graph = serialize(model)

    progress("comparing with the original network")
    signature = Signature.of(model)
    signature.require_labels(source.labels)
    multiply_adds = total_multiply_adds(model)
    sets = sample_sets(signature.inputs, source.preprocessing, options.input_shape, multiply_adds)
    parity = prove_parity(source, graph, sets, signature.batch, progress)

    variants: list[Variant] = []
    if options.precision.names:
        progress("running the original network on the images to judge by")
        evaluation = make_evaluation(source, sets[0], signature.batch)
        make = VariantMaker(evaluation, source.preprocessing, options.precision, progress)
        variants = make.all_of(model, graph)
    engines: list[ArtifactEngine] = []
    if options.engine is not None:
        graphs = {"fp32": graph, **{v.precision: v.graph for v in variants if v.target != "cpu"}}
        engines = build_engines(graphs, options.engine, progress)

    progress("writing the artifact")
    manifest, files = manifest_and_files(
        source, model, graph, signature, multiply_adds, fold, parity, variants, engines
    )
    write_artifact(folder, manifest, files)
    return Exported(folder, manifest, source.identity.note)


def _fold(model: ir.Model, contract: FoldContract | None) -> FoldReport:
    """Run the passes; as many BatchNorms must be folded as ``contract`` promises."""
    try:
        fold = run_pipeline(model).fold
    except PassError as error:
        raise GraphError(f"{error}; no artifact was written") from error
    left = sum(node.op_type == "BatchNormalization" for node in model.graph.all_nodes())
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
