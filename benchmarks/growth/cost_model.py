# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""A model of the time of one multiscale solve on many ranks, from rates measured on one.

Time = work of the neighbourhoods of a rank / measured rate + exchange + coarse solve. What is not
measured but assumed is in :class:`Cluster`, with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NUM_MODES = 8
#: Stages that are work on the neighbourhoods of a rank, and nothing else.
LOCAL = (
    *("neighbourhoods", "exchange", "element matrices", "local matrices"),
    *("basis", "prolongation"),
)


@dataclass(frozen=True)
class Cluster:
    """Assumptions: a network of 200 Gbit/s, nodes of 64 cores like the measured one.

    Attributes:
        latency: Of a message, seconds.
        node_bandwidth: Of a node's network adapter, bytes a second, shared by its ranks.
        ranks_per_node: One a core.
        crowding: How much slower a core is when all cores of its node work: memory is shared.
        imbalance: Largest over mean work of a rank: whole neighbourhoods are dealt out.
        collectives: All-reduces and all-to-alls of set-up and solve, each α log2 p.
        direct_ranks: Ranks beyond which a sparse direct solver becomes no faster.
        direct_efficiency: Of the direct solver on up to that many ranks.
        amg_work: Products with the coarse matrix an iteration: two smoothing steps before and
            after, residual, and coarser levels.
    """

    latency: float = 2e-6
    node_bandwidth: float = 25e9
    ranks_per_node: int = 64
    crowding: float = 1.5
    imbalance: float = 1.15
    collectives: int = 40
    direct_ranks: int = 256
    direct_efficiency: float = 0.3
    amg_work: float = 8.0

    @property
    def bandwidth(self) -> float:
        """Of one rank when all ranks of a node send, bytes a second."""
        return self.node_bandwidth / self.ranks_per_node


#: Ranks of one machine, which talk through its memory; nothing is crowded by assumption.
HERE = Cluster(
    latency=1e-6, node_bandwidth=4e9, ranks_per_node=1, crowding=1.0, direct_efficiency=0.5
)


@dataclass(frozen=True)
class Size:
    """A problem on the unit box.

    Attributes:
        dim: 2 or 3.
        boxes: A side.
        cells: Of the fine mesh, a side of a box.
    """

    dim: int
    boxes: int
    cells: int

    @property
    def vertices(self) -> int:
        """Neighbourhoods."""
        return (self.boxes + 1) ** self.dim

    @property
    def full(self) -> int:
        """Full neighbourhoods that have as many cells as all: those at the boundary are smaller."""
        return self.boxes**self.dim

    @property
    def num_fine(self) -> int:
        """N_f."""
        return (self.boxes * self.cells + 1) ** self.dim

    @property
    def num_coarse(self) -> int:
        """N_c."""
        return self.vertices * NUM_MODES

    @property
    def coarse_entries(self) -> float:
        """Entries of A_0: a block for each two vertices of one box or of adjacent ones."""
        return float(3**self.dim * NUM_MODES * self.num_coarse)


@dataclass(frozen=True)
class Rates:
    """Measured on one core, for one dimension, width and basis.

    Attributes:
        seconds: A full neighbourhood, of each of :data:`LOCAL` and of ``product`` (PᵀAP).
        fixed: Seconds of a space whatever its size: compiled forms are looked up.
        memory: Bytes a full neighbourhood.
        factor_flops: c in c N_c² (3D) or c N_c^1.5 (2D) flops of the factorisation of A_0.
        factor_entries: c in c N_c^(4/3) or c N_c log2 N_c entries of the factors.
        factor_rate: Flops a second of the factorisation.
        stream: Bytes a second of large arrays.
        iterations: Of CG on A_0 with algebraic multigrid.
    """

    seconds: Mapping[str, float]
    fixed: float
    memory: float
    factor_flops: float
    factor_entries: float
    factor_rate: float
    stream: float
    iterations: float


def flop_count(size: Size) -> float:
    """What the flops of a factorisation by nested dissection are proportional to."""
    return float(size.num_coarse) ** (1.5 if size.dim == 2 else 2.0)


def entry_count(size: Size) -> float:
    """The same of the entries of the factors."""
    n = float(size.num_coarse)
    return n * np.log2(n) if size.dim == 2 else float(n ** (4 / 3))


def predict(size: Size, ranks: int, rates: Rates, cluster: Cluster) -> dict[str, float]:
    """Seconds of each part of one solve, and bytes of memory.

    Returns:
        ``local``, ``product``, ``exchange``, ``direct`` and ``amg`` seconds (coarse solves, one of
        the two is needed), ``memory`` of a rank without the coarse factors, ``factors`` bytes of
        those on all ranks together.
    """
    share = size.full / ranks
    slow = cluster.crowding * (cluster.imbalance if ranks > 1 else 1.0)
    local = sum(rates.seconds[stage] for stage in LOCAL)
    found = {
        "local": rates.fixed + share * slow * local,
        "product": share * slow * rates.seconds["product"],
        "memory": share * rates.memory,
    }
    exchange = 0.0
    if ranks > 1:
        # A rank's vertices are a block of `side` boxes; their neighbourhoods reach one box further.
        side = share ** (1 / size.dim)
        foreign = ((side + 1) ** size.dim - side**size.dim) * size.cells**size.dim
        corners = 2**size.dim
        # Rows of two matrices of groups, and of each dof number, position and hat functions.
        sent = foreign * 8 * (2 * 3**size.dim + size.dim + 2 * corners)
        # Rows of P on a layer of fine nodes, with column numbers, twice in PᵀAP.
        surface = (side * size.cells) ** (size.dim - 1) * 2 * size.dim
        sent += 2 * surface * corners * NUM_MODES * 12
        steps = cluster.collectives * np.log2(ranks) + 10 * (3**size.dim - 1)
        exchange = sent / cluster.bandwidth + steps * cluster.latency
    found["exchange"] = exchange

    speed = 1.0 if ranks == 1 else min(ranks, cluster.direct_ranks) * cluster.direct_efficiency
    speed = max(speed, 1.0) / cluster.crowding
    found["direct"] = rates.factor_flops * flop_count(size) / (rates.factor_rate * speed)
    found["factors"] = 8 * rates.factor_entries * entry_count(size)
    # Multigrid moves A_0, 12 bytes an entry, at the speed of memory; each level of each iteration
    # talks to its neighbours and all ranks.
    moved = 12 * size.coarse_entries * cluster.amg_work * rates.iterations / ranks
    levels = max(1.0, np.log2(size.num_coarse / 1000) / size.dim)
    talk = 2 * np.log2(max(ranks, 2)) + 2 * (3**size.dim - 1)
    found["amg"] = (
        moved * cluster.crowding / rates.stream
        + (ranks > 1) * rates.iterations * levels * cluster.latency * talk * 4
    )
    return found
