#!/bin/sh
# Builds the image and prints its name. `make image` runs this; what else is given goes to docker build.
#
#   sh docker/build.sh --build-arg BASE=docker.io/nvidia/cuda@sha256:... --push
#
# TRAINYARD_DOCKER is docker, podman or buildah; TRAINYARD_TORCH is cuda or another of docker/torch-*.lock.
set -eu
cd "$(dirname "$0")/.."

docker=${TRAINYARD_DOCKER:-docker}
torch=${TRAINYARD_TORCH:-cuda}
die() { printf 'trainyard: %s\n' "$*" >&2; exit 78; }

[ -f "docker/torch-$torch.lock" ] ||
  die "TORCH=$torch: known are $(cd docker && printf '%s ' torch-*.lock | sed 's/torch-\([^ ]*\)\.lock/\1/g')"
command -v "$docker" >/dev/null || die "no $docker on PATH: install it, or say DOCKER=podman"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' trainer/__init__.py)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit=$commit-dirty
case $torch in
  cuda) image=trainyard:$version ;;
  *)
    image=trainyard:$version-$torch
    # PyPI has the CUDA build alone. The lock's hashes say which file it must be.
    set -- --build-arg "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/$torch" "$@" ;;
esac
# There is no CUDA in the CPU flavour, and its wheels are for Debian 12's Python.
[ "$torch" != cpu ] || set -- --build-arg BASE=docker.io/library/debian:bookworm-slim "$@"
# Labels from here, not from arguments in the Dockerfile: buildah takes a layer for the same whatever its arguments are.
"$docker" build --file docker/Dockerfile --tag "$image" --build-arg TORCH="$torch" \
  --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$commit" "$@" . >&2
printf '%s\n' "$image"
