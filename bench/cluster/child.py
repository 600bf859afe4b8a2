"""What a process of a sweep does on a worker's machine: say what it finds there, or run one case by pytest."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import device_lock
from bench.measure import capabilities
from bench.measure.environment import environment
from bench.measure.files import write_json
from bench.models.shelf import SHELF, Shelf
from bench.settings.options import MODES, settle
from bench.settings.sending import PART, settings_from

ROOT = Path(__file__).parents[2]
REPORTS = "reports.json"  # of a scratch run directory, beside the files of a run
ASKED = pytest.StashKey[Mapping[str, Any]]()  # what is to be made, in a process that makes what others share
SETTINGS = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-p", "no:xdist")


def facts(argument: Mapping[str, Any]) -> int:
    """Write what is true of this machine into the file `answer`.

    It is an object: `environment`, the facts of `bench.measure.environment`; `devices`; and `why_not`, device, then
    dtype or mode -> why it can't be measured, for those of `names` that can't.
    """
    devices = capabilities.devices()
    why_not = {
        device: {name: why for name in argument["names"] if (why := _why_not(device, name))} for device in devices
    }
    known = {"environment": environment(""), "devices": devices, "why_not": why_not}
    write_json(Path(argument["answer"]), known)
    return 0


def _why_not(device: str, name: str) -> str | None:
    return (capabilities.why_no_mode if name in MODES else capabilities.why_no_dtype)(device, name)


def case(argument: Mapping[str, Any]) -> int:
    """Run one case by pytest, into the scratch run directory `run`; returns pytest's exit code.

    Args:
        argument: `test`, the case by its pytest id, or a file; `run`, `shelf`, paths; `settings`, those of the sweep
            (`bench.settings.sending`); `command`, for the run's environment.json; `timed`, the device that is needed
            alone, or None; `make`, what is to be made, or None; `options`, further ones of pytest.
    """
    arguments = [
        *(argument["test"], *SETTINGS, "--run", argument["run"], "--process", str(argument["settings"]["process"])),
        *("--command", argument["command"], *argument["options"]),
    ]
    return int(pytest.main(arguments, plugins=[OneCase(argument)]))


class OneCase:
    """A plugin that gives the run the sweep's settings, waits for the device, and keeps pytest's reports."""

    def __init__(self, argument: Mapping[str, Any]) -> None:
        self._argument = argument
        self._reports: list[dict[str, Any]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Give the configuration what the sweep knows; its options are not parsed from a command line again."""
        self._config = config
        settle(config, settings_from(self._argument["settings"], Path(self._argument["run"])))
        config.stash[SHELF] = Shelf(Path(self._argument["shelf"]))
        config.stash[PART] = self._argument["timed"] is not None
        if self._argument["make"]:
            config.stash[ASKED] = self._argument["make"]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Hold the lock of the device while the case runs, the checks of the machine around it included."""
        timed = self._argument["timed"]
        with ExitStack() as held:
            held.enter_context(device_lock.alone_on(timed) if timed else device_lock.among_others())
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report, in a form that can be sent."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._reports.append(data)

    def pytest_sessionfinish(self) -> None:
        """Write the reports."""
        text = json.dumps(self._reports, default=str)
        Path(self._argument["run"], REPORTS).write_text(text, encoding="utf-8")


CALLS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {"facts": facts, "case": case}
