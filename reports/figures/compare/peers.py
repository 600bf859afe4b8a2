"""The bare layer beside its peers: ours over theirs, one side against the other."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from reports.analyse.compare.comparison import Beside, Comparison
from reports.analyse.compare.phrases import largest, tally
from reports.draw.diagonal import scatter
from reports.figures import Panel
from reports.figures.layer_peers import PEERS

TITLE = "The bare layer beside its peers, one against the other"
ABSENT = "The bare layer was not timed beside its peers in both."


def panels(comparison: Comparison) -> Iterator[Panel]:
    """One panel, if both sides timed the bare layer beside the same peer.

    Its frame is a Beside: the table Comparison.peers, with names of peers in words (PEERS).
    """
    table = comparison.peers
    if len(table):
        named = table.assign(peer=[PEERS.get(peer, peer) for peer in table["peer"]])
        yield Panel("", "all that both have", comparison.beside(named))


def draw(frame: Beside) -> Figure:
    return scatter(frame, "peer", "time of ours / time of the peer")


def caption(frame: Beside) -> str:
    return f"{tally(frame.table, 'ratio')}; {largest(frame)}."
