#!/bin/sh
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
#
# Used by the Dockerfile: makes /opt/msnn, a virtual environment with what the locks name. $1 is 0 to leave torch out.
set -eu

cd "$(dirname "$0")"
lock=requirements-nn.lock
[ "$1" != 0 ] || lock=requirements.lock
python3 -m venv /opt/msnn
/opt/msnn/bin/pip install --no-cache-dir --require-hashes -r "$lock"
/opt/msnn/bin/pip install --no-cache-dir --require-hashes -r requirements-notebook.lock
rm -rf /tmp/locks
