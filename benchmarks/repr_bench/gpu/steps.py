"""What `make gpu` does, as commands in order of worth."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repr_bench.gpu.schedule import HOURS_LEFT, Step
from repr_runtime.backends.tensorrt.library import EDITIONS

KINDS = ("machine", "tests", "engines", "bench", "train")
NETWORKS = ("resnet20", "googlenet", "resnet50")
LARGE = "resnet50.imagenet"
"""At 224 by 224 pixels, of drawn weights: what a multiply-add costs does not depend on them."""
PRECISIONS = ("fp32", "fp16", "int8")
TESTS = (
    "tests/runtime/cuda/test_cuda.py",
    "tests/runtime/test_gpu.py",
    "tests/export/tensorrt/test_receipt.py",
    "tests/export/tensorrt/test_build.py",
    "tests/runtime/backends/tensorrt/test_lean.py",
    "tests/benchmarks/analysis/test_gpu_peaks.py",
)
"""In order of worth; whatever else is marked ``gpu`` comes after them."""
_TEST_SECONDS = 45
_WARNING = "error::repr_runtime.backends.tensorrt.lane.CudaGraphWarning"


@dataclass(frozen=True)
class Plan:
    """``out`` gets the results, ``work`` what can be made again; ``root`` is the source tree.

    ``data`` is a folder with CIFAR-10, if there is one, ``minutes`` how long all may take.
    ``capability`` is the GPU's compute capability, like ``"9.0"``, if there is a GPU.
    """

    root: Path
    out: Path
    work: Path
    minutes: float
    data: Path | None = None
    kinds: tuple[str, ...] = KINDS
    networks: tuple[str, ...] = NETWORKS
    capability: str = ""

    def takes(self, edition: str) -> bool:
        """Whether the library is known to run engines on this GPU."""
        return not self.capability or EDITIONS[edition].takes(self.capability)

    @property
    def artifacts(self) -> Path:
        return self.work / "artifacts"


def planned(plan: Plan) -> list[Step]:
    """The steps of the kinds asked for, those that cannot be done with the reason why not."""
    makers = {
        "machine": _machine,
        "tests": _tests,
        "engines": _engines,
        "bench": _bench,
        "train": _train,
    }
    return [step for kind in KINDS if kind in plan.kinds for step in makers[kind](plan)]


def _python(*arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-X", "faulthandler", *map(str, arguments))


def _machine(_: Plan) -> Iterator[Step]:
    command = _python("-m", "repr_runtime.cli", "--machine")
    yield Step("machine", "machine", command, 150)


def _tests(plan: Plan) -> Iterator[Step]:
    result = plan.out / "tests.xml"
    files = marked_files(plan.root)
    options = ["-m", "gpu", "-v", "--durations=0", f"--junit-xml={result}"]
    # Of versions that this tree has not met, what they deprecate is no failure here.
    options += ["-p", "no:cacheprovider", "-W", "default", "-W", _WARNING]
    if _is_there("pytest_timeout"):  # a call into a library that hangs ends with its process
        options += [f"--timeout={_TEST_SECONDS}", "--timeout-method=thread"]
    if _is_there("xdist"):  # a test that crashes is a failure, and the next ones run
        options += ["-n", "1", "--max-worker-restart=20"]
    missing = [name for name in ("pytest", "hypothesis") if not _is_there(name)]
    skip = f"{missing[0]} is not installed" if missing else ""
    if not files:
        skip = f"there are no tests in {plan.root}"
    limit = min(240.0, 0.4 * 60 * plan.minutes)  # if they hang, the engines have their turn yet
    yield Step("tests", "tests", _python("-m", "pytest", *options, *files), limit, result, skip)


def marked_files(root: Path) -> list[str]:
    """The test files with tests for a GPU, in order of worth."""
    found = [
        file.relative_to(root).as_posix()
        for file in sorted((root / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in file.read_text(encoding="utf-8")
    ]
    return [name for name in TESTS if name in found] + [name for name in found if name not in TESTS]


def _engines(plan: Plan) -> Iterator[Step]:
    editions = [name for name, edition in EDITIONS.items() if edition.installed]
    order = sorted(editions, key=lambda name: not EDITIONS[name].just_in_time)
    results = plan.out / "engines"
    for index, network in enumerate(plan.networks):
        able = [name for name in order if plan.takes(name)]
        if index and order and not able:
            # What it says of the first network's is the result; the others' time is worth more.
            reason = f"{EDITIONS[order[0]].title} does not run on {plan.capability}"
            yield Step(f"{network} engines", "engines", (), 0, skip=reason)
            continue
        yield export_step(plan, network, "engines")
        if not order:
            names = ", ".join(edition.title for edition in EDITIONS.values())
            yield Step(f"{network} engines", "engines", (), 0, skip=f"none of {names} is installed")
        for precision in PRECISIONS:
            for edition in able or (order if precision == PRECISIONS[0] else []):
                name = f"{network} {precision} {edition}"
                ways = ["current", "portable"] if EDITIONS[edition].just_in_time else ["portable"]
                # Whether each target runs on this GPU is found out with the smallest network.
                for targets in [[way] for way in ways] if index == 0 else [ways]:
                    result = results / f"{name.replace(' ', '-')}-TARGET.json"
                    arguments = (plan.artifacts / network, precision, edition, ",".join(targets))
                    command = _python("-m", "repr_bench.gpu.engine", *arguments, result)
                    title = f"{name} {'/'.join(targets)}"
                    yield Step(title, "engines", command, 75, result)


def export_step(plan: Plan, network: str, kind: str, *precisions: str) -> Step:
    """The artifact of ``network``, with all precisions unless some are given, if it is not there.

    Where the tree came without its weights, of drawn ones.
    """
    usual = ("--fp16", "--int8", *(["--bf16"] if network == NETWORKS[0] else []))
    options = [*(precisions or usual), "--max-drop", "100"]
    options += ["-o", str(plan.artifacts)]
    target = network
    if network == LARGE:
        options += ["--weights", "random"]
    elif not [*(plan.root / "models/repr_models/bundled").glob(f"{network}.*.safetensors")]:
        target = f"{network}.cifar10"
        options += ["--name", network, "--weights", "random"]
    there = (plan.artifacts / network / "manifest.json").exists()
    command = _python("-m", "repr_export.cli", target, *options)
    return Step(f"export {network}", kind, command, 180, skip="it is there" if there else "")


def _bench(plan: Plan) -> Iterator[Step]:
    """Ours on each of its devices, ONNX Runtime's and torch, in the same rounds.

    On an H100 one of them took 2 s a network, precision and batch size, at 224 by 224 pixels 4 s,
    and to compile up to as long as it may. So none of these is to take more than a minute or two,
    each precision has its turn before a second network, and compiling comes after them.
    """
    small = [name for name in ("resnet20", "googlenet") if name in plan.networks]
    others = "ours-tensorrt,ours-cuda,onnxruntime-cuda,onnxruntime-tensorrt,torch-cuda"
    compiled = "onnxruntime-cuda,onnxruntime-cuda-nhwc,torch.compile-cuda"
    for network in small:
        yield export_step(plan, network, "bench")
    for network in small[:1]:
        yield _measure(plan, f"{network} fp32,fp16", network, "1,32,128", others)
    if "resnet50" in plan.networks:
        yield export_step(plan, LARGE, "bench", "--fp16")
        yield _measure(plan, "resnet50 fp16", LARGE, "1,32,256", others, "--roofline")
    for network in small[:1]:
        yield _measure(plan, f"{network} int8", network, "1,128", others)
        yield _measure(plan, f"{network} bf16", network, "1,128", others)
    if "resnet50" in plan.networks:
        yield _measure(plan, "resnet50 fp32", LARGE, "1,32,256", others)
        yield _measure(plan, "resnet50 fp16 compiled", LARGE, "1,32", compiled)
    for network in small[1:]:
        yield _measure(plan, f"{network} fp32,fp16", network, "1,128", others)
        yield _measure(plan, f"{network} int8", network, "1,128", others)
    for network in small[:1]:
        tuned = "onnxruntime-cuda,torch.max-autotune-cuda"
        yield _measure(plan, f"{network} fp16 tuned", network, "1,128", tuned)


def _measure(plan: Plan, name: str, network: str, batches: str, peers: str, *more: str) -> Step:
    """A run of `repr-bench`, its precisions in ``name``; short a row, for there are many."""
    stem = plan.out / "bench" / re.sub("[ ,]", "-", name)
    command = _python("-m", "repr_bench.cli", plan.artifacts / network)
    command += ("--precision", name.split()[1], "--batch", batches, "--quick", *more)
    command += ("--seconds", "0.15", "--samples", "12", "--peers", peers)
    command += ("--compile-seconds", "45", "--json", f"{stem}.json", "--html", f"{stem}.html")
    command += ("--markdown", f"{stem}.md")
    return Step(f"bench {name}", "bench", command, 150, Path(f"{stem}.json"))


def _train(plan: Plan) -> Iterator[Step]:
    command = _python("-m", "repr_models.training.cli", "--missing", "--hours", HOURS_LEFT)
    skip = "" if plan.data else "no CIFAR-10 to train on: make gpu DATA=DIR"
    command += ("--data", str(plan.data), "-o", str(plan.work / "checkpoints"))
    yield Step("train", "train", command, plan.minutes * 60, skip=skip)


def _is_there(module: str) -> bool:
    """Whether there is code of that name, without importing it."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None
