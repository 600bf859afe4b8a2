"""What `--cluster` takes, and what is said where dask is not installed."""

import sys

import pytest

from bench.cluster.connect import IN_THE_OPEN, check_address
from mha.values.errors import MissingPackageError


@pytest.mark.parametrize("text", ["local:2", "tcp://127.0.0.1:8786", "tls://node-7.cluster:8786", "tcp://[::1]:9"])
def test_without_dask_the_extra_is_named(text, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"distributed is needed to measure on a cluster.*'mha\[cluster\]'"):
        check_address(text)


@pytest.mark.parametrize("text", ["", "local:0", "local", "127.0.0.1:8786", "tcp://127.0.0.1", "http://127.0.0.1:8787"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="expected the address of a dask scheduler"):
        check_address(text)


@pytest.mark.parametrize(
    ("address", "is_open"),
    [("tcp://127.0.0.1:1", False), ("tcp://[::1]:1", False), ("tls://10.0.0.1:1", False), ("tcp://10.0.0.1:1", True)],
)
def test_a_connection_that_others_can_read_is_known(address, is_open):
    assert bool(IN_THE_OPEN.match(address)) is is_open
