"""The workers of a sweep: each is asked what it is before it gets a case, and refused by name if it has other code."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.cluster.errors import SweepError
from bench.cluster.runner import facts_of_worker

if TYPE_CHECKING:
    from distributed import Client

Tokens = Mapping[str, float]
SHOWN = 12  # digits of a hash


@dataclass(frozen=True)
class Member:
    """A worker that may run cases.

    Attributes:
        address, name: as dask knows it.
        host: the name of its machine.
        facts: what `bench.cluster.child.facts` found there.
        threads: how many cases it runs at once.
        tokens: the resources that it was started with, as CPU: 1.
    """

    address: str
    name: str
    host: str
    facts: Mapping[str, Any]
    threads: int
    tokens: Tokens

    def has(self, tokens: Tokens) -> bool:
        """Whether it has all of these resources."""
        return all(self.tokens.get(name, 0.0) >= amount for name, amount in tokens.items())

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class Fleet:
    """All workers that are connected now, and those that are refused.

    Args:
        sweep: the sweep's name.
        names: dtypes and modes that may be measured.
        here: facts of this process (`bench.measure.environment`), from which a worker's may not differ.
        say: called with a line to print.
        ask: what is run on a worker to learn what it is, as `bench.cluster.runner.facts_of_worker`.
    """

    def __init__(
        self,
        sweep: str,
        names: Iterable[str],
        here: Mapping[str, Any],
        say: Callable[[str], None] = lambda _: None,
        ask: Callable[..., Any] = facts_of_worker,
    ) -> None:
        self._ask = ask
        self._sweep, self.names, self._here, self.say = sweep, list(names), here, say
        self.members: dict[str, Member] = {}
        self.refused: dict[str, str] = {}  # address -> why
        self._connected: dict[str, Mapping[str, Any]] = {}

    def look(self, client: "Client") -> None:
        """Ask those workers that were not there before what they are, and forget those that are gone."""
        present = client.nthreads()
        self.members = {address: member for address, member in self.members.items() if address in present}
        new = [each for each in present if each not in self.members and each not in self.refused]
        if new:
            self._connected = dict(client.scheduler_info()["workers"])  # says much of each worker: it is slow for many
            new = [each for each in new if each in self._connected]
            answers = client.run(self._ask, self._sweep, self.names, workers=new, on_error="return")
            for address in new:
                self._meet(address, self._connected[address], answers.get(address))

    def forget(self) -> None:
        """Ask all workers again what they are, before they get another case."""
        self.members = {}

    def with_tokens(self, tokens: Tokens) -> list[Member]:
        """The workers that have these resources."""
        return [member for member in self.members.values() if member.has(tokens)]

    def _meet(self, address: str, known: Mapping[str, Any], answer: Any) -> None:
        """Make a member of a worker, or refuse it."""
        name = str(known.get("name", address))
        if answer is None:
            return  # it has gone in the meantime
        if isinstance(answer, BaseException):
            if isinstance(answer, OSError):
                return  # it can't be reached now; it is asked again
            self._refuse(address, name, f"it can't run cases ({type(answer).__name__}: {answer})")
        elif differences := self._differences(answer["environment"]):
            self._refuse(address, f"{name} on {answer['host']}", "; ".join(differences))
        else:
            resources = {key: float(value) for key, value in known["resources"].items()}
            member = Member(address, name, answer["host"], answer, known["nthreads"], resources)
            self.members = {**self.members, address: member}  # not in place: others read it meanwhile

    def _differences(self, there: Mapping[str, Any]) -> list[str]:
        """In what a worker's software is another than this process's, in phrases."""
        found = [] if there["code"] == self._here["code"] else [self._other("code", there["code"])]
        if _minor(there["python"]) != _minor(self._here["python"]):
            found.append(f"Python {there['python']} there, {self._here['python']} here")
        ours, theirs = self._here["packages"], there["packages"]
        for name in {**ours, **theirs}:
            if _public(theirs.get(name)) != _public(ours.get(name)):
                found.append(f"{name} {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here")
        return found

    def _other(self, what: str, theirs: str) -> str:
        return f"{what} {theirs[:SHOWN]} there, {self._here['code'][:SHOWN]} here"

    def _refuse(self, address: str, name: str, why: str) -> None:
        if address not in self.refused:
            self.refused[address] = f"{name} ({address}): {why}"
            self.say(f"refused: worker {self.refused[address]}; it gets no cases")


def _minor(version: str) -> str:
    """The first two parts of a version of Python."""
    return ".".join(version.split(".")[:2])


def _public(version: str | None) -> str | None:
    """A version less its build, as 2.13.0 for 2.13.0+cpu: machines with and without a GPU have different builds."""
    return version and version.partition("+")[0]


class FleetCapabilities:
    """What the workers can measure, asked like `bench.measure.capabilities`."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._facts = [member.facts for member in members]

    def devices(self) -> tuple[str, ...]:
        """The names of all devices that any worker has, the CPU first."""
        return tuple(dict.fromkeys(device for facts in self._facts for device in facts["devices"]))

    def device(self, word: str) -> str:
        """The device that a word means.

        Raises:
            ValueError: no worker has such a device; says which ones they have.
        """
        here = self.devices()
        if word in here:
            return word
        if f"{word}:0" in here:
            return f"{word}:0"
        raise ValueError(f"no worker has {word!r}; they have {', '.join(here)}")

    def why_no_dtype(self, device: str, dtype: str) -> str | None:
        """Why no worker can compute in a dtype on a device; None where one can."""
        return self._why_not(device, dtype)

    def why_not_by_itself(self, device: str, dtype: str) -> str | None:
        """Why a dtype is not measured on a device unless it is asked for; None where it is."""
        from bench.measure.capabilities import HALF

        return HALF if (device, dtype) == ("cpu", "float16") else self._why_not(device, dtype)

    def why_no_mode(self, device: str, mode: str) -> str | None:
        """Why a mode works on no worker's device of this name; None where it works on one."""
        return self._why_not(device, mode)

    def _why_not(self, device: str, name: str) -> str | None:
        reasons = [facts["why_not"][device].get(name) for facts in self._facts if device in facts["devices"]]
        return None if None in reasons or not reasons else reasons[0]


def check_tokens(fleet: Fleet, wanted: Mapping[str, tuple[Tokens, int]]) -> None:
    """Check that for each kind of case there is a worker which may run it.

    Args:
        wanted: an example of each kind, by its pytest id -> the resources it needs, and how many cases there are of it.

    Raises:
        SweepError: there is none for one of them; the message names the resources.
    """
    refused = "".join(f"; refused: {why}" for why in fleet.refused.values())
    if not fleet.members:
        raise SweepError(f"no worker is connected that may run cases{refused}; start one with `dask worker ADDRESS`")
    for example, (tokens, count) in wanted.items():
        if not fleet.with_tokens(tokens):
            needs = " ".join(f"{name}={amount:g}" for name, amount in tokens.items())
            there = "; ".join(f"{member}: {_words(member.tokens)}" for member in fleet.members.values())
            raise SweepError(
                f"no worker has {needs}, which {count} cases need, as {example} ({there}{refused}); start one with "
                f'`dask worker ADDRESS --nthreads 1 --resources "{needs}"`, or leave these cases out'
            )


def _words(tokens: Tokens) -> str:
    return " ".join(f"{name}={amount:g}" for name, amount in tokens.items()) or "no resources"


def machine_name(facts: Mapping[str, Any]) -> str:
    """A short name for machines with these facts of environment.json, as nvidia-h100-80gb-hbm3-5d0c12.

    Machines of one name are alike in all on which times depend (`bench.measure.environment.IDENTITY`).
    """
    models = [*dict.fromkeys((facts.get("accelerators") or {}).values())] or [facts.get("cpu") or "unknown"]
    words = re.sub(r"\((r|tm)\)|@.*|\bcpu\b|\bprocessor\b", " ", "-".join(models).lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}-{facts['fingerprint'][:6]}"
