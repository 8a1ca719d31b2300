"""Everything that can go wrong between an artifact and its predictions."""

LONGEST = 2000
"""Characters of an error's words, or of a line that shows what a stranger wrote, at most."""


def shortened(text: str) -> str:
    """``text``, without its middle if it has more characters than ``LONGEST``."""
    return f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}" if len(text) > LONGEST else text


def in_words(text: str) -> str:
    """``text`` as any log and terminal can show it: shortened, and nothing in it that they obey."""
    text = shortened(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class ReproError(Exception):
    """Base of all errors here; its message says what was got, what was expected, the way out."""

    def __str__(self) -> str:
        return in_words(super().__str__())


class OptionError(ReproError, ValueError):
    """An argument, such as a number of threads, is not what it may be."""


class ArtifactError(ReproError):
    """The artifact is not what it should be."""


class ArtifactNotFoundError(ArtifactError):
    """No folder with a manifest at that path."""


class ManifestError(ArtifactError):
    """The manifest cannot be read, or was altered."""


class SchemaVersionError(ManifestError):
    """The manifest was written by a newer repr-deploy."""


class MissingFileError(ArtifactError):
    """A file that the manifest lists is not there."""


class AlteredFileError(ArtifactError):
    """A file is not the one that was exported."""


class TruncatedFileError(AlteredFileError):
    """A file is shorter than the one that was exported."""


class ExternalDataError(ArtifactError):
    """A graph refers to tensor data outside its own file."""


class PrecisionNotFoundError(ArtifactError):
    """The artifact has no graph of the precision asked for."""


class EngineNotFoundError(ArtifactError):
    """The artifact has no TensorRT engine of the precision asked for."""


class StaleEngineError(ArtifactError):
    """The engine was built from another graph than the artifact's."""


class ForeignEngineError(ArtifactError):
    """The manifest does not list the engine: nothing says who made it."""


class PreprocessingMissingError(ArtifactError):
    """The artifact does not say how images become inputs."""


class OccupiedError(ArtifactError):
    """The place to write an artifact to holds something else."""


class InputError(ReproError, ValueError):
    """The arrays given are not what the network takes."""


class InputNameError(InputError):
    """Unknown, missing or doubled input names."""


class InputTypeError(InputError):
    """An input is not a numpy array."""


class InputDtypeError(InputError):
    """An input has another dtype."""


class InputShapeError(InputError):
    """An input has another shape."""


class EmptyBatchError(InputShapeError):
    """An input has nothing in it."""


class BatchSizeError(InputShapeError):
    """The engine was not built for batches of this size."""


class NonFiniteInputError(InputError):
    """An input holds NaN or infinity."""


class ImageError(InputError):
    """What was given to ``classify`` is not uint8 RGB images."""


class BackendError(ReproError):
    """The library or the device underneath."""


class DeviceUnavailableError(BackendError):
    """A device asked for by name is not there."""


class ModelLoadError(BackendError):
    """The library underneath refuses the graph."""


class EngineLoadError(ModelLoadError):
    """TensorRT refuses the engine."""


class EngineVersionError(EngineLoadError):
    """The engine was built by another version of TensorRT, or for another system."""


class WrongGpuError(EngineLoadError):
    """The engine was built for another GPU."""


class CudaError(BackendError):
    """A call to CUDA failed."""


class DeviceMemoryError(CudaError):
    """There is not enough free memory on the device."""


class CudaGraphError(CudaError):
    """A CUDA graph could not be captured."""


class ExecutionError(BackendError):
    """The library underneath failed while running."""


class UnrunnableInputError(ExecutionError):
    """The network cannot be run on an input of these values or sizes, though its shape allows them."""


class NonFiniteOutputError(BackendError):
    """NaN or infinity came out of the network."""


class SessionClosedError(BackendError):
    """The session was used after it was closed."""


class BatcherError(ReproError):
    """A request to a ``Batcher`` that it does not answer."""


class NotBatchableError(BatcherError):
    """The network's inputs and outputs have not one row for each sample."""


class QueueFullError(BatcherError):
    """As many samples wait as may: the service is overloaded; says the limit."""


class DeadlineExceededError(BatcherError, TimeoutError):
    """The request's deadline passed before there was an answer."""


class BatcherClosedError(BatcherError):
    """The batcher was closed before the request was started."""


class SelfTestError(ReproError):
    """The golden samples do not come out as they did at export."""


class MissingExtraError(ReproError, ImportError):
    """An optional part is not installed; says the line that installs it."""

    def __init__(self, what: str, extra: str, module: str | None = None) -> None:
        needs = f" (no module {module!r})" if module else ""
        super().__init__(
            f"{what} needs the extra {extra!r}{needs}: pip install 'repr-deploy[{extra}]'"
        )
