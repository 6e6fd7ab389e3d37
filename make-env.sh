#!/bin/sh
# Makes a virtual environment under .venv/ when it is missing or its pins have changed, and prints its Python.
#
#   sh make-env.sh launch     pyyaml and submitit: seconds, Python 3.10 or newer
#   sh make-env.sh cpu|cuda   everything that trains and tests, Python 3.11 or newer
#   sh make-env.sh checkov    the linter of manifests and images, which the tests run
#   sh make-env.sh train      cpu or cuda: TORCH, else DEVICE, else cuda where there is an NVIDIA GPU
#
# The Makefile hands TORCH, DEVICE and PYTHON on as TRAINYARD_*. Progress goes to stderr.
set -eu
cd "$(dirname "$0")"

say() { printf 'trainyard: %s\n' "$*" >&2; }
die() { say "$*"; exit 78; }

# Runs, is new enough, and can make environments. Being on PATH is not enough: pyenv's shims are there for
# versions that are not selected, and Debian ships Python without ensurepip.
suits() {
  "$1" -c "import sys, ensurepip, venv; sys.exit(sys.version_info < tuple(map(int, '$2'.split('.'))))" >/dev/null 2>&1
}

# The first Python that suits: by name in the order given, for each name everywhere on PATH.
find_python() {
  least=$1; shift
  if [ -n "${TRAINYARD_PYTHON:-}" ]; then
    suits "$TRAINYARD_PYTHON" "$least" || die "PYTHON=$TRAINYARD_PYTHON does not run, is older than Python" \
      "$least or has no ensurepip: give another, or leave PYTHON out"
    command -v "$TRAINYARD_PYTHON"
    return
  fi
  for name in "$@"; do
    old_ifs=$IFS; IFS=:
    for folder in $PATH; do
      IFS=$old_ifs
      if [ -x "$folder/$name" ] && suits "$folder/$name" "$least"; then
        printf '%s\n' "$folder/$name"
        return
      fi
    done
    IFS=$old_ifs
  done
  die "no Python $least or newer that can make environments on PATH: module load python/3.11," \
    "apt install python3-venv, or PYTHON=/path/to/python3.11"
}

pip() { "$python" -m pip --disable-pip-version-check install --quiet --no-input "$@" >&2; }

# Files with the hashes of a lock, and nothing that is not in one. Whatever has a wheel is not built.
hashed() { pip --require-hashes --no-deps --only-binary :all: "$@"; }

make_launch() {
  say "installing pyyaml and submitit into $folder: seconds"
  hashed -r docker/launch.lock
}

make_checkov() {
  say "installing checkov into $folder: half a minute"
  hashed -r docker/checkov.lock
}

make_train() {
  if [ "$(uname -s)" != Linux ]; then make_unlocked; return; fi
  if [ "$flavour" = cuda ]; then
    say "installing torch for CUDA: several GB"
    hashed -r docker/torch-cuda.lock
  else
    # Mirrors may have the build without CUDA; PyPI has not.
    say "installing torch without CUDA: about 200 MB"
    hashed -r docker/torch-cpu.lock 2>"$folder/pip.log" ||
      hashed -r docker/torch-cpu.lock --extra-index-url https://download.pytorch.org/whl/cpu ||
      die "docker/torch-cpu.lock has no build of torch that suits this Python and this processor: PYTHON=python3.11"
  fi
  say "installing transformers, trl, deepspeed and the rest: about 1 GB unpacked, some minutes"
  hashed -r docker/libraries.lock -r docker/developers.lock
  # Built with the setuptools and ninja that are there by now. deepspeed compiles its kernels when they are first needed.
  DS_BUILD_OPS=0 pip --require-hashes --no-deps --no-build-isolation -r docker/sdists.lock
}

# The locks are Linux's: elsewhere the versions of pyproject.toml, without hashes.
make_unlocked() {
  "$python" - >"$folder/requirements.txt" <<'PY'
import tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *extras["train"], *extras["dev"]]))
PY
  say "installing torch, transformers, trl, deepspeed and the rest: some minutes"
  pip "$(sed -n '/^torch==/p' "$folder/requirements.txt")"
  DS_BUILD_OPS=0 pip -r "$folder/requirements.txt"
}

flavour=${1:-}
if [ "$flavour" = train ]; then
  flavour=${TRAINYARD_TORCH:-${TRAINYARD_DEVICE:-}}
  if [ -z "$flavour" ]; then
    flavour=cpu
    if nvidia-smi -L >/dev/null 2>&1; then flavour=cuda; fi
  fi
fi
# torch for Apple's GPU is that for the CPU.
if [ "$flavour" = mps ]; then flavour=cpu; fi
case $flavour in
  checkov) least=3.11; names='python3.11 python3.12 python3.13 python3 python' ;;
  launch) least=3.10; names='python3.14 python3.13 python3.12 python3.11 python3.10 python3 python' ;;
  # In the order in which torch and its companions get wheels.
  cpu | cuda) least=3.11; names='python3.11 python3.12 python3.13 python3 python' ;;
  *) die "unknown environment '$flavour' (TORCH or DEVICE): takes cpu, cuda or mps" ;;
esac

folder=.venv/$flavour
python=$folder/bin/python
stamp=$folder/.made
# What an environment depends on: its locks, by their checksum, and for training the project's table, too, not the
# linters' settings.
case $flavour in
  launch | checkov) pins=$(cat "docker/$flavour.lock") ;;
  *)
    pins=$(sed -n '/^\[project/,/^\[tool/p' pyproject.toml &&
      cat docker/torch-*.lock docker/libraries.lock docker/sdists.lock docker/developers.lock | cksum)
    ;;
esac
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$pins" ]; then
  if ! "$python" -c 'import pip' >/dev/null 2>&1; then
    # shellcheck disable=SC2086  # names are words
    base=$(find_python "$least" $names)
    say "making $folder with $base"
    rm -rf "$folder"
    "$base" -m venv "$folder"
  fi
  case $flavour in
    launch) make_launch ;;
    checkov) make_checkov ;;
    *) make_train ;;
  esac
  say "$folder is ready"
fi
printf '%s\n' "$pins" >"$stamp"
printf '%s\n' "$python"
