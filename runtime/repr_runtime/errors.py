"""Everything that can go wrong between an artifact and its predictions."""

import re

LONGEST_WORD, LONGEST_TEXT = 500, 4000
"""Characters that a message keeps of one word, such as a path, and in all."""
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def presentable(text: str) -> str:
    """``text`` as any stream can print it, its overlong words and itself cut in the middle.

    Both ends stay: what was wrong stands at the one, the way out at the other. What is no
    character, as of a file whose name is no UTF-8, or what a terminal obeys is written as an escape.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    if len(text) > LONGEST_WORD:
        text = _LONG_WORD.sub(lambda word: _cut(word[0], LONGEST_WORD), text)
    return _cut(text, LONGEST_TEXT)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    left_out = f"…({len(text):,} characters)…"
    end = (most - len(left_out)) // 2
    return f"{text[:end]}{left_out}{text[-end:]}"


def words_of(error: BaseException) -> str:
    """What an error says that anything may have raised, or its kind where it says nothing."""
    try:
        return " ".join(str(error).split()) or type(error).__name__
    except Exception:
        return type(error).__name__


class ReproError(Exception):
    """Base of all errors here; its message says what was got, what was expected, the way out."""

    def __str__(self) -> str:
        return presentable(super().__str__())


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


class InputSizeError(InputShapeError):
    """What a call would make of its inputs is larger than it may be; says the limit."""


class NonFiniteInputError(InputError):
    """An input holds NaN or infinity."""


class ImageError(InputError):
    """What was given to ``classify`` is not uint8 RGB images."""


class BackendError(ReproError):
    """The library or the device underneath."""


class ThreadLimitError(BackendError):
    """The system starts no more threads for this process."""


class DeviceUnavailableError(BackendError):
    """A device asked for by name is not there."""


class ModelLoadError(BackendError):
    """The library underneath refuses the graph."""


class LimitError(ModelLoadError):
    """Loading the graph would cost more than the limits allow; says which, and the limit."""


class EngineLoadError(ModelLoadError):
    """TensorRT refuses the engine."""


class EngineVersionError(EngineLoadError):
    """The engine was built by another version of TensorRT, or for another system."""


class WrongGpuError(EngineLoadError):
    """The engine was built for another GPU."""


class UnsupportedGpuError(WrongGpuError):
    """The library runs no engine on this GPU, whatever it was built for."""


class CudaError(BackendError):
    """A call to CUDA failed."""


class DeviceLostError(CudaError):
    """After an illegal access, say, nothing works on the device any more in this process."""


class DeviceMemoryError(CudaError):
    """There is not enough free memory on the device."""


class CudaGraphError(CudaError):
    """A CUDA graph could not be captured."""


class ExecutionError(BackendError):
    """The library underneath failed while running."""


class RunLimitError(ExecutionError):
    """A run took longer than the limits allow, and was given up."""


class UnrunnableInputError(ExecutionError):
    """The network cannot be run on an input of these values or sizes, though its shape allows them."""


class HostMemoryError(ExecutionError, MemoryError):
    """There is not enough memory on this machine for what was asked."""


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
