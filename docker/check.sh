#!/bin/sh
# Copyright (C) 2026 The dolfinx_msnn developers
# SPDX-License-Identifier: MIT
#
# Builds docker/Dockerfile and tries in it what docker/README.md promises; see check_inside.py. With docker, podman or
# buildah, whichever is there first. For machines where that needs more than its name:
#
#     OCI="buildah --storage-driver vfs --root FOLDER --runroot FOLDER"    the builder with its global options
#     BUILD="--pull-never --build-arg BASE_IMAGE=..."                      options of the build
#     RUN="--volume ..."                                                   options of what runs in the image
set -eu

cd "$(dirname "$0")/.."

if [ -z "${OCI:-}" ]; then
    for name in docker podman buildah none; do
        OCI=$name
        ! command -v "$name" >/dev/null 2>&1 || break
    done
fi
if [ "$OCI" = none ]; then
    echo "docker/check.sh needs docker, podman or buildah, and none was found; OCI=... names one." >&2
    exit 1
fi
image=localhost/dolfinx-msnn:check

# The options are lists of words.
# shellcheck disable=SC2086
case $OCI in
    *buildah*)
        $OCI build --isolation chroot --layers=false --format docker ${BUILD:-} \
            --file docker/Dockerfile --ignorefile docker/Dockerfile.dockerignore --tag $image .
        container=$($OCI from --pull-never $image)
        trap '$OCI rm "$container" >/dev/null' EXIT
        $OCI run --isolation chroot ${RUN:-} "$container" -- python - <docker/check_inside.py
        ;;
    *)
        $OCI build ${BUILD:-} --file docker/Dockerfile --tag $image .
        $OCI run --rm --interactive --shm-size 1g ${RUN:-} $image python - <docker/check_inside.py
        ;;
esac
echo "docker/check.sh: the image builds, and does what docker/README.md says."
