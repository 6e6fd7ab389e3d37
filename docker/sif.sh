#!/bin/sh
# Builds the image, packs it for Apptainer into trainyard-VERSION[-TORCH].sif, and prints that name: `make sif`.
set -eu
cd "$(dirname "$0")/.."

docker=${TRAINYARD_DOCKER:-docker}
missing=
for program in "$docker" apptainer; do
  command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
  echo "trainyard: not on PATH:$missing: install or load what is missing (DOCKER= may be docker, podman or buildah)" >&2
  exit 78
fi
image=$(sh docker/build.sh)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
case ${docker##*/} in
  buildah) "$docker" push --quiet "$image" "docker-archive:$folder/image.tar:$image" >&2 ;;
  *) "$docker" save --output "$folder/image.tar" "$image" >&2 ;;
esac
file=$(printf '%s' "$image" | tr : -).sif
apptainer build --force "$file" "docker-archive:$folder/image.tar" >&2
printf '%s\n' "$file"
