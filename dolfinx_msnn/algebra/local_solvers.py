# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Factorised local Dirichlet problems on the neighbourhoods of a multiscale space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner
from dolfinx_msnn._utils.typing import FloatArray, LongArray
from dolfinx_msnn.algebra.product import check_fine_matrix
from dolfinx_msnn.algebra.subdomains import subdomains
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace


def factorise(A: sp.csr_matrix) -> spla.SuperLU:
    """A sparse factorisation of a symmetric positive definite SciPy matrix, with ``solve``."""
    return spla.splu(
        sp.csc_matrix(A),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


class LocalSolvers(Owner):
    """Factorised matrices A_i on sets of fine dofs.

    Args:
        comm: Communicator of the fine mesh.
        like: A fine vector.
        parts: For each set what messages call it, its global fine dofs (unrolled; owned by any
            rank), and A_i, symmetric positive definite.

    Attributes:
        dofs: The sets.
        factors: Factorisations, with ``solve``.

    Raises:
        RuntimeError: If a matrix is singular; the same on every rank.

    Note:
        Creation is collective. Memory: all factors at once.
    """

    _title: ClassVar[str] = "set of local solvers"

    def __init__(
        self,
        comm: MPI.Intracomm,
        like: PETSc.Vec,
        parts: Iterable[tuple[str, LongArray, sp.csr_matrix]],
    ) -> None:
        super().__init__(comm)
        self.dofs: list[LongArray] = []
        self.factors: list[Any] = []
        with collective_errors(comm):
            for name, dofs, matrix in parts:
                self.dofs.append(dofs)
                try:
                    self.factors.append(factorise(matrix))
                except RuntimeError as error:
                    raise RuntimeError(
                        f"The matrix is singular inside {name}; expected a coercive form."
                    ) from error
        self._offsets = np.cumsum([0, *map(len, self.dofs)])
        together = np.concatenate([np.zeros(0, np.int64), *self.dofs]).astype(PETSc.IntType)
        self._local = self._own(PETSc.Vec().createSeq(len(together), comm=PETSc.COMM_SELF))
        everywhere = PETSc.IS().createGeneral(together, comm=PETSc.COMM_SELF)
        self._scatter = self._own(PETSc.Scatter().create(like, everywhere, self._local, None))
        everywhere.destroy()

    def restrict(self, r: PETSc.Vec) -> list[FloatArray]:
        """The entries of a fine vector at the dofs of each set. Collective."""
        self._check_alive()
        self._scatter.scatter(r, self._local, mode=PETSc.ScatterMode.FORWARD)
        return np.split(self._local.array_r.copy(), self._offsets[1:-1])[: len(self.dofs)]

    def solve(self, r: PETSc.Vec) -> tuple[list[FloatArray], FloatArray]:
        """Solve A_i z_i = r on every set of this rank.

        Args:
            r: Fine vector.

        Returns:
            The z_i, and r·z_i = ‖r‖² in the dual norm of each set, shape ``(num,)``.

        Note:
            Collective.
        """
        parts = self.restrict(r)
        z = [f.solve(part) for f, part in zip(self.factors, parts, strict=True)]
        energy = [max(float(part @ s), 0.0) for part, s in zip(parts, z, strict=True)]
        return z, np.array(energy)

    def extend(self, z: list[FloatArray], out: PETSc.Vec) -> None:
        """Sum the z_i, each extended by zero, into the fine vector ``out``. Collective."""
        self._check_alive()
        with self._local as array:
            array[:] = np.concatenate([np.zeros(0), *z])
        out.set(0.0)
        self._scatter.scatter(
            self._local, out, addv=PETSc.InsertMode.ADD_VALUES, mode=PETSc.ScatterMode.REVERSE
        )

    def destroy(self) -> None:
        """Free the PETSc objects. Collective."""
        super().destroy()
        self.factors.clear()


class SubdomainSolvers(LocalSolvers):
    """Factorised local Dirichlet problems A_i z_i = r on the inside of every neighbourhood.

    Context manager; call :meth:`destroy` otherwise.

    Args:
        A: Fine matrix, symmetric, positive definite on the inside of every neighbourhood.
        W: Multiscale space; its neighbourhoods are the subdomains. It is not kept.

    Attributes:
        vertex: Coarse vertices of this rank's subdomains, shape ``(num,)``.
        dofs: Global fine dofs of each one, ascending.
        matrices: A restricted to them, SciPy CSR.

    Raises:
        ValueError: If A does not fit W.
        RuntimeError: If a local matrix is singular.

    Note:
        Creation is collective. Memory: one factorisation a neighbourhood, all at once.
    """

    _title: ClassVar[str] = "set of subdomain solvers"

    @checked
    def __init__(self, A: PETSc.Mat, W: MultiscaleFunctionSpace) -> None:
        check_fine_matrix(A, W)
        parts = subdomains(W)
        self.vertex: LongArray = np.array([vertex for vertex, _ in parts], dtype=np.int64)
        sets = [
            PETSc.IS().createGeneral(dofs.astype(PETSc.IntType), comm=PETSc.COMM_SELF)
            for _, dofs in parts
        ]
        local = A.createSubMatrices(sets)
        self.matrices: list[Any] = []
        for part in local:
            indptr, indices, data = part.getValuesCSR()
            self.matrices.append(sp.csr_matrix((data, indices, indptr), part.getSize()))
        like = A.createVecRight()
        try:
            super().__init__(
                W.comm,
                like,
                [
                    (f"the neighbourhood of coarse vertex {vertex}", dofs, matrix)
                    for (vertex, dofs), matrix in zip(parts, self.matrices, strict=True)
                ],
            )
        finally:
            for item in [*sets, *local, like]:
                item.destroy()
