#!/bin/sh
# Builds the image, packs it for Apptainer into trainyard-VERSION[-TORCH].sif, and prints that name: `make sif`.
set -eu
cd "$(dirname "$0")/.."

docker=${TRAINYARD_DOCKER:-docker}
command -v apptainer >/dev/null || { echo "trainyard: no apptainer on PATH: install or load it" >&2; exit 78; }
image=$(sh docker/build.sh)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$docker" save --output "$folder/image.tar" "$image"
file=$(printf '%s' "$image" | tr : -).sif
apptainer build --force "$file" "docker-archive:$folder/image.tar" >&2
printf '%s\n' "$file"
