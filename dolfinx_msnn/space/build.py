# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""From a form, a coarse grid and a local basis to a multiscale function space."""

from __future__ import annotations

from collections.abc import Sequence

import ufl
from dolfinx.mesh import EntityMap
from dolfinx_msnn._utils import forms
from dolfinx_msnn._utils.compat import require_real
from dolfinx_msnn._utils.mesh import dirichlet_mask
from dolfinx_msnn._utils.mpi import collective_errors
from dolfinx_msnn._utils.petsc import check_mat_type, sweep
from dolfinx_msnn._utils.timings import Timings
from dolfinx_msnn._utils.typing import CompilerOptions, DirichletBC, FunctionSpace
from dolfinx_msnn.bases.harmonic import HarmonicBasis
from dolfinx_msnn.bases.protocol import BasisNeeds, LocalBasis, is_local_basis
from dolfinx_msnn.local.assembly import LocalProblems
from dolfinx_msnn.local.coefficient import check_coefficient
from dolfinx_msnn.local.grid import CoarseGrid
from dolfinx_msnn.space.functionspace import MultiscaleFunctionSpace
from dolfinx_msnn.space.prolongation import compute_columns, create_prolongation, number_dofs
from dolfinx_msnn.space.update import Source


def multiscale_functionspace(
    V: FunctionSpace,
    coarse: CoarseGrid,
    basis: LocalBasis | None,
    a: ufl.Form,
    s: ufl.Form | None = None,
    bcs: Sequence[DirichletBC] = (),
    *,
    updatable: bool = False,
    mat_type: str | None = None,
    form_compiler_options: CompilerOptions | None = None,
    jit_options: CompilerOptions | None = None,
    entity_maps: Sequence[EntityMap] = (),
) -> MultiscaleFunctionSpace:
    """Build a multiscale coarse space of ``V``.

    Args:
        V: Fine space: continuous Lagrange, scalar or vector, any degree.
        coarse: Coarse grid on the mesh of ``V``.
        basis: Where the local modes come from, e.g. :class:`SpectralBasis`. With ``None`` it is
            ``HarmonicBasis()``, for accurate solutions; take another for a preconditioner.
        a: Symmetric coercive bilinear form of the problem, by cell (``dx``) and exterior-facet
            (``ds``) integrals, with coefficients of any kind.
        s: Bilinear form of the right-hand matrix of the local eigenproblems, e.g.
            ``kappa*u*v*dx``. Without it D_i A_i D_i with D_i = diag(χ_i) is used.
        bcs: Dirichlet conditions (their dofs matter here; their values only to
            :class:`HarmonicBasis`).
        updatable: Keep what :meth:`MultiscaleFunctionSpace.update` needs: the element matrices and
            a second copy of the basis functions.
        mat_type: PETSc matrix type of P, e.g. ``aijcusparse``. Default ``aij``.
        form_compiler_options: Passed to DOLFINx.
        jit_options: Passed to DOLFINx.
        entity_maps: From ``create_submesh``, where coefficients are on submeshes.

    Returns:
        The space. The caller destroys it.

    Example:
        >>> W = msnn.multiscale_functionspace(V, coarse, msnn.FilteredBasis(4), a, s=s, bcs=bcs)
        >>> W
        <MultiscaleFunctionSpace: 64 dofs of 16 neighbourhoods, in a space of 961 dofs>

    Raises:
        ValueError: With one sentence that says what was given and what was expected; the same on
            every rank.
        RuntimeError: If a local eigenproblem did not converge, or PETSc is a complex build.

    Note:
        Collective on the communicator of the mesh.
    """
    require_real()
    comm = forms.communicator(V)
    sweep(comm)
    with collective_errors(comm) as checks:
        forms.check_space(V)
        if not isinstance(coarse, CoarseGrid):
            raise ValueError(f"Expected a CoarseGrid, got {type(coarse).__name__}.")
        if coarse.fine is not V.mesh and coarse.fine._cpp_object is not V.mesh._cpp_object:
            raise ValueError(
                "The coarse grid was made for another mesh than that of V; expected the same mesh."
            )
        basis = HarmonicBasis() if basis is None else basis
        if not is_local_basis(basis):
            raise ValueError(
                f"Expected a local basis such as SpectralBasis(num_modes=8), got {basis!r}."
            )
        compile_form = forms.compiler(form_compiler_options, jit_options, entity_maps)
        forms.check_form(a, V, "a", entity_maps)
        if s is not None:
            forms.check_form(s, V, "s", entity_maps)
        forms.check_bcs(bcs, V)
        check_mat_type(mat_type)
        needs = BasisNeeds.of(basis)
        coefficient = needs.coefficient
        sources = () if needs.sources is None else needs.sources
        for k, form in enumerate(() if isinstance(sources, int) else sources):
            forms.check_arguments(form, [V], f"sources[{k}]")
        if coefficient is not None:
            check_coefficient(coefficient, V.mesh)
        checks.agree(
            a=forms.identify(a),
            s=forms.identify(s),
            coefficient=coefficient is not None,
            updatable=bool(updatable),
            mat_type=mat_type,
        )

    timings = Timings("Multiscale space")
    with timings.stage("total"):
        problems = LocalProblems(
            V,
            coarse,
            a,
            s,
            bcs,
            timings=timings,
            coefficient=coefficient,
            sources=sources,
            oversampling=needs.oversampling or 0.0,
            matrices=needs.matrices or updatable,
            keep=updatable,
            compile_form=compile_form,
        )
        with collective_errors(comm):
            columns = compute_columns(problems, basis)
        with timings.stage("prolongation"):
            dofs = number_dofs(comm, columns)
            P = create_prolongation(V, columns, mat_type=mat_type, keep=updatable)
    source = Source(V, problems, basis, columns, P.getType()) if updatable else None
    mask = dirichlet_mask(V, bcs)[: V.dofmap.index_map.size_local].reshape(-1)
    return MultiscaleFunctionSpace(V, P, dofs, mask, timings=timings, source=source, coarse=coarse)
