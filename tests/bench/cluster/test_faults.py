"""What a sweep does when workers, the scheduler or the network fail: real processes on loopback, real signals."""

import signal
import threading
import time
from collections import Counter

import pytest

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

from bench.cluster.connect import connected
from bench.cluster.errors import SweepError
from bench.cluster.fleet import Fleet, check_tokens
from bench.cluster.sweep import Job, Sweep, Work
from tests.bench.cluster import stub
from tests.bench.cluster.processes import Cluster

SECONDS = 0.15


class Tried:
    """A sweep of stub cases, what it stored, and what it said."""

    def __init__(self, cluster, folder, jobs, deadly=None, seconds=SECONDS, patience=60):
        self.log = folder / "log"
        self.log.touch()
        self.stored, self.lost, self.lines = [], {}, []
        self.client = connected(cluster.address)
        self.fleet = Fleet("stub", (), stub.FACTS, self.lines.append, stub.ask)
        deadly = deadly or {}

        def spec(job):
            return {"name": job.name, "log": str(self.log), "seconds": seconds, "deadly": deadly.get(job.name, 0)}

        work = Work(
            spec=spec,
            stored=lambda job, result: self.stored.append((job.name, result)),
            lost=lambda job, why: self.lost.update({job.name: why}),
            files=lambda name: {name: b"made"},
            function=stub.case,
        )
        self.sweep = Sweep("stub", cluster.address, self.client, self.fleet, jobs, work, self.lines.append, patience)

    def wait_for_workers(self, count):
        end = time.monotonic() + 60
        while len(self.fleet.members) + len(self.fleet.refused) < count:
            assert time.monotonic() < end, "the workers have not come"
            self.fleet.look(self.client)
            time.sleep(0.05)

    def began(self):
        return [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith("began")]

    def running(self, pid):
        """The case that the worker of this process has begun and not ended."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        mine = [(what, name) for what, name, where in lines if where == pid]
        return mine[-1][1] if mine and mine[-1][0] == "began" else None

    def run(self, *events):
        """Run the sweep; each event is what to do once so many cases have been stored, and that number."""

        ended = threading.Event()

        def act():
            for count, event in events:
                while len(self.stored) < count and not ended.wait(0.02):
                    pass
                if not ended.is_set():
                    event()

        thread = threading.Thread(target=act)
        thread.start()
        try:
            self.sweep.run()
        finally:
            ended.set()
            thread.join()
            self.sweep.client.close()

    def assert_each_once(self, names):
        assert Counter(name for name, _ in self.stored) == dict.fromkeys(names, 1)
        assert {result["name"] for _, result in self.stored} == {*names}


def jobs(count):
    return [Job(f"case-{number}", {}) for number in range(count)]


def wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_workers_die_join_late_and_are_slow(tmp_path):
    """A case that kills two workers is tried on others, one that kills every worker is given up, all else is there."""
    with Cluster(tmp_path) as cluster:
        for name in ("one", "two"):
            cluster.start_worker(name, nanny=True, resources="CPU=1")
        cluster.start_worker("slow", resources="CPU=1", STUB_SLOW="10")
        cluster.start_worker("other", STUB_CODE="d" * 64)
        made = Job("model", {}, makes=True)
        cases = [Job(f"case-{number}", {"CPU": 1.0}, ("model",)) for number in range(30)]
        tried = Tried(cluster, tmp_path, [made, *cases], deadly={"case-3": 2, "case-5": 99})
        tried.wait_for_workers(4)
        (why,) = tried.fleet.refused.values()
        assert why.startswith("other on here (tcp://127.0.0.1:")
        assert why.endswith(f"code {'d' * 12} there, {'c' * 12} here")
        with pytest.raises(
            SweepError, match=r"no worker has GPU=1 H100=1, which 7 cases need, as a-case \(.*one on here"
        ):
            check_tokens(tried.fleet, {"a-case": ({"GPU": 1.0, "H100": 1.0}, 7)})
        tried.run((10, lambda: cluster.start_worker("late", resources="CPU=1")))
        names = [job.name for job in (made, *cases)]
        tried.assert_each_once([name for name in names if name != "case-5"])
        assert tried.lost.keys() == {"case-5"}
        assert tried.lost["case-5"].startswith("it was tried 3 times: the worker at tcp://127.0.0.1:")
        began = Counter(tried.began())
        assert {name: began[name] for name in ("case-3", "case-5")} == {"case-3": 3, "case-5": 3}
        results = dict(tried.stored)
        assert all(results[name]["made"] == [{"model": b"made"}] for name in results if name != "model")
        assert len({result["pid"] for result in results.values()}) >= 4
        assert "other" not in {member.name for member in tried.fleet.members.values()}


@pytest.mark.thorough
def test_the_scheduler_is_killed_and_started_again(tmp_path):
    with Cluster(tmp_path) as cluster:
        for name in ("one", "two"):
            cluster.start_worker(name)
        tried = Tried(cluster, tmp_path, jobs(30))
        tried.wait_for_workers(2)

        def restart():
            """Workers end with their scheduler; whatever keeps a cluster running starts them again."""
            for name in ("scheduler", "one", "two"):
                cluster.kill(name)
            time.sleep(0.5)
            cluster.start_scheduler()
            cluster.start_worker("three")

        tried.run((8, restart))
        tried.assert_each_once([f"case-{number}" for number in range(30)])
        assert tried.lost == {}


@pytest.mark.thorough
def test_the_network_is_cut_for_a_while(tmp_path):
    """A worker that is stopped in a case is taken for dead; another takes the case, and the first gets no result in."""
    with Cluster(tmp_path) as cluster:
        cluster.start_worker("one")
        cluster.start_worker("two")
        tried = Tried(cluster, tmp_path, jobs(24), seconds=0.4)
        tried.wait_for_workers(2)
        cut_off = str(cluster.processes["one"].pid)

        def cut():
            while (case := tried.running(cut_off)) is None:
                time.sleep(0.01)
            cluster.signal("one", signal.SIGSTOP)
            wait(lambda: tried.began().count(case) == 2)
            cluster.signal("one", signal.SIGCONT)

        tried.run((2, cut))
        tried.assert_each_once([f"case-{number}" for number in range(24)])
        assert max(Counter(tried.began()).values()) == 2
        assert [line for line in tried.lines if "died while running it; it is tried again" in line] == tried.lines
