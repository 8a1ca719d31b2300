"""Memory that a step gives back is there for the next one."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from repr_models.training.cpu import keep_freed
assert keep_freed() is True
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(200_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_memory_that_was_given_back_needs_no_clearing() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert not ran.returncode, ran.stderr
    first, second = map(int, ran.stdout.split())
    assert first > 100 * max(second, 1)
