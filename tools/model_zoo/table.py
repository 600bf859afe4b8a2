"""Writes docs/families.md and docs/families.csv from the rows of all trials."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tools.model_zoo.prove import CHECKS

PEERS_FILE = "families-peers.csv"
COLUMNS = ("type", "status", "conventions", "layers", "heads", "grouped", "unseen", "unsupported", *CHECKS, "reason")
HEAD = """# Attention of transformers' model types, each one tried

Every model type that transformers {transformers} maps to a base model is built tiny with random weights (no
download), fed inputs of its modality in float64, and, where attention is found, pruned and compared: sliced against
masked within 1e-9. Made by `nox -s families` with torch {torch}; the same rows as data: [families.csv](families.csv).

| | types |
|---|---|
| mapped by transformers | {mapped} |
| built from their config alone | {built} |
| run with finite outputs | {run} |
| with attention found, or refused with a reason | {attention} |
| **proven: every check that applies is green** | **{proven}** |
| failed: found, but a check is not green | {failed} |
| crashed: out of time or memory, or an error outside the checks | {crashed} |
| refused: all attention is listed as unsupported, with the reason | {refused} |
| distinct conventions among the proven | {conventions} |

Checks: `uneven`, a random feasible plan, different in each layer; `zero_head`, the first layer keeps no head; `twice`,
pruned in two steps; `count`, parameters fall exactly as predicted; `gradients`, they flow as in the dense model;
`untouched`, the original is as it was; `sabotage`, with a wrong head sliced the comparison fails, layer by layer;
`save_load`, bit-equal after `save_pruned` and `from_pretrained`; `cache`, generated logits with a dynamic and, where
the type has one, a static cache are those without. A check that does not apply is left empty. A proven type may
have further attention that is refused; the reason then stands beside it. Of the {layers} layers of the {counted} proven
types for which that was counted, {unseen} do not show in their tiny model's output (`unseen`), and prove nothing.

"""
PEERS_HEAD = """Peers, by `nox -s peers` ([families-peers.csv](families-peers.csv) says what happened), judged in the
same way: parameters fall, the model runs, and its output is that of the model whose lost output columns are zero.
A type that is not counted may raise, lose nothing, or need an attribute set that we did not find.

| peer | tried on | types |
|---|---|---|
"""
PEERS = {
    "prune_heads": "`prune_heads` of transformers {version}, on that release's own classes",
    "torch_pruning": "Torch-Pruning {version}, told which linears hold heads and how many, all attributes that count "
    "heads set for it",
}


def write(rows: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Write families.md and families.csv into the directory, sorted by type."""
    rows = sorted(rows, key=lambda row: row["type"])
    with (directory / "families.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (directory / "families.md").write_text(
        _head(rows) + _peers(directory) + _conventions(rows) + _table(rows), encoding="utf-8"
    )


def _head(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(row["status"] for row in rows)
    built = len(rows) - counts["not built"]
    run = built - counts["not run"] - counts["crashed"]
    counted = [row for row in rows if row["status"] == "proven" and "unseen" in row]
    return HEAD.format(
        counted=len(counted),
        layers=sum(row["layers"] for row in counted),
        unseen=sum(row["unseen"] for row in counted),
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        mapped=len(rows),
        built=built,
        run=run,
        attention=run - counts["no attention"],
        proven=counts["proven"],
        failed=counts["failed"],
        crashed=counts["crashed"],
        refused=counts["refused"],
        conventions=len(_by_convention(rows)),
    )


def _peers(directory: Path) -> str:
    """A Markdown table of how many types each peer can prune; empty where no peer has been tried."""
    path = directory / PEERS_FILE
    if not path.exists():
        return ""
    with path.open(newline="", encoding="utf-8") as file:
        outcomes = list(csv.DictReader(file))
    lines = []
    for peer, described in PEERS.items():
        own = [row for row in outcomes if row["peer"] == peer]
        good = sum(row["outcome"] == "ok" for row in own)
        if own:
            lines.append(f"| {described.format(version=own[0]['version'])} | {len(own)} | **{good}** |")
    return PEERS_HEAD + "\n".join([*lines, "", ""])


def _by_convention(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    proven = (row for row in rows if row["status"] == "proven")
    return Counter(name for row in proven for name in row["conventions"].split(" | "))


def _conventions(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| `{name}` | {count} |" for name, count in _by_convention(rows).most_common()]
    return "\n".join(["| convention | proven types |", "|---|---|", *lines, "", ""])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| type | | convention | layers | heads | reason |", "|---|---|---|---|---|---|"]
    for row in rows:
        reason = str(row.get("reason", "")).replace("|", "\\|")
        conventions = ", ".join(f"`{name}`" for name in str(row.get("conventions", "")).split(" | ") if name)
        found = f"{row.get('layers', '')} | {row.get('heads', '')}"
        lines.append(f"| {row['type']} | {row['status']} | {conventions} | {found} | {reason} |")
    return "\n".join(lines) + "\n"
