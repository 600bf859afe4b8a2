"""The most that this machine can compute and copy, measured in the same run as the cases that are compared with it.

Fills `ceilings.csv`.
"""

import pytest
import torch

from bench.measure.ceilings import ceilings
from bench.measure.sampling import sampled
from bench.rundir.directory import RunDirectory
from bench.settings.options import RunSettings, settings_of
from mha.timing import median


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    settings = settings_of(metafunc.config)
    kinds = [(device, dtype) for device in settings.devices for dtype in settings.dtypes_on(device)]
    ids = [f"{device.replace(':', '')}-{dtype}" for device, dtype in kinds]
    metafunc.parametrize(("device", "dtype", "process"), [(*kind, settings.process) for kind in kinds], ids=ids)


@pytest.mark.fills("ceilings.csv", device="device", dtype="dtype", process="process")
def test_ceilings(
    device: str, dtype: str, process: int, settings: RunSettings, run: RunDirectory, request: pytest.FixtureRequest
) -> None:
    """Record FLOP/s of a large matrix product, and bytes/s of copies that exceed the last cache or fit into it."""
    work = ceilings(device, dtype)
    with torch.inference_mode():
        arms = {name: (lambda call=call: call) for name, (call, _) in work.items()}
        limits = {**settings.limits, "seconds": 4 * settings.limits["seconds"]}
        taken = sampled(request, arms, target="matmul", device=device, limits=limits, seed=process)
    for name, (_, amount) in work.items():
        seconds = [sample["seconds"] for sample in taken.samples if sample["arm"] == name]
        value, low, high = median(seconds)
        run.add_ceiling((device, dtype, name, amount / value, amount / high, amount / low, len(seconds)))
