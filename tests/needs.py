"""What some tests need of a machine."""

import platform
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch as th
from torch._inductor import config

needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
needs_compiler = pytest.mark.skipif(
    # The one that torch calls: what CXX names, or g++
    not shutil.which(config.cpp.cxx[-1]) or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="needs a C++ compiler and the headers of Python",
)
_has_wheel = sys.version_info < (3, 14) and (sys.platform == "darwin" or platform.machine() in ("x86_64", "AMD64"))
needs_box2d = pytest.mark.skipif(not (_has_wheel or find_spec("Box2D")), reason="needs Box2D, which has no wheel here")
