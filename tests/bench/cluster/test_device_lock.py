"""Whoever is timed on a CPU is alone there, and whoever asked first is first."""

import tempfile
import threading
import time

import pytest

from bench.cluster.device_lock import alone_on, among_others


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def start(context, log, name):
    """A thread that enters the context, notes that, and leaves it once it is told to."""
    leave = threading.Event()

    def work():
        with context:
            log.append(name)
            leave.wait(10)
            log.append(f"{name} left")

    thread = threading.Thread(target=work)
    thread.start()
    return thread, leave


def test_a_timed_case_waits_for_the_others_and_later_ones_for_it():
    log, running = [], {}
    for name, context in (
        ("one", among_others()),
        ("two", among_others()),
        ("timed", alone_on("cpu")),
        ("late", among_others()),
    ):
        running[name] = start(context, log, name)
        time.sleep(0.1)
    assert log == ["one", "two"]
    for name in ("one", "two", "timed", "late"):
        running[name][1].set()
        running[name][0].join(10)
    assert log == ["one", "two", "one left", "two left", "timed", "timed left", "late", "late left"]


def test_accelerators_are_apart_and_let_untimed_cases_run():
    log = []
    with alone_on("mps:0"), alone_on("mps:1"), among_others():
        thread, leave = start(alone_on("mps:0"), log, "second")
        time.sleep(0.1)
        assert log == []
    leave.set()
    thread.join(10)
    assert log == ["second", "second left"]
