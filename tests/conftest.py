"""Networks here are tiny: a second thread would wait more than it works."""

import os

import pytest
import torch as th
from needs import needs_gpu

from sb3_rainbow import loops

th.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """
    In all tests but those that need a GPU, and name it, device="auto" is the CPU, whose numbers NumPy can read. The
    processes that tests start are not patched.
    """
    with pytest.MonkeyPatch.context() as patch:
        if needs_gpu.mark not in item.iter_markers():
            patch.setattr(th.cuda, "is_available", lambda: False)
        return (yield)


@pytest.fixture(params=[True, False] if loops.IS_COMPILED else [False], scope="module")
def with_and_without_numba(request):
    """For tests that must hold of the compiled loops and of what stands in for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "IS_COMPILED", request.param)
        yield
