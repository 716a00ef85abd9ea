# shellcheck shell=bash
# Shared by the commands that need the environment; sourced, not run.
# `set_up [EXTRAS [LOCK]]` makes .venv and installs the project into it, unless that is done already;
# with a lock in those versions, without it in whichever setup.py allows.
# Afterwards $python is the environment's interpreter and $root the repository.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$root/.venv/bin/python

# usable PYTHON MODULES: it runs (a launcher on the path may stand for nothing), is new enough
# and can import the modules.
usable() {
  "$1" -c "import sys, $2; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 </dev/null
}

find_python() {
  local names=(python3.13 python3.12 python3.11 python3 python) name
  [ -z "${PYTHON:-}" ] || names=("$PYTHON")
  for name in "${names[@]}"; do
    if usable "$name" "venv, ensurepip"; then
      echo "$name"
      return
    fi
  done
  echo "no Python >= 3.11 with venv and ensurepip (tried: ${names[*]}); install one, or set PYTHON to its path" >&2
  return 2
}

# Stamps say what is installed from which setup.py, where: a clone that moved is installed again.
set_up() {
  local extra=${1:-} lock=${2:-} stamp state found name
  stamp=.stamp-$extra${lock:+-locked}
  state="$root $(cat "$root/setup.py" ${lock:+"$lock"} | cksum)"
  [ -x "$python" ] && [ "$(cat "$root/.venv/$stamp" 2>/dev/null)" = "$state" ] && return
  if ! usable "$python" pip; then
    found=$(find_python) || exit 2
    echo "making .venv with $("$found" --version)" >&2
    "$found" -m venv --clear "$root/.venv" </dev/null || exit 1
  fi
  echo "installing into .venv (takes minutes the first time)" >&2
  rm -rf "$root"/.venv/.stamp-* "$root/.venv/jax-cache"
  (cd -- "$root" && "$python" -m pip install --quiet --disable-pip-version-check ${lock:+-c "$lock"} -e ".${extra:+[$extra]}" </dev/null) || {
    echo "installation failed; the lines above say why" >&2
    exit 1
  }
  echo "$state" >"$root/.venv/$stamp"
  # An extra brings the lesser ones with it.
  state="$root $(cksum <"$root/setup.py")"
  case $extra in
    dev,oracles) set -- "" test dev dev,oracles ;;
    dev) set -- "" test dev ;;
    test) set -- "" test ;;
    *) set -- "" ;;
  esac
  for name; do echo "$state" >"$root/.venv/.stamp-$name"; done
}
