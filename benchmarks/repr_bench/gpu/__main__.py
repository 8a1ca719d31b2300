"""`make gpu`: all that a machine with an NVIDIA GPU can show, within so many minutes.

Exit status 0, 1 if a step failed, 2 without a GPU or for a wrong command line, 130 interrupted.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from repr_bench.gpu.process import run_process
from repr_bench.gpu.report import Report
from repr_bench.gpu.schedule import FAILED, OK, SKIPPED, STOPPED, Ended, Run, Step, run_steps
from repr_bench.gpu.steps import KINDS, NETWORKS, Plan, planned
from repr_runtime.cuda.driver import CudaStatus, cuda_status

_LAST_LINES = 15


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m repr_bench.gpu", description=__doc__)
    p.add_argument("--minutes", type=float, default=12.0, help="in all (default: 12)")
    p.add_argument(
        "--steps", type=_names(KINDS), default=KINDS, metavar="S,…", help=f"of {','.join(KINDS)}"
    )
    p.add_argument(
        "--networks", type=_names(None), default=NETWORKS, metavar="N,…", help="for the engines"
    )
    p.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-10, to train on")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help="default: benchmarks/results/ and the GPU's name"
    )
    p.add_argument(
        "--work",
        type=Path,
        default=Path("bench-results/gpu"),
        metavar="DIR",
        help="artifacts and whatever can be made again (default: bench-results/gpu)",
    )
    p.add_argument(
        "--without-gpu",
        action="store_true",
        help="go through the steps all the same, to see what they say; needs --out",
    )
    return p


def _names(known: Sequence[str] | None) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        wrong = [name for name in names if not name or (known and name not in known)]
        if wrong:
            raise argparse.ArgumentTypeError(
                f"{wrong[0]!r} is none of {', '.join(known or ('names',))}"
            )
        return names

    return parse


def main(
    argv: Sequence[str] | None = None,
    *,
    status: CudaStatus | None = None,
    run: Run | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Entry point; ``status``, ``run`` and ``clock`` are the machine's own unless given."""
    p = parser()
    args = p.parse_args(argv)
    status = status or cuda_status()
    if not args.minutes > 0:
        p.error(f"--minutes must be above 0, got {args.minutes:g}")
    if not status.devices and not args.without_gpu:
        print(f"make gpu needs an NVIDIA GPU: {status.reason}", file=sys.stderr)
        return 2
    if not status.devices and args.out is None:
        p.error("--without-gpu needs --out: what no GPU gave is no result of one")
    gpu = status.gpus[0].name if status.gpus else "no GPU"
    root, out = Path.cwd(), (args.out or Path("benchmarks/results") / folder_name(gpu)).resolve()
    work = args.work.resolve()
    for folder in (out / "logs", out / "engines", out / "bench", work):
        folder.mkdir(parents=True, exist_ok=True)
    capability = status.gpus[0].compute_capability if status.gpus else ""
    chosen = (args.minutes, args.data, args.steps, args.networks, capability)
    plan = Plan(root, out, work, *chosen)
    driver = ".".join(map(str, status.driver or ())) or "none"
    about = {
        "gpu": gpu,
        "driver": f"The driver speaks CUDA {driver}",
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "minutes": args.minutes,
    }
    # Of a shell's background job SIGINT is ignored, and so it would be of all that is started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = run or _run
    report = Report(out, about, args.steps)
    failed, code = 0, 0
    try:
        for outcome in run_steps(planned(plan), args.minutes * 60, out / "logs", run, clock):
            report.add(outcome)
            why = f": {outcome.reason}" if outcome.reason else ""
            print(
                f"{outcome.seconds:6.1f} s  {outcome.status:8}{outcome.step.name}{why}", flush=True
            )
            if outcome.status in (FAILED, STOPPED):
                failed += outcome.status == FAILED
                if outcome.step.kind != "engines" or outcome.step.result is None:
                    _show_end(out / "logs" / outcome.log)
    except KeyboardInterrupt:
        print("interrupted; what was found is kept", file=sys.stderr)
        code = 130
    report.write()
    good = sum(each["status"] in (OK, SKIPPED) for each in report.outcomes)
    print(f"{good} of {len(report.outcomes)} steps went well: {out / 'README.md'}")
    return code or int(failed > 0)


def folder_name(gpu: str) -> str:
    """``nvidia-h100-80gb-hbm3`` for ``NVIDIA H100 80GB HBM3``."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"


def _run(step: Step, seconds: float, log: Path) -> Ended:
    # The survey is to find out what loads without help.
    helped = os.environ if step.kind == "machine" else environment()
    return run_process(step, seconds, log, {**helped, "PYTHONUNBUFFERED": "1"})


def environment() -> dict[str, str]:
    """This one, where the libraries in NVIDIA's wheels are found."""
    found = [
        str(folder)
        for place in map(Path, sys.path)
        for folder in sorted((place / "nvidia").glob("*/lib"))
    ]
    libraries = [*found, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    more = {"LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else {}
    return {**os.environ, **more}


def _show_end(log: Path) -> None:
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    print("\n".join(f"          {line}" for line in lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
