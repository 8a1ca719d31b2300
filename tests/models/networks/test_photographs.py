"""Real photographs, through the whole way: a published checkpoint, export, runtime, labels.

`make test-large` fetches the checkpoint. By hand, name it in ``REPR_MOBILENET_V2``; without it these
tests are skipped.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repr_export import cli
from repr_models import resolve
from repr_models.weights.download import cached_path
from repr_runtime import Session, load

PHOTOGRAPHS = Path(__file__).with_name("photographs")
# Label and probability of torchvision 0.29.1's own network with its own transforms
# (`MobileNet_V2_Weights.IMAGENET1K_V1.transforms()`), on these very files.
EXPECTED = {
    "cat.jpg": ("Egyptian cat", 0.6517),
    "espresso.jpg": ("espresso", 0.7938),
    "palace.jpg": ("palace", 0.7836),
}
pytestmark = pytest.mark.large


def published_checkpoint() -> Path:
    """The file that the variable names, else that of the download cache; skips without it."""
    published = resolve("mobilenet_v2.imagenet").published
    assert published is not None
    given = os.environ.get("REPR_MOBILENET_V2")
    path = Path(given) if given else cached_path(published)
    if not path.is_file():
        pytest.skip(f"torchvision's MobileNetV2 is not at {path}; set REPR_MOBILENET_V2 to it")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == published.sha256, f"{path} is another file or damaged: delete it"
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    out = tmp_path_factory.mktemp("artifacts")
    weights = str(published_checkpoint())
    assert cli.main(["mobilenet_v2.imagenet", "--weights", weights, "-o", str(out), "--quiet"]) == 0
    return load(out / "mobilenet_v2.imagenet", device="cpu")


def test_photographs_are_what_they_show(session: Session) -> None:
    """The label, and the probability that torchvision gives: so the preprocessing is right too."""
    assert set(EXPECTED) == {path.name for path in PHOTOGRAPHS.glob("*.jpg")}
    images = [np.asarray(Image.open(PHOTOGRAPHS / name).convert("RGB")) for name in EXPECTED]
    for prediction, (label, probability) in zip(
        session.classify(images), EXPECTED.values(), strict=True
    ):
        assert prediction.label == label
        assert prediction.probability == pytest.approx(probability, abs=5e-3)


def test_a_photograph_upside_down_is_less_certain(session: Session) -> None:
    """The orientation reaches the network: nothing between file and logits flips or averages."""
    image = np.asarray(Image.open(PHOTOGRAPHS / "palace.jpg").convert("RGB"))
    upright, flipped = session.classify([image, np.ascontiguousarray(image[::-1])], top=1000)
    palace = {label: probability for _, label, probability in flipped.top}["palace"]
    assert palace < upright.probability / 2
