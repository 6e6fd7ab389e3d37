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

# Requirements by extra, from pyproject.toml. pip brings tomli where Python has no tomllib (3.10).
requirements() {
  "$python" - "$@" <<'PY'
import sys
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *(line for extra in sys.argv[1:] for line in extras[extra])]))
PY
}

pip() { "$python" -m pip --disable-pip-version-check install --quiet --no-input "$@" >&2; }

install_torch() {
  pin=$(requirements train | sed -n 's/^torch==//p')
  if [ "$flavour" = cuda ]; then
    say "installing torch $pin for CUDA: several GB"
    pip "torch==$pin"
    case $(installed_torch) in
      *+cpu) die "the package index gave the CPU-only build of torch $pin: use one that has the CUDA build" ;;
    esac
  elif [ "$(uname -s)" = Linux ]; then
    # The local version makes sure that it never becomes the CUDA build. Mirrors may have it; PyPI has not.
    say "installing torch $pin without CUDA: about 200 MB"
    pip "torch==$pin+cpu" 2>"$folder/pip.log" ||
      pip "torch==$pin+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
  else
    say "installing torch $pin"
    pip "torch==$pin"
  fi
}

installed_torch() { "$python" -c 'from importlib.metadata import version; print(version("torch"))'; }

make_launch() {
  say "installing pyyaml and submitit into $folder: seconds"
  pip --require-hashes --no-deps -r docker/launch.lock
}

make_checkov() {
  say "installing checkov into $folder: half a minute"
  requirements checkov >"$folder/requirements.txt"
  pip -r "$folder/requirements.txt"
}

make_train() {
  install_torch
  printf 'torch==%s\n' "$(installed_torch)" >"$folder/constraints.txt"
  # The image's versions of everything, where these are known: its locks are for Linux.
  if [ "$(uname -s)" = Linux ]; then
    sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' docker/libraries.lock docker/deepspeed.lock >>"$folder/constraints.txt"
  fi
  # PyPI's torchvision is made for the CUDA build.
  case $flavour in cuda) extra=cuda ;; *) extra= ;; esac
  requirements train dev $extra >"$folder/requirements.txt"
  say "installing transformers, trl, deepspeed and the rest: about 1 GB unpacked, some minutes"
  # deepspeed compiles its kernels when they are first needed, not now.
  DS_BUILD_OPS=0 pip -r "$folder/requirements.txt" -c "$folder/constraints.txt"
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
# A login node's environment depends on its lock alone, the others on the project's table and its extras, not on the
# linter's settings, and on the image's locks, by their checksum.
if [ "$flavour" = launch ]; then
  pins=$(cat docker/launch.lock)
else
  pins=$(sed -n '/^\[project/,/^\[tool/p' pyproject.toml && cat docker/libraries.lock docker/deepspeed.lock | cksum)
fi
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
