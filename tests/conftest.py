"""Tests run on several cores at once (pytest-xdist), and many start pytest anew: those processes are no workers."""

import os

import mha

os.environ.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark would time nothing in them

for _name in dir(mha):  # names are imported when first asked for; no test is to depend on which ran before it
    getattr(mha, _name)
