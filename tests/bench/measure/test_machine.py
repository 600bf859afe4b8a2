"""The watch over the machine: what makes a run noisy, and where its numbers come from."""

import pytest

from bench.measure import machine
from bench.measure.machine import Watch, control, noise

QUIET = {"process": 0, "control": [0.010, 0.011, 0.010], "load": None, "mhz": None, "held": {}}


def check(seconds, **seen):
    return {**QUIET, "when": f"2026-11-23T05:00:{seconds:06.3f}+00:00", **seen}


def test_a_quiet_machine():
    checks = [
        check(0, mhz=2600.0),
        check(30, mhz=2700.0, load=0.05, control=[0.0104, 0.5, 0.0104]),
        check(31, load=0.5),
    ]
    assert list(noise(checks)) == []
    assert list(noise([])) == []


def test_a_control_whose_median_moved():
    assert list(noise([check(0), check(1, control=[0.0, 0.012, 0.5]), check(2)])) == [
        "The control workload took between 10.0 and 12.0 ms, 20% apart; up to 5% is quiet.",
    ]


def test_foreign_load_counts_by_how_long_it_lasted():
    checks = [check(0), check(10, load=0.5), check(40, load=0.1)]
    assert list(noise(checks)) == ["Other programs used 0.20 cores on average; up to 0.1 is quiet."]
    assert list(noise([check(0), check(1, load=0.5), check(41, load=0.0)])) == []


def test_a_first_look_of_a_later_part_has_no_load_to_weigh():
    assert list(noise([check(0), check(1, load=0.0), check(50), check(51, load=0.15)])) == []


def test_a_clock_that_changed():
    assert list(noise([check(0, mhz=2000.0), check(1), check(2, mhz=3000.0)])) == [
        "The clock stood between 2000 and 3000 MHz, 50% apart; up to 5% is quiet.",
    ]


def test_a_device_whose_memory_others_hold_is_noisy():
    assert list(noise([check(0, held={"cuda": 1 << 29}), check(1, held={"cuda": 1 << 30})])) == []
    assert list(noise([check(0, held={"cuda:0": 5 << 30}), check(1, held={"cuda:1": 3 << 30})])) == [
        "Other programs held 5.0 GiB of cuda:0's memory, so they may have computed on it, too."
    ]
    older = check(0)
    del older["held"]
    assert list(noise([older])) == []


def test_what_others_hold_is_what_is_neither_free_nor_ours(monkeypatch):
    cuda = machine.torch.cuda
    assert cuda.is_initialized() or machine.held_by_others() == {}
    monkeypatch.setattr(cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "memory_reserved", lambda index: (0, 30)[index])
    monkeypatch.setattr(cuda, "mem_get_info", lambda _: (50, 100))
    assert machine.held_by_others() == {"cuda:1": 20}


def test_the_control_is_work():
    times = control()
    assert len(times) == machine.REPETITIONS
    assert min(times) > 0


@pytest.fixture
def clock(monkeypatch):
    now = {"seconds": 100.0}
    monkeypatch.setattr(machine.time, "monotonic", lambda: now["seconds"])
    return now


def test_a_watch_looks_once_a_minute_and_goes_on_from_earlier_checks(clock):
    noted = []
    watch = Watch(2, [check(0)], noted.append)
    for seconds in (100.0, 130.0, 160.0, 219.0):
        clock["seconds"] = seconds
        watch.check_if_due()
    checks = noted[-1]["machine"]["checks"]
    assert len(noted) == 2
    assert checks[0] == check(0)
    assert [seen["process"] for seen in checks] == [0, 2, 2]


def test_what_we_use_includes_all_that_we_started_and_what_they_outlived(monkeypatch, tmp_path):
    def process(pid, parent, *ticks):
        (tmp_path / str(pid)).mkdir()
        text = f"{pid} (a) b) R {parent} 1 1 0 -1 0 0 0 0 0 {' '.join(map(str, ticks))} 20 0 1"
        (tmp_path / str(pid) / "stat").write_text(text)

    me = machine.os.getpid()
    process(me, 1, 100, 20, 3, 0)
    process(me + 1, me, 0, 0, 400, 50)  # has outlived children of its own
    process(me + 2, me + 1, 7000, 0, 0, 0)
    process(1, 0, 90000, 0, 0, 0)
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(machine, "PROCESSES", tmp_path)
    monkeypatch.setattr(machine.os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    assert machine._our_seconds() == pytest.approx((123 + 450 + 7000) / 100)


def test_load_is_what_others_use(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "STAT", tmp_path / "stat")
    monkeypatch.setattr(machine.os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    ours = iter([1.5, 6.5])
    monkeypatch.setattr(machine, "_our_seconds", lambda: next(ours))
    noted = []
    watch = Watch(0, [], noted.append)
    (tmp_path / "stat").write_text("cpu  100 20 30 9000 400 5 6 7 99 99\ncpu0 1 2 3\n")
    watch.check()
    clock["seconds"] = 110.0
    (tmp_path / "stat").write_text("cpu  500 120 130 9900 999 55 56 57 99 99\ncpu0 1 2 3\n")
    watch.check()
    # Others and we: 4 + 1 + 1 + 0.5 + 0.5 + 0.5 = 7.5 seconds of which 5 are ours, in 10 seconds.
    assert [seen["load"] for seen in noted[-1]["machine"]["checks"]] == [None, 0.25]


def test_what_a_system_does_not_tell_is_not_known(monkeypatch, tmp_path):
    for name in ("STAT", "CPUINFO", "CPUFREQ"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    noted = []
    watch = Watch(0, [], noted.append)
    watch.check()
    watch.check()
    assert [(seen["load"], seen["mhz"]) for seen in noted[-1]["machine"]["checks"]] == [(None, None)] * 2


def test_the_clock_is_that_of_the_fastest_core(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUFREQ", tmp_path)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 2596.148\nflags: x\ncpu MHz\t\t: 2600.5\n")
    noted = []
    watch = Watch(0, [], noted.append)
    watch.check()
    for core, kilohertz in ((0, 800_000), (1, 3_100_000)):
        (tmp_path / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    watch.check()
    assert [seen["mhz"] for seen in noted[-1]["machine"]["checks"]] == [2600.5, 3100.0]
