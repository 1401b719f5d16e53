"""Memory that a step has freed is there for the next."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

# Page faults of four tensors of 64 MiB, each freed before the next, behind those after which the
# heap has its size.
COUNT = """
import resource, torch
from twinstream.train.memory import keep_freed_memory
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
for _ in range(12):
    torch.ones(2**24)
before = faults()
for _ in range(4):
    torch.ones(2**24)
print(faults() - before)
"""


def page_faults(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(first=first)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_not_fetched_from_the_kernel_again() -> None:
    assert page_faults("keep_freed_memory()") * 10 < page_faults("")
