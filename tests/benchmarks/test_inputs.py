"""Which images an artifact is judged on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repr_bench import inputs
from repr_bench.inputs import EvaluationImages
from repr_models.data.images import ImageSet
from repr_models.errors import DataError
from repr_runtime import read_manifest

Maker = Callable[..., Path]


def chosen(artifact: Path, **how: Any) -> tuple[Any, str]:
    return EvaluationImages(**how).for_artifact(read_manifest(artifact))


def test_a_folder_by_class_for_any_classes(
    make_artifact: Maker, write_pictures: Maker, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "pictures", "9", "3")
    images, _ = chosen(make_artifact(dataset=None, classes=12), folder=folder)
    assert images.labels.tolist() == [3, 3, 3, 9, 9, 9]


def test_imagenet_goes_by_wordnet_ids_and_so_does_any_network_of_its_1000_classes(
    make_artifact: Maker, write_pictures: Maker, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "pictures", "n01440764", "n15075141")
    for name, dataset in (("linear", "imagenet"), ("own", None)):
        images, _ = chosen(make_artifact(name, dataset=dataset, classes=1000), folder=folder)
        assert images.labels.tolist() == [0] * 3 + [999] * 3
    with pytest.raises(DataError, match="no classes of the network"):
        chosen(make_artifact("fewer", dataset=None, classes=999), folder=folder)


def test_cifar10_is_for_its_networks(
    make_artifact: Maker, ten_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_load", lambda _folder: ten_images)
    assert chosen(make_artifact("one"), folder=Path("cifar10"))[0] is ten_images
    images, note = chosen(make_artifact("two", dataset="imagenet"), folder=Path("cifar10"))
    assert images is None
    assert "holds CIFAR-10" in note


@pytest.mark.usefixtures("ten_images")
def test_a_part_is_drawn_evenly(
    make_artifact: Maker, write_pictures: Maker, tmp_path: Path
) -> None:
    artifact = make_artifact()
    images, _ = chosen(artifact, limit=8)
    assert images.labels.tolist() == [9, 0, 1, 2, 3, 4, 5, 6]  # one of the three nines
    assert images.description == "8 drawn evenly by class (seed 0) from ten grey images"
    images, _ = chosen(artifact, label_free=write_pictures(tmp_path / "p"), limit=2)
    assert len(images) == 2


def test_a_folder_without_images_is_refused_at_once(write_pictures: Maker, tmp_path: Path) -> None:
    for how in ("folder", "label_free"):
        with pytest.raises(DataError, match="holds no images"):
            EvaluationImages(**{how: tmp_path}).check()
    write_pictures(tmp_path)
    EvaluationImages(folder=tmp_path).check()
    EvaluationImages(label_free=tmp_path).check()
