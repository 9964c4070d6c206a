# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""The multiscale function space: prolongation matrix P and coarse dof data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, Self

from mpi4py import MPI
from petsc4py import PETSc

import numpy as np

import ufl
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.compat import require_real
from dolfinx_msnn._utils.entry import checked
from dolfinx_msnn._utils.functions import set_to_product
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import Owner, is_aij, sweep
from dolfinx_msnn._utils.typing import BoolArray, DirichletBC, Function, FunctionSpace, LongArray
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.space import storage
from dolfinx_msnn.space.projection import create_projection_solver, least_squares
from dolfinx_msnn.space.prolongation import CoarseDofs
from dolfinx_msnn.space.update import Source


class MultiscaleFunctionSpace(Owner):
    """A coarse subspace of a fine space, spanned by local basis functions ψ_ij = χ_i φ_j.

    Create it with :func:`multiscale_functionspace` or :meth:`load`. It owns PETSc matrices: call
    :meth:`destroy` or use it as a context manager.

    Attributes:
        V: The fine space.
        coarse: The coarse grid; ``None`` if the space comes from a file.
        vertex: Coarse vertex (neighbourhood) of each coarse dof of this rank, shape
            ``(num_local_dofs,)``.
        mode: Mode of that neighbourhood that each coarse dof of this rank came from.
        eigenvalues: For each neighbourhood of this rank (key: coarse vertex) the eigenvalues λ of
            all its modes, ascending; with kept and dropped ones.
        dirichlet: Which owned fine dofs (unrolled) carry a Dirichlet condition; all basis
            functions vanish there.
        timings: Seconds that each stage of the construction, or of the last update, took on this
            rank.
        revision: Number of updates that changed P; the same on every rank.
        layout: Number of updates that replaced P by one of another pattern.
    """

    _title: ClassVar[str] = "multiscale space"

    def __init__(
        self,
        V: FunctionSpace,
        P: PETSc.Mat,
        dofs: CoarseDofs,
        dirichlet: BoolArray,
        *,
        timings: dict[str, float] | None = None,
        source: Source | None = None,
        coarse: CoarseGrid | None = None,
    ) -> None:
        super().__init__(V.mesh.comm)
        self.V, self.coarse = V, coarse
        self._P: PETSc.Mat = self._own(P)
        self._R: PETSc.Mat | None = None
        self._projection_solver: PETSc.KSP | None = None
        self._source = source
        self.dirichlet = dirichlet
        self.timings: dict[str, float] = {} if timings is None else timings
        self.revision = self.layout = 0
        self._set_dofs(dofs)
        self.num_neighbourhoods: int = V.mesh.comm.allreduce(len(dofs.eigenvalues))

    def _set_dofs(self, dofs: CoarseDofs) -> None:
        self._dofs = dofs
        self.vertex, self.mode, self.eigenvalues = dofs.vertex, dofs.mode, dofs.eigenvalues
        self.num_dropped: int = self.comm.allreduce(dofs.num_dropped)

    def __repr__(self) -> str:
        fine = self.V.dofmap.index_map.size_global * self.V.dofmap.index_map_bs
        return (
            f"<MultiscaleFunctionSpace: {self.num_dofs} dofs of {self.num_neighbourhoods} "
            f"neighbourhoods, in a space of {fine} dofs>"
        )

    @property
    def comm(self) -> MPI.Intracomm:
        """Communicator of the fine mesh."""
        comm: MPI.Intracomm = self.V.mesh.comm
        return comm

    @property
    def P(self) -> PETSc.Mat:
        """Prolongation, N_f × N_c; columns are basis functions. Owned by the space."""
        self._check_alive()
        return self._P

    @property
    def R(self) -> PETSc.Mat:
        """Restriction R = Pᵀ, N_c × N_f, formed when first asked for. Owned by the space.

        Collective the first time.
        """
        P = self.P
        if self._R is None:
            self._R = self._own(PETSc.Mat())
            P.transpose(self._R)
        return self._R

    @property
    def num_dofs(self) -> int:
        """N_c, the number of coarse dofs on all ranks together."""
        return int(self.P.getSize()[1])

    @property
    def num_local_dofs(self) -> int:
        """Coarse dofs of this rank."""
        return len(self.vertex)

    @property
    def dof_range(self) -> tuple[int, int]:
        """Global numbers of this rank's coarse dofs: first, and one past the last."""
        first, last = self.P.getOwnershipRangeColumn()
        return int(first), int(last)

    def neighbourhood_dofs(self, vertex: int) -> LongArray:
        """Global coarse dofs of a neighbourhood; empty if another rank computed it.

        Args:
            vertex: Coarse vertex.
        """
        return self.dof_range[0] + np.flatnonzero(self.vertex == vertex)

    @checked
    def prolong(self, coefficients: PETSc.Vec, u: Function | None = None) -> Function:
        """The fine function P c.

        Args:
            coefficients: Coarse vector c, from ``P.createVecRight()``.
            u: Where to put it; created if not given.

        Note:
            Collective.
        """
        P = self.P
        with collective_errors(self.comm):
            if u is not None:
                self.check_member(u)
            if coefficients.getSizes() != (self.num_local_dofs, self.num_dofs):
                raise ValueError(
                    f"The vector has {coefficients.getSizes()[0]} entries of this rank and "
                    f"{coefficients.getSize()} in all, expected the {self.num_local_dofs} and "
                    f"{self.num_dofs} coarse dofs."
                )
        u = fem.Function(self.V, name="u") if u is None else u
        set_to_product(u, P, coefficients)
        return u

    @checked
    def match_type(self, A: PETSc.Mat) -> None:
        """Move P to the PETSc type of a fine matrix (from a host type to a device type).

        Raises:
            ValueError: If P is of a device type and A of another: nothing is ever moved to a host
                type silently.

        Note:
            Collective.
        """
        wanted, given = A.getType(), self.P.getType()
        if wanted == given:
            return
        if not is_aij(wanted):
            raise ValueError(
                f"The fine matrix is of PETSc type {wanted}; expected one of the AIJ types."
            )
        if given not in ("seqaij", "mpiaij"):
            raise ValueError(
                f"The multiscale space has P of PETSc type {given}, the fine matrix is {wanted}; "
                "expected the same type (give mat_type to one of them)."
            )
        self.P.convert(wanted)
        self._forget()

    def changes(self) -> dict[int, float]:
        """How much each local problem has changed since its modes were computed.

        Returns:
            For each neighbourhood of this rank (key: coarse vertex) a number that is zero if
            nothing has changed but the scale: up to a common factor no Rayleigh quotient has
            changed by more than 1 + this number (see :func:`dolfinx_msnn.space.update.change`).
            Of changes to and fro inside cells it may be larger than need be. Infinite everywhere if
            loads that the basis asked for (``sources``), or the Dirichlet values beside them, are
            no longer multiples of what they were.

        Raises:
            ValueError: If the space is not updatable, or the forms are no longer coercive.

        Note:
            Collective.
        """
        return self._updatable.changes()

    def update(self, tolerance: float = 0.0) -> LongArray:
        """Compute the modes anew where coefficients have changed.

        P is refilled in place if the number of basis functions of every neighbourhood stays the
        same. Linear problems on the space assemble their operators anew when they next solve; a
        :class:`~dolfinx_msnn.TwoLevelPreconditioner` does when its fine matrix has changed.

        Args:
            tolerance: Neighbourhoods with :meth:`changes` up to this keep their modes: 0.1 lets
                coefficients change by a tenth. Changes add up until the modes are computed anew.

        Returns:
            Coarse vertices of this rank whose modes are new, ascending.

        Raises:
            ValueError: If the space is not updatable (see :func:`multiscale_functionspace`),
                ``tolerance`` is no such number, or the forms are no longer coercive; the space is
                left as it was then.

        Note:
            Collective.
        """
        source, P = self._updatable, self.P
        sweep(self.comm)
        rebuilt, replaced, dofs = source.update(P, tolerance)
        self.timings = source.timings
        if dofs is None:
            return rebuilt
        self._set_dofs(dofs)
        self.revision += 1
        self._forget()
        if replaced is not None:
            self._free(P)
            self._P = self._own(replaced)
            self.layout += 1
        return rebuilt

    def _forget(self) -> None:
        """P has changed: what was made of it is made anew when it is asked for. Collective."""
        self._free(self._R, self._projection_solver)
        self._R = self._projection_solver = None

    @property
    def _updatable(self) -> Source:
        _ = self.P
        if self._source is None:
            raise ValueError(
                "This multiscale space was not made to be updated; expected one from "
                "multiscale_functionspace(..., updatable=True)."
            )
        return self._source

    @checked
    def coefficients(self, f: Function, M: PETSc.Mat | None = None) -> PETSc.Vec:
        """Coefficients c of the minimum of (f − P c)ᵀ M (f − P c).

        Args:
            f: A function in ``V``.
            M: Fine symmetric matrix; default the identity.

        Returns:
            Coarse vector. The caller destroys it.

        Note:
            Collective.
        """
        P = self.P
        with collective_errors(self.comm):
            self.check_member(f)
        if M is None:
            if self._projection_solver is None:
                self._projection_solver = self._own(create_projection_solver(P))
            return least_squares(P, self._projection_solver, f)
        solver = create_projection_solver(P, M)
        try:
            return least_squares(P, solver, f, M)
        finally:
            solver.destroy()

    def interpolate(self, f: Function) -> Function:
        """The member of the space that is closest to ``f`` at the fine nodes (least squares).

        Members of the space come back unchanged.

        Args:
            f: A function in ``V``.

        Returns:
            A new function in ``V``.

        Note:
            Collective.
        """
        return self._closest(f, None)

    def project(self, f: Function, m: ufl.Form | None = None) -> Function:
        """The orthogonal projection of ``f`` onto the space.

        Args:
            f: A function in ``V``.
            m: Bilinear form of the inner product; default L2, ``inner(u, v)*dx``. With the ``a``
                of the problem this is the best approximation in energy (up to boundary values).

        Returns:
            A new function in ``V``.

        Note:
            Collective.
        """
        with collective_errors(self.comm):
            self.check_member(f)
            if m is None:
                m = ufl.inner(ufl.TrialFunction(self.V), ufl.TestFunction(self.V)) * ufl.dx
            forms.check_form(m, self.V, "m")
        M = assemble_matrix(fem.form(m), kind=self.P.getType())
        try:
            M.assemble()
            return self._closest(f, M)
        finally:
            M.destroy()

    def _closest(self, f: Function, M: PETSc.Mat | None) -> Function:
        """P c with the coefficients c of ``f``. Collective."""
        coefficients = self.coefficients(f, M)
        try:
            return self.prolong(coefficients)
        finally:
            coefficients.destroy()

    def check_member(self, f: Function) -> None:
        """Raise a ``ValueError`` unless ``f`` is a function in ``V``. Not collective."""
        if not isinstance(f, fem.Function) or f.function_space != self.V:
            raise ValueError(
                "Expected a dolfinx.fem.Function in the fine space V of this multiscale space, "
                f"got {type(f).__name__}."
            )

    def save(self, path: str | os.PathLike[str], a: ufl.Form, *, s: ufl.Form | None = None) -> None:
        """Write the space to an HDF5 file.

        Args:
            path: File to write; it is replaced.
            a: The form that the space was built from; :meth:`load` checks that it is given the
                same one.
            s: The right-hand form it was built with, if any.

        Note:
            Collective; the ranks write in turn, each its own part.
        """
        P = self.P
        storage.save(path, a, s, V=self.V, P=P, dofs=self._dofs, dirichlet=self.dirichlet)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        V: FunctionSpace,
        a: ufl.Form,
        *,
        s: ufl.Form | None = None,
        bcs: Sequence[DirichletBC] = (),
        mat_type: str | None = None,
    ) -> Self:
        """Read a space that :meth:`save` wrote, on any number of ranks.

        Args:
            path: File to read.
            V: The fine space; same mesh and element as when the space was saved.
            a: Bilinear form; same coefficients as when the space was saved.
            s: Right-hand form, if the space was built with one.
            bcs: Dirichlet conditions; the same dofs must be constrained.
            mat_type: PETSc type of P; default ``aij``.

        Raises:
            ValueError: If the file is not such a file, is damaged, or belongs to another mesh,
                element, form, coefficient or set of constrained dofs.
            FileNotFoundError: If there is no such file.

        Note:
            Collective.
        """
        require_real()
        sweep(forms.communicator(V))
        return cls(V, *storage.load(path, V, a, s, bcs, mat_type))

    def destroy(self) -> None:
        """Free the PETSc matrices. Collective; calling it again does nothing."""
        super().destroy()
        self._R = self._projection_solver = self._source = None
