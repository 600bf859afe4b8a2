"""Scoring on workers of a dask.distributed cluster, in real processes on loopback, against scoring here."""

import os
import signal
import threading
import time

import pytest
import torch

import mha
from mha.importance import Shard
from mha.importance.registry import describe
from mha.runtime import cluster as engine
from tests.mha.support.criteria import QUICK
from tests.mha.support.losses import loss_of
from tests.mha.support.models import Reader
from tests.mha.support.two_workers import two_workers
from tests.thorough import few

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

CLOSE = 1e-6
WITH_DATA = [name for name in mha.criteria() if describe(name).needs != "nothing"]


@pytest.fixture(scope="module")
def cluster():
    with two_workers() as local:
        yield local


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    yield
    if "client" in request.fixturenames:
        client = request.getfixturevalue("client")
        end = time.monotonic() + 120
        while left := [*client.futures, *client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.tasks])]:
            assert time.monotonic() < end, left
            time.sleep(0.02)


@pytest.fixture
def model() -> Reader:
    """A `Reader` in float32: rounding shows."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Reader()


@pytest.fixture
def batches(batches):
    """Four batches in float32, of 7, 7, 4 and 1 examples."""
    x, memory, labels = batches[-1]
    last = [(x[:4].float(), memory[:4].float(), labels[:4]), (x[4:].float(), memory[4:].float(), labels[4:])]
    return [(x.float(), memory.float(), labels) for x, memory, labels in batches[:-1]] + last


def assert_close(one: mha.HeadScores, other: mha.HeadScores) -> None:
    assert one.keys() == other.keys()
    assert one.examples == other.examples
    for name, row in one.items():
        assert torch.allclose(row.double(), other[name].double(), rtol=CLOSE, atol=CLOSE * float(row.abs().max()))


@pytest.mark.parametrize("criterion", few(WITH_DATA, "fisher"))
def test_every_criterion_scores_as_here(client, model, batches, criterion):
    options = {**QUICK.get(criterion, {}), **({"truncation": 0.9} if criterion == "shapley" else {})}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    here = mha.score(model, batches, loss_of, criterion, **options)
    there = mha.score(model, batches, loss_of, criterion, cluster=client, **options)
    assert_close(here, there)
    assert here.spent.backward == there.spent.backward
    assert here.spent.forward <= there.spent.forward  # a shard checks anew whether passes can be replayed
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_needs_no_batches_is_scored_here(client, model):
    for name in set(mha.criteria()) - set(WITH_DATA):
        here, there = (mha.score(model, None, None, name, seed=3, cluster=where) for where in (None, client))
        assert all(torch.equal(row, there[layer]) for layer, row in here.items())


def noisy(model, batch):
    """A loss that draws at random."""
    return loss_of(model, batch) * (1 + torch.rand(()))


def test_neither_the_sharding_nor_where_batches_are_makes_a_difference(client, model, batches):
    """Shards of no batch, of one example, of several unlike batches, on the cluster already; with a loss that draws."""
    sharded = [Shard(), Shard([batches[3]]), Shard(batches[:2]), batches[2]]
    # a function of dask's own has made these there, as a loader of files would
    futures = client.map(lambda shard: shard, sharded, pure=False)
    for criterion in ("fisher", "entropy", "gate"):
        options = QUICK.get(criterion, {})
        in_order = [batches[3], *batches[:3]]
        here = mha.score(model, in_order, noisy, criterion, **options)
        assert_close(here, mha.score(model, sharded, noisy, criterion, **options))
        assert_close(here, mha.score(model, sharded, noisy, criterion, cluster=client, **options))
        assert_close(here, mha.score(model, futures, noisy, criterion, cluster=client, **options))
    for future in futures:
        future.release()


@pytest.mark.thorough
def test_rounds_mask_what_has_left_on_the_workers_too(client, model, batches):
    here, there = (
        mha.score(model, batches, loss_of, "taylor", rounds=4, examples=len_of_labels, cluster=where)
        for where in (None, client)
    )
    assert all(torch.equal(row, there[name]) for name, row in here.items())


def len_of_labels(batch):
    return len(batch[2])


@pytest.mark.thorough
def test_a_race_and_a_criterion_of_ones_own_are_run_by_one_worker(client, model, batches):
    @mha.register_criterion("position", needs="outputs")
    def position(calibration, *, factor=2.0):
        examples = sum(batch.loss().examples for batch in calibration.each_batch())
        return {name: row + factor * examples for name, row in calibration.zeros().items()}

    there = mha.score(model, batches, loss_of, "position", factor=3.0, cluster=client)
    assert {name: row.tolist() for name, row in there.items()} == {
        name: [57.0] * len(row) for name, row in there.items()
    }
    options = {"racing": True, "budget": 1.0}
    here = mha.score(model, batches, loss_of, **options)
    assert_close(here, mha.score(model, batches, loss_of, cluster=client, **options))


@pytest.mark.thorough
def test_what_says_it_adds_up_and_does_not_is_refused(client, model, batches):
    @mha.register_criterion("pretender", needs="outputs", additive=True)
    def pretender(calibration):
        for batch in calibration.each_batch():
            batch.loss()
        return calibration.zeros()

    with pytest.raises(mha.CalibrationError, match="register it without additive=True"):
        mha.score(model, batches, loss_of, "pretender", cluster=client)


class Counted(Reader):
    """A model that notes in a file whenever a process gets it."""

    file = ""

    def __setstate__(self, state):
        super().__setstate__(state)
        with open(self.file, "a") as file:  # noqa: PTH123
            file.write(f"{os.getpid()}\n")


@pytest.mark.thorough
def test_the_model_is_sent_once_to_each_worker(client, batches, tmp_path):
    model = Counted()
    model.file = str(tmp_path / "sent")
    mha.score(model, [*batches, *batches, *batches], loss_of, "taylor", rounds=2, cluster=client)
    came = (tmp_path / "sent").read_text().split()
    assert len(came) == len(set(came)) == 2


def slow_and(what, folder, number=2):
    """A loss that does something, once, on the worker that comes to the batch with so many examples first."""
    here = os.getpid()

    def loss(model, batch):
        time.sleep(0.05)
        if os.getpid() != here and len(batch[2]) == number:
            what(folder)
        return loss_of(model, batch)

    return loss


def die_once(folder):
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.thorough
def test_a_worker_killed_in_the_middle_changes_nothing(client, model, batches, tmp_path):
    many = [*batches, *batches, *batches]
    calm = mha.score(model, many, loss_of, "fisher", cluster=client)
    killed = mha.score(model, many, slow_and(die_once, tmp_path, number=1), "fisher", cluster=client)
    assert (tmp_path / "died").exists()
    assert killed.examples == calm.examples == 57
    assert all(torch.equal(row, killed[name]) for name, row in calm.items())  # to the last bit


@pytest.mark.thorough
def test_all_workers_killed_at_once_change_nothing(client, model, batches, tmp_path):
    many = [*batches, *batches, *batches]
    here = mha.score(model, many, loss_of, "fisher")
    client.wait_for_workers(2, timeout=600)

    def kill_all():
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    pids = client.run(os.getpid).values()
    killer = threading.Thread(target=kill_all)
    killer.start()
    assert_close(here, mha.score(model, many, slow_and(begin, tmp_path, number=4), "fisher", cluster=client))
    killer.join()
    client.wait_for_workers(2, timeout=600)


def begin(folder):
    (folder / "began").touch()


def always_die(_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.thorough
def test_a_shard_that_kills_every_worker_is_named(client, cluster, model, batches, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(mha.CalibrationError, match=r"shard 2 \(batch 2\): its worker died 1 times"):
        mha.score(model, batches, slow_and(always_die, tmp_path, number=4), "fisher", cluster=client)
    client.wait_for_workers(2, timeout=600)


def fail(_):
    raise ValueError("no such file")


@pytest.mark.thorough
def test_a_shard_that_raises_is_named(client, model, batches, tmp_path):
    with pytest.raises(mha.CalibrationError, match=r"^shard 2 \(batch 2\), on a worker: ValueError: no such file$"):
        mha.score(model, batches, slow_and(fail, tmp_path, number=4), "fisher", cluster=client)


@pytest.mark.thorough
def test_a_loss_of_nan_is_the_same_error_as_here(client, model, batches):
    """Of several shards that fail it is the first one's, by its number in the whole calibration set."""
    wrong = [Shard(batches[:2]), *[(x * float("nan"), memory, labels) for x, memory, labels in batches[2:]]]
    messages = []
    for where in (None, client):
        with pytest.raises(mha.CalibrationError) as caught:
            mha.score(model, wrong, loss_of, "taylor", cluster=where)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("batch 2: the loss is nan")
    future = client.scatter(Shard(wrong[1:2]), hash=False)
    with pytest.raises(mha.CalibrationError, match="shard 1: batch 0: the loss is nan"):
        mha.score(model, [wrong[0], future], loss_of, "taylor", cluster=client)
    future.release()


@pytest.mark.thorough
def test_a_worker_of_another_version_is_refused_by_name(client, model, batches, monkeypatch):
    other = {**engine.versions(), "torch": "1.0", "code of mha": "0123"}
    monkeypatch.setattr(engine, "versions", lambda: other)
    expected = r"worker tcp://127.0.0.1:\d+ has another version: code of mha \w+, here 0123; torch [\d.]+, here 1.0"
    with pytest.raises(mha.CalibrationError, match=expected):
        mha.score(model, batches, loss_of, "fisher", cluster=client)
    monkeypatch.setattr(engine.Cluster, "_check_versions", lambda _: True)  # as for one that comes later
    with pytest.raises(mha.CalibrationError, match=expected):
        mha.score(model, batches, loss_of, "fisher", cluster=client)


@pytest.mark.thorough
def test_what_can_not_be_sent_is_refused_by_name(client, model, batches):
    lock = threading.Lock()
    handle = model.plain.register_forward_hook(lambda *_: lock.locked() or None)
    with pytest.raises(mha.CalibrationError, match=r"the model can't be sent.*forward_hooks of 'plain'.*lock"):
        mha.score(model, batches, loss_of, "fisher", cluster=client)
    handle.remove()
    with pytest.raises(mha.CalibrationError, match=r"the loss can't be sent to workers:.*lock"):
        mha.score(model, batches, lambda *batch: loss_of(*batch) + lock.locked(), "fisher", cluster=client)
    with pytest.raises(mha.CalibrationError, match=r"shard 1 \(batch 1\) can't be sent to a worker:.*lock"):
        mha.score(model, [batches[0], (*batches[1], lock)], loss_of, "fisher", cluster=client)


@pytest.mark.thorough
def test_clients_that_can_not_work_are_refused(client, cluster, model, batches, tmp_path, monkeypatch):
    def score(where, **options):
        return mha.score(model, batches, loss_of, "fisher", cluster=where, **options)

    with pytest.raises(mha.CalibrationError, match=r"got 'tcp://127.0.0.1:8786'"):
        score("tcp://127.0.0.1:8786")
    closed = distributed.Client(cluster)
    closed.close()
    with pytest.raises(mha.CalibrationError, match="the client is closed, not running"):
        score(closed)
    with pytest.raises(mha.CalibrationError, match="give journal or cluster"):
        score(client, journal=tmp_path / "journal")
    with pytest.raises(mha.CalibrationError, match="the calibration set is empty"):
        mha.score(model, [], loss_of, "fisher", cluster=client)
    monkeypatch.setattr(engine, "GRACE", 0.2)
    monkeypatch.setattr(client, "nthreads", dict)
    with pytest.raises(mha.CalibrationError, match="the cluster has no workers; none came within 0 s"):
        score(client)


@pytest.mark.thorough
def test_an_interrupt_frees_the_workers(client, model, batches, tmp_path):
    def wait(_):
        time.sleep(2)

    threading.Timer(0.7, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        mha.score(model, batches * 20, slow_and(wait, tmp_path, number=7), "fisher", cluster=client)
    assert client.submit(os.getpid, pure=False).result(timeout=10) != os.getpid()
