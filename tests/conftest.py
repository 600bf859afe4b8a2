"""Tests run on several cores at once (pytest-xdist), and many start pytest anew: those processes are no workers."""

import os

os.environ.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark would time nothing in them
