"""Counts of the instructions that a thread runs, read from a GPU kernel's disassembled machine code.

A kernel has code for every dtype and stride, of which a call runs one path. The path that is counted has the most bytes
of the widest global accesses, among such paths the most arithmetic, and among these the fewest instructions: that of
contiguous tensors, without the branches for rows that do not exist. What runs only in some turns of a loop, such as
adding a short sum to a total in double precision, counts as if it ran in each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import networkx
from sass import bytes_of

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z][\w.]*)([^;]*);")

ENDS = ("EXIT", "RET", "BRA")
"""Instructions after which the next one does not run, unless they are predicated."""

ARITHMETIC = ("FADD", "FMUL", "FFMA", "HADD", "HMUL", "HFMA", "MUFU")

ACCESSES = {"LDG.E": "read", "LDGSTS.E": "read", "STG.E": "written"}


class Counts(NamedTuple):
    """The work of one thread along a path."""

    instructions: int = 0
    special: int = 0
    """Special functions: exponentials, logarithms, reciprocals and roots."""
    read: int = 0
    """Bytes of the widest global loads, asynchronous copies among them."""
    written: int = 0
    """Bytes of the widest global stores."""
    arithmetic: int = 0
    waits: int = 0
    """Number of waits for loads; loads that are under way together are waited for once."""

    @property
    def moved(self) -> int:
        return self.read + self.written

    def __add__(self, other: Counts) -> Counts:  # type: ignore[override]
        return Counts(*(one + another for one, another in zip(self, other, strict=True)))


class Instruction(NamedTuple):
    name: str
    operands: str
    counts: Counts


class Paths(NamedTuple):
    """The counts of a kernel."""

    whole: Counts
    """From the first instruction to the last, with one turn of each loop."""
    turn: Counts
    """One turn of the shortest loop that has at least half of the bytes.

    Without such a loop, one turn of each innermost loop that has the widest stores or computes special functions of
    four elements; zero without any.
    """


def paths(listing: str) -> Paths:
    """Return the counts of a kernel from its lines in the output of ``cuobjdump --dump-sass``."""
    found = LINE.findall(listing)
    accesses = [access(name) for _, _, name, _ in found]
    widest = {kind: max((size for own, size in accesses if own == kind), default=0) for kind in ("read", "written")}
    code = []
    for (_, _, name, operands), (kind, size) in zip(found, accesses, strict=True):
        moved = {kind: size} if kind and size == widest[kind] else {}
        special, arithmetic = name.startswith("MUFU"), name.startswith(ARITHMETIC)
        code.append(Instruction(name, operands, Counts(1, int(special), arithmetic=int(arithmetic), **moved)))
    graph = flow(found)
    loops = without_loops(graph)
    whole = best_path(graph, code, 0, [node for node in graph if graph.out_degree(node) == 0])
    turns = [best_path(graph.subgraph(body), code, head, lasts) for head, lasts, body in loops]
    heavy = [turn for turn in turns if turn.moved and 2 * turn.moved >= whole.moved]
    if heavy:
        return Paths(whole, min(heavy, key=lambda turn: turn.instructions))
    heads = {head for head, _, _ in loops}
    total = Counts()
    for turn, (head, _, body) in zip(turns, loops, strict=True):
        if body & heads == {head} and (turn.written or turn.special >= 4):
            total += turn
    return Paths(whole, total)


def access(name: str) -> tuple[str, int]:
    """Return the kind of a global access, read or written, and its bytes; without a kind for other instructions."""
    for start, kind in ACCESSES.items():
        if name.startswith(start):
            return kind, bytes_of(name.removeprefix(start))
    return "", 0


def flow(found: list[tuple[str, str, str, str]]) -> Any:
    """Return the graph of which instruction may follow which, by number. Indirect branches and calls go straight on."""
    place = {int(address, 16): index for index, (address, *_) in enumerate(found)}
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(found)))
    for index, (_, predicate, name, operands) in enumerate(found):
        target = re.search(r"0x([0-9a-f]+)\s*$", operands)
        if name.startswith("BRA") and target is not None and int(target[1], 16) in place:
            graph.add_edge(index, place[int(target[1], 16)])
        conditional = bool(predicate) or re.match(r"\s*!?U?P\d", operands) is not None
        if (conditional or not name.startswith(ENDS)) and index + 1 < len(found):
            graph.add_edge(index, index + 1)
    return graph.subgraph(networkx.descendants(graph, 0) | {0}).copy()


def without_loops(graph: Any) -> list[tuple[int, list[int], set[int]]]:
    """Make a graph acyclic; return its loops: the first instruction, the last ones, and all."""
    above = networkx.immediate_dominators(graph, 0)
    lasts: dict[int, list[int]] = {}
    for last, head in graph.edges:
        if head <= last and dominates(above, head, last):
            lasts.setdefault(head, []).append(last)
    loops = []
    for head, ends in lasts.items():
        beyond = graph.subgraph(graph.nodes - {head})
        inside = {node for end in ends if end != head for node in networkx.ancestors(beyond, end)}
        loops.append((head, ends, inside | {head, *ends}))
    graph.remove_edges_from([(end, head) for head, ends in lasts.items() for end in ends])
    if not networkx.is_directed_acyclic_graph(graph):  # a loop that is entered in two places
        graph.remove_edges_from([(one, other) for one, other in graph.edges if other <= one])
    return loops


def dominates(above: dict[int, int], head: int, node: int) -> bool:
    """Return True if every path from the start to the node goes through the head."""
    while node not in (head, above.get(node)) and node in above and above[node] is not None:
        node = above[node]
    return node == head


def best_path(graph: Any, code: list[Instruction], first: int, ends: Collection[int]) -> Counts:
    best: dict[int, Counts] = {}
    following: dict[int, int] = {}
    last = set(ends)
    for node in reversed(list(networkx.topological_sort(graph))):
        after = {other: best[other] for other in graph.successors(node) if other in best}
        if node in last:
            after[-1] = Counts()
        if after:
            following[node] = max(after, key=lambda n: (after[n].moved, after[n].arithmetic, -after[n].instructions))
            best[node] = code[node].counts + after[following[node]]
    if first not in best:
        return Counts()
    path = [first]
    while following[path[-1]] != -1:
        path.append(following[path[-1]])
    return best[first]._replace(waits=waits(code[node] for node in path))


def waits(path: Iterable[Instruction]) -> int:
    """Return how many times a thread waits for its widest loads: when it first needs what was loaded since the last.

    Of copies to shared memory it waits where it says so.
    """
    found = 0
    pending: set[int] = set()
    copying = False
    for instruction in path:
        needed = [int(number) for number in re.findall(r"\bR(\d+)", instruction.operands)]
        if instruction.counts.read:
            if instruction.name.startswith("LDGSTS"):
                copying = True
            else:
                pending |= set(range(needed[0], needed[0] + max(1, instruction.counts.read // 4)))
        elif pending.intersection(needed) or (copying and instruction.name.startswith("DEPBAR")):
            found += 1
            pending, copying = set(), False
    return found
