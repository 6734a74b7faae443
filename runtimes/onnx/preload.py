"""Importing this module imports what a worker needs: a zygote does it once, before it forks. Threads must not start here.

OpenBLAS starts a pool as NumPy is imported, one thread a core, and a fork does not take threads along.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy  # noqa: F401
import onnxruntime  # noqa: F401

from edgehost.runtimes.onnx import model, session  # noqa: F401
