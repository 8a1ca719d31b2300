"""`--with`: what trtexec and LoadGen found in runs of their own, by their own definitions."""

from pathlib import Path

from repr_bench.errors import ResultsError
from repr_bench.results.other_tools import OtherRow
from repr_bench.scenarios.loadgen_log import SUMMARY, read_loadgen_summary


def read_other(path: Path) -> OtherRow:
    """The run in ``path``; which tool wrote it is seen in it.

    Raises :class:`ResultsError`, or of trtexec's files :class:`BenchError`.
    """
    if path.is_dir() or not _is_json_list(path):
        summary = read_loadgen_summary(path)
        name = path.resolve().name if path.is_dir() else path.stem
        if path.name in (SUMMARY, "mlperf_log_detail.txt"):  # all are called so
            name = path.resolve().parent.name
        return OtherRow(tool="LoadGen", name=name, file=str(path), loadgen=summary)
    from repr_bench.peers.trtexec import read_times

    samples, copies = read_times(path)
    return OtherRow(
        tool="trtexec",
        name=path.name.removesuffix(".json"),
        file=str(path),
        samples_ns=samples,
        copies=copies,
    )


def _is_json_list(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(64).lstrip().startswith(b"[")
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read: {error.strerror or error}; --with takes a file of trtexec "
            f"--exportTimes, or LoadGen's {SUMMARY}"
        ) from error
