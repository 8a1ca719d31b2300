"""Images in folders, decoded one batch at a time: by class, by a list of labels, or unlabelled.

Free of torch; Pillow decodes. Nothing is kept in memory beyond the batch that is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repr_models.data.images import Batch
from repr_models.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
LABEL_FILES = ("val.txt", "labels.txt")
DRAW_SEED = 0
_SHOWN = 4  # names in an error


@dataclass(frozen=True)
class ImageFolder:
    """Image files under ``root``, their classes (N,) int64 where known, and what they are in words.

    ``files`` are paths relative to ``root``. Nothing is opened before :meth:`batches`.
    """

    root: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64] | None
    description: str

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int) -> Iterator[Batch]:
        """``size`` decoded images at a time; only the last batch may hold fewer, even none.

        A file that cannot be decoded is left out, and :attr:`Batch.damaged` says why.
        Raises :class:`DataError` if that is every one of them, or Pillow is missing.
        """
        indices, images, damaged, whole = list[int](), list[NDArray[np.uint8]](), list[str](), 0
        for index, name in enumerate(self.files):
            try:
                images.append(decode_image(self.root / name))
            except DataError as error:
                damaged.append(str(error))
                continue
            indices.append(index)
            whole += 1
            if len(images) == size:
                yield Batch(np.array(indices), images, tuple(damaged))
                indices, images, damaged = [], [], []
        if not whole:
            raise DataError(
                f"none of the {len(self):,} images under {self.root} can be read; "
                f"the first: {damaged[0]}"
            )
        if images or damaged:
            yield Batch(np.array(indices, np.int64), images, tuple(damaged))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over each file's name, class and content (its SHA-256), in order.

        A file that cannot be read counts as an empty one.
        """
        digest = hashlib.sha256()
        for index, name in enumerate(self.files):
            try:
                content = _read(self.root / name)
            except DataError:
                content = b""
            label = "" if self.labels is None else str(self.labels[index])
            line = f"{name}\0{label}\0{hashlib.sha256(content).hexdigest()}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True)
class ClassNames:
    """What a folder or a list may call the classes: by index, by label, or by an id.

    ``ids`` are as many as the classes, such as :func:`imagenet_wnids`.
    """

    count: int
    labels: tuple[str, ...] | None = None
    ids: tuple[str, ...] | None = None

    def find(self, names: Sequence[str]) -> tuple[list[int], str, list[str]]:
        """The classes called ``names``, which kind of names they are, and those that are none.

        All are taken for names of one kind: that which most of them are.
        """
        keys = [_key(name) for name in names]
        best: tuple[list[int], str, list[str]] = ([], "", list(names))
        for what, called in (
            ("labels", self.labels),  # which may be WordNet ids, in an order of their own
            ("WordNet ids", self.ids),
            ("indices", tuple(map(str, range(self.count)))),
        ):
            if called is None or len(called) != self.count:
                continue
            index_of = {_key(name): index for index, name in enumerate(called)}
            unknown = [n for n, key in zip(names, keys, strict=True) if key not in index_of]
            if len(unknown) < len(best[2]):
                best = ([index_of[key] for key in keys if key in index_of], what, unknown)
        return best


def _key(name: str) -> str:
    """``name`` without what differs between spellings: case, underscores, leading zeros."""
    plain = " ".join(name.replace("_", " ").casefold().split())
    return str(int(plain)) if plain.isdecimal() and plain.isascii() else plain


def imagenet_wnids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes (ILSVRC 2012) in the order of the logits."""
    path = resources.files("repr_models").joinpath("labels", "imagenet_wnids.txt")
    return tuple(path.read_text("utf-8").split())


def unlabelled_folder(folder: str | Path, *, limit: int | None = None) -> ImageFolder:
    """All images under ``folder``, sub-folders too, by name; ``limit``: so many, drawn.

    Links are followed, each folder once. Raises :class:`DataError` if there are none.
    """
    root = _existing(folder)
    files = _images_under(root, "")
    if not files:
        raise DataError(f"{root} holds no images ({', '.join(SUFFIXES)})")
    return _limited(ImageFolder(root, tuple(files), None, ""), f"under {root.name}", limit)


def labelled_folder(
    folder: str | Path, classes: ClassNames, *, limit: int | None = None
) -> ImageFolder:
    """The labelled images in ``folder``; ``limit``: so many of them, drawn evenly by class.

    ``folder`` holds a sub-folder for each class, as ImageNet's do, or images and a list of
    them (``val.txt`` or ``labels.txt``), a line ``FILE CLASS`` each, apart by a tab where
    a name has spaces. Classes go by WordNet id, by label, or by index. Those without images
    may be missing. Raises :class:`DataError` that names what is no class, or no file.
    """
    root = _existing(folder)
    groups = {name: found for name in _folders(root) if (found := _images_under(root, name))}
    listing = next((path for name in LABEL_FILES if (path := root / name).is_file()), None)
    labels, kind, unknown = classes.find(list(groups))
    if groups and not unknown:
        pairs = [
            (name, label)
            for label, found in zip(labels, groups.values(), strict=True)
            for name in found
        ]
    elif listing is not None:
        pairs = _read_listing(listing, classes)
    elif not groups:
        raise DataError(
            f"{root} holds no labelled images; it needs a folder for each class, or a list "
            f"{' or '.join(LABEL_FILES)} with a line FILE CLASS each"
        )
    else:
        raise DataError(_no_classes(root, list(groups), kind, unknown))
    pairs.sort()
    folder_of = ImageFolder(
        root, tuple(name for name, _ in pairs), np.array([c for _, c in pairs], np.int64), ""
    )
    present = len({label for _, label in pairs})
    part = "" if present == classes.count else f", {present:,} of {classes.count:,} classes"
    return _limited(folder_of, f"under {root.name}{part}", limit)


def draw_evenly(
    labels: NDArray[np.int64] | None, count: int, limit: int | None
) -> NDArray[np.int64]:
    """The indices, ascending, of ``limit`` of ``count`` images, drawn with a fixed seed.

    With labels every class gives as many, as far as it has them, and no two classes' shares
    differ by more than one otherwise. All where ``limit`` is None or no fewer.
    """
    if limit is None or limit >= count:
        return np.arange(count)
    order = np.random.default_rng(DRAW_SEED).permutation(count)
    if labels is not None:
        # Each image's place within its class, in the drawn order: all the first ones go first.
        drawn, places = labels[order], np.empty(count, np.int64)
        for label in np.unique(drawn):
            places[drawn == label] = np.arange(np.count_nonzero(drawn == label))
        order = order[np.argsort(places, kind="stable")]
    return np.sort(order[:limit])


def decode_image(path: Path) -> NDArray[np.uint8]:
    """The image in ``path`` as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey, palette and CMYK images are converted, alpha is left out as torchvision and timm do,
    of 16 bits the upper 8 are taken, of an animation the first image. Raises
    :class:`DataError` that names the file if it is no such image, or Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError(
            "reading images needs Pillow; install it: pip install 'repr-deploy[export]'"
        ) from error
    content = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd EXIF entries and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                upright = ImageOps.exif_transpose(image)
                return np.array(_rgb(upright), np.uint8)
    except Exception as error:  # damaged bytes make Pillow's decoders raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if "cannot identify image file" in reason:
            reason = "no known image format"
        raise DataError(f"{path}: not readable as an image ({reason})") from error


def _rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its pixels have more than 16 bits; save it with 8")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


def _read(path: Path) -> bytes:
    """The file's bytes. Raises :class:`DataError`; a pipe or device would never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _existing(folder: str | Path) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of images")
    return root


def _folders(root: Path) -> list[str]:
    _, folders, _ = next(os.walk(root, onerror=_raise_unreadable))
    return sorted(name for name in folders if not name.startswith("."))


def _images_under(root: Path, start: str) -> list[str]:
    """Image files below ``root/start``, relative to ``root``, by name; each folder visited once."""
    found, visited = list[str](), set[tuple[int, int]]()
    for here, folders, names in os.walk(root / start, followlinks=True, onerror=_raise_unreadable):
        status = os.stat(here)
        place = (status.st_dev, status.st_ino)
        if place in visited:  # a link led back
            folders.clear()
            continue
        visited.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(here).relative_to(root)
        found += [
            (relative / name).as_posix()
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror or error})") from error


def _read_listing(path: Path, classes: ClassNames) -> list[tuple[str, int]]:
    """The files and classes that a list names, each checked to be there."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error})") from error
    rows: list[tuple[int, str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, label = (part.strip() for part in line.strip().partition("\t"))
        if not label:
            name, _, label = (part.strip() for part in line.strip().partition(" "))
        if not label:
            raise DataError(f"{path}, line {number}: {line.strip()!r:.60} is not FILE CLASS")
        if name.startswith(("/", "../")) or "/../" in name or not (path.parent / name).is_file():
            raise DataError(f"{path}, line {number}: there is no file {name!r} in its folder")
        rows.append((number, name, label))
    if not rows:
        raise DataError(f"{path} lists no images; it needs a line FILE CLASS each")
    numbers, names, classed = zip(*rows, strict=True)
    labels, kind, unknown = classes.find(classed)
    if unknown:
        number = numbers[classed.index(unknown[0])]
        raise DataError(
            f"{path}, line {number}: {unknown[0]!r} is no class of the network"
            + (f" (most go by {kind})" if kind else "; classes go by WordNet id, label or index")
        )
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise DataError(f"{path} lists {twice!r} twice")
    return list(zip(names, labels, strict=True))


def _no_classes(root: Path, groups: list[str], kind: str, unknown: list[str]) -> str:
    shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", …" if len(unknown) > _SHOWN else "")
    text = f"{root}: {len(unknown)} of its {len(groups)} folders of images are no classes of the network"
    text += f" ({shown}); " + (f"the others are {kind}" if kind else "")
    within = next((name for name in ("val", "validation", "test") if name in groups), None)
    if within is not None:
        return f"{text.removesuffix('; ')}; give {root / within}"
    return f"{text}{'; ' if kind else ''}name them by WordNet id, label or index"


def _limited(images: ImageFolder, where: str, limit: int | None) -> ImageFolder:
    chosen = draw_evenly(images.labels, len(images), limit)
    what = f"{len(chosen):,} images {where}"
    if len(chosen) < len(images):
        evenly = "" if images.labels is None else " evenly by class"
        what += f", drawn{evenly} of {len(images):,} (seed {DRAW_SEED})"
    labels = None if images.labels is None else images.labels[chosen]
    files = tuple(images.files[index] for index in chosen)
    return replace(images, files=files, labels=labels, description=what)
