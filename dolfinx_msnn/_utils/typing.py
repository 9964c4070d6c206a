# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
"""Names for the types that the package's signatures use."""

import numpy as np
import numpy.typing as npt

import dolfinx_msnn._utils.environment  # noqa: F401  # says what is missing
from dolfinx import fem, mesh

type Mesh = mesh.Mesh[np.float64]
type FunctionSpace = fem.FunctionSpace[np.float64]
type Function = fem.Function[np.float64]
type DirichletBC = fem.DirichletBC[np.float64]
type Form = fem.Form[np.float64]
type FloatArray = npt.NDArray[np.float64]
type BoolArray = npt.NDArray[np.bool_]
type IntArray = npt.NDArray[np.int32]
type LongArray = npt.NDArray[np.int64]
type CompilerOptions = dict[str, object]
