"""Loads hostile checkpoints in a process that writes down whatever runs, is opened, imported or asked meanwhile.

    python -m tests.mha.pruning.checkpoint.hostile DIRECTORY…

Prints a line of JSON for each: what became of it, and what happened that must not.
"""

import builtins
import json
import sys

import torch
import transformers

import mha

UNWANTED = ("timm", "kernels", "modeling", "evil")
WATCHED = {"exec", "compile", "os.system", "subprocess.Popen", "os.exec", "socket.connect", "socket.getaddrinfo"}
seen: list[str] = []
watching: list[str] = []


def watch(event: str, args: tuple) -> None:
    if not watching:
        return
    if event == "open" and isinstance(args[0], str) and not _is_of_a_library(args[0]):
        seen.append(f"open {args[0]}")
    elif event in ("builtins.input", *WATCHED - {"exec", "compile"}) or event.startswith("pickle."):
        seen.append(f"{event} {args}")


def _is_of_a_library(path: str) -> bool:
    if path.startswith(watching[0]):
        return not path.endswith((".py", ".bin"))
    return path.startswith((sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev")) or path.endswith(".pyc")


def load(directory: str) -> dict[str, object]:
    seen.clear()
    watching[:] = [directory]
    before = set(sys.modules)
    try:
        outcome = type(mha.load_pruned(directory)).__name__
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    finally:
        watching.clear()
    foreign = sorted({name.split(".")[0] for name in set(sys.modules) - before}.intersection(UNWANTED))
    return {"outcome": outcome, "seen": list(seen), "imported": foreign}


def refuse(*_args: object) -> str:
    seen.append("input")
    raise EOFError


if __name__ == "__main__":
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    builtins.input = refuse
    for name in mha.__all__:
        getattr(mha, name)  # is imported now, not while a checkpoint is read
    sys.addaudithook(watch)
    for directory in sys.argv[1:]:
        sys.stdout.write(json.dumps(load(directory)) + "\n")
        sys.stdout.flush()
