# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""``msnn solve``: a boundary value problem on a multiscale space, without a program."""

from typing import Annotated, Any

from mpi4py import MPI

import typer

from dolfinx_msnn.cli.bases import Watched, check_basis, create_basis, reports
from dolfinx_msnn.cli.common import (
    AsJson,
    Progress,
    Quiet,
    Trust,
    WrongCommandLine,
    check_outputs,
    errors,
    examples,
    family_name,
    numbers,
    print_json,
)

EXAMPLES = examples(
    "msnn solve --generator channels --contrast 1e4 --seed 3 --compare -o channels.png",
    "msnn solve spe_perm.dat --layers 85 --boxes 6,22 --dirichlet bottom=1 --dirichlet top=0",
    "msnn solve rock.npy --basis learned --guard --bound --json",
    "msnn solve --mesh plate.msh --tag 1=1 --tag 2=1e3 --boxes 8,4 -o plate.xdmf",
    "msnn solve slices/ --phase 0=1 --phase 255=1e3 --boxes 4 -o rock.bp",
    "mpiexec -n 4 msnn solve --generator two_phase --dim 3 --cells 40 --boxes 4 -o flow.xdmf",
)


def solve(
    field: Annotated[
        str | None,
        typer.Argument(
            metavar="FIELD",
            help="Coefficient: SPE10 (with --layers), a .npy or .npz array, an image, or a folder "
            "of images. Or give --generator, or --mesh with --tag.",
        ),
    ] = None,
    generator: Annotated[
        str | None,
        typer.Option(help="Random coefficient: channels, inclusions, two_phase or log_normal."),
    ] = None,
    contrast: Annotated[float | None, typer.Option(help="Its contrast; default 1e3.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Its seed.")] = 0,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="Its further keywords."),
    ] = None,
    dim: Annotated[int, typer.Option(min=2, max=3, help="Its dimension.")] = 2,
    layers: Annotated[
        str | None, typer.Option(help="SPE10: one layer (2D) or FIRST:LAST (3D), from 1 to 85.")
    ] = None,
    component: Annotated[str, typer.Option(help="SPE10: x, y or z.")] = "x",
    low: Annotated[float | None, typer.Option(help="Coefficient of the least grey value.")] = None,
    high: Annotated[float | None, typer.Option(help="Coefficient of the largest.")] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(metavar="GREY=VALUE", help="Coefficient of a grey value, instead."),
    ] = None,
    mesh: Annotated[
        str | None,
        typer.Option(help="Mesh, .msh or .xdmf; a field is stretched onto it."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG=VALUE", help="Coefficient in the mesh's cells of a tag."),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(help="Cells in each direction, as 100 or 100,50; default those of the field."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Lengths of the domain's sides.")] = None,
    cell: Annotated[
        str | None,
        typer.Option(help="quadrilateral or triangle; in 3D hexahedron or tetrahedron."),
    ] = None,
    degree: Annotated[int, typer.Option(min=1, max=4, help="Degree of the elements.")] = 1,
    dirichlet: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIDE=VALUE",
            help="u on a side: left, right, bottom, top (in 3D also front, back) or all; default "
            "left=1 and right=0; none for a pure Neumann problem.",
        ),
    ] = None,
    flux: Annotated[
        list[str] | None,
        typer.Option(metavar="SIDE=VALUE", help="kappa du/dn on a side; zero where not given."),
    ] = None,
    source: Annotated[float, typer.Option(help="Right-hand side f.")] = 0.0,
    boxes: Annotated[
        str | None,
        typer.Option(help="Coarse boxes in each direction; default one for 10 cells (3D: 5)."),
    ] = None,
    oversampling: Annotated[
        int | None,
        typer.Option(
            min=0, help="Layers of cells around the neighbourhoods; default what the basis wants."
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=1, help="Neighbourhoods are boxes and so many cells around; default hat functions."
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option(
            help="harmonic (accurate by itself), computed, filtered, learned, or learned:MODEL or "
            "harmonic:MODEL with a file or a shipped model; default harmonic, or computed with "
            "--guard or --threshold."
        ),
    ] = None,
    modes: Annotated[int, typer.Option(min=1, help="Modes of each neighbourhood.")] = 8,
    threshold: Annotated[
        float | None, typer.Option(help="All modes below this eigenvalue instead.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Harmonic: instead as many functions as leave out none of more than this width; "
            "as 0.01."
        ),
    ] = None,
    guard: Annotated[
        bool, typer.Option("--guard", help="Check the modes, repair bad ones.")
    ] = False,
    trust: Trust = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Solve the fine problem too, and print errors.")
    ] = False,
    bound: Annotated[
        bool, typer.Option("--bound", help="Bound the energy error, without the fine solution.")
    ] = False,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to .bp (VTX) or .xdmf, for ParaView, or draw to .png, .pdf, .svg.",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Solve -div(kappa grad u) = f on a multiscale space.

    kappa comes from a file or a generator. Options of PETSc's solvers are taken from the
    environment, PETSC_OPTIONS="-msnn_coarse_ksp_type cg ...".
    """
    comm = MPI.COMM_WORLD
    with errors(comm):
        given = [field, generator, tag and mesh]
        if sum(bool(one) for one in given) != 1 or (tag and not mesh):
            raise WrongCommandLine(
                "The coefficient must come from one of FIELD, --generator and --mesh with --tag, "
                f"got {'several' if any(given) else 'none'}; as in msnn solve --generator channels."
            )
        if mesh and (cells or size or cell):
            raise WrongCommandLine("--mesh was given; expected no --cells, --size and --cell then.")
        if generator is not None:
            family_name(generator)
        if basis is None:
            basis = "harmonic" if threshold is None and not guard else "computed"
        check_basis(basis, threshold, tolerance, guard)
        outputs = list(output or [])
        check_outputs(outputs)
        # DOLFINx is imported when the command line is right.
        from dolfinx_msnn import CoarseGrid, GuardedBasis
        from dolfinx_msnn.cli import mesh_file, report, result
        from dolfinx_msnn.cli import problem as problems

        with Progress(comm, quiet, "neighbourhood") as progress:
            with progress.timed("field and mesh"):
                msh: Any = None
                if mesh:
                    msh, tags = mesh_file.read_mesh(comm, mesh)
                if tag:
                    name, kappa = f"tags of {mesh}", mesh_file.from_tags(msh, tags, tag)
                else:
                    coefficient = (
                        problems.generator(generator, dim, contrast, seed, parameter or [])
                        if generator is not None
                        else problems.read_field(
                            str(field),
                            comm,
                            layers=layers,
                            component=component,
                            low=low,
                            high=high,
                            phases=phase or [],
                            size=size,
                        )
                    )
                    name = field or repr(coefficient)
                    if msh is None:
                        msh = problems.create_mesh(
                            comm, coefficient, cells=cells, size=size, cell=cell
                        )
                    options: Any = {"fit": True} if field and mesh else {}
                    kappa = coefficient.interpolate(msh, **options)
                problem = problems.pose(
                    msh,
                    kappa,
                    degree=degree,
                    dirichlet=dirichlet or [],
                    flux=flux or [],
                    source=source,
                )
            if compare and not problem.bcs:
                raise ValueError(
                    "--compare needs a fine problem with one solution; expected u to be given "
                    "somewhere, not --dirichlet none."
                )
            tdim = msh.topology.dim
            chosen = create_basis(
                basis,
                kappa,
                tdim,
                modes,
                threshold=threshold,
                tolerance=tolerance,
                guard=guard,
                trust=trust,
            )
            count = (
                problems.default_boxes(msh)
                if boxes is None
                else numbers("--boxes", boxes, int, tdim)
            )
            with progress.timed("multiscale space"):
                coarse = CoarseGrid(msh, count, oversampling=oversampling, overlap=overlap)
                W = problem.space(coarse, Watched(chosen, progress))
            with W, problem.within(W, "msnn_coarse_") as solved:
                with progress.timed("coarse problem"):
                    u = solved.solve()
                found = report.figures(name, problem, count, W, u)
                found["basis"] = {
                    "name": basis,
                    "modes": modes,
                    "threshold": threshold,
                    "tolerance": tolerance,
                    "guarded": guard,
                }
                found["basis"] |= reports(comm, chosen)
                found["warnings"] += report.few_functions(found)
                reference = None
                if compare:
                    with progress.timed("fine problem"):
                        reference = result.solve_fine(problem)
                    found["errors"] = result.errors(problem, u, reference)
                if bound:
                    with progress.timed("bounds"):
                        found["bounds"] = result.bounds(problem, coarse, W, solved)
                found["files"] = []
                for name in outputs:
                    progress.stage(f"writing {name}")
                    found["files"] += result.write(
                        name,
                        problem,
                        u,
                        coarse=coarse,
                        reference=reference,
                        guard=chosen if isinstance(chosen, GuardedBasis) else None,
                    )
        found |= {"seconds": progress.seconds, "ranks": comm.size}
        if comm.rank == 0:
            if as_json:
                print_json(found)
            else:
                typer.echo(report.text(found))
