"""The artifact's manifest: what stands in `manifest.json`, parsed without trust.

The file opens with its own SHA-256, taken over its bytes with the 64 digits of that
field as zeros: a manifest in which any byte changed is refused, white space included.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
SEAL = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})"')
UNSEALED = b"0" * 64
DTYPES = frozenset(
    {"float16", "float32", "float64", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, numpy dtype, and shape with a name for each free dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class NetworkInfo:
    """Which network it is; ``source`` is ``registry``, ``factory`` or ``onnx``.

    ``dataset`` is None for a user's own network. ``multiply_adds`` counts one sample.
    """

    name: str
    architecture: str
    dataset: str | None
    parameters: int
    multiply_adds: int | None
    source: str


@dataclass(frozen=True)
class WeightsInfo:
    """Where the parameters came from.

    ``kind`` is ``bundled``, ``published`` (then ``location`` is the address), ``file``,
    ``random``, ``factory`` or ``onnx``. ``sha256`` is the checkpoint file's, None for random
    ones. ``record`` is what training wrote of the checkpoint (accuracy, recipe, seed …) or its
    publisher says, empty where there is none.
    """

    kind: str
    location: str
    sha256: str | None
    record: Mapping[str, Any]


@dataclass(frozen=True)
class PreprocessingInfo:
    """From uint8 RGB images to the network's input.

    The shorter side becomes ``resize`` pixels (bilinear, antialiased; None leaves the size),
    the centre ``crop`` (height, width) is cut out, and each channel becomes
    ``(value / 255 - mean) / std``; layout NCHW.
    """

    resize: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class FileEntry:
    """A file of the artifact: role (``graph``, ``golden``, ``engine``), precision, size, SHA-256.

    ``target`` is what a graph was made for: ``any``, or where one precision has several
    graphs, ``tensorrt`` or ``cpu``.
    """

    path: str
    role: str
    precision: str | None
    bytes: int
    sha256: str
    target: str = "any"


@dataclass(frozen=True)
class ProfileInfo:
    """The batch sizes that an engine takes, and the one it is fastest at."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class EngineInfo:
    """A serialized engine: what built it, from which graph, for which GPUs.

    ``flavour`` is ``tensorrt`` or ``tensorrt-rtx``, ``graph_sha256`` the SHA-256 of the ONNX
    file, weights included, that it was built from: an engine of another graph is stale.
    """

    path: str
    precision: str
    flavour: str
    version: str
    platform: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[ProfileInfo, ...]
    graph_sha256: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """Everything that a service needs to run an artifact and anyone needs to trust it."""

    network: NetworkInfo
    weights: WeightsInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: PreprocessingInfo | None
    labels: tuple[str, ...] | None
    files: tuple[FileEntry, ...]
    engines: tuple[EngineInfo, ...] = ()
    receipts: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The network's full name."""
        return self.network.name

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that there are graphs of."""
        return tuple(dict.fromkeys(f.precision or "?" for f in self.files if f.role == "graph"))

    @property
    def inseparable(self) -> str:
        """Why requests must not be joined to a batch, such as that a sample's outputs depend on it.

        "" where every sample has its own row in each output, whatever it is run with.
        """
        golden = self.receipts.get("golden")
        return str(golden.get("inseparable", "")) if isinstance(golden, Mapping) else ""

    def graph(self, precision: str, target: str = "any") -> FileEntry | None:
        """The graph of that precision made for ``target``, else the one for any, else None."""
        found = [f for f in self.files if f.role == "graph" and f.precision == precision]
        return next((f for wanted in (target, "any") for f in found if f.target == wanted), None)

    def file(self, path: str) -> FileEntry | None:
        """The file at that path, or None."""
        return next((entry for entry in self.files if entry.path == path), None)

    def to_bytes(self) -> bytes:
        """The sealed content of ``manifest.json``."""
        body = {"sha256": UNSEALED.decode(), "schema": self.schema, **asdict(self)}
        content = (json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        return content.replace(UNSEALED, hashlib.sha256(content).hexdigest().encode(), 1)
