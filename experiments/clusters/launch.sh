#!/bin/sh
# Start a sweep, or go on with it if it was begun before. Clusters call this again after they lost
# a job, so the same command must do both.
#
#   launch.sh NAME FILE.py[:FUNCTION] [OPTION OF rsas sweep]...
#   launch.sh --stop NAME     interrupt it on this machine, and wait until it has saved
#
# RSAS_WORKSPACE  folder of sweeps that outlives the cluster (required)
# RSAS_CODE       copy the code to RSAS_CODE/NAME, once, and run it from there: `rsas resume` finds
#                 the experiment by its path, and Ray's copy of a working directory does not last
set -eu

[ $# -ge 2 ] || { echo "launch.sh: expected NAME FILE.py[:FUNCTION] [OPTION]..., or --stop NAME" >&2; exit 2; }
pid_file() { echo "${TMPDIR:-/tmp}/rsas-$(id -u)-$1.pid"; }

if [ "$1" = --stop ]; then
  name=$2
  pid=$(cat "$(pid_file "$name")" 2>/dev/null) || exit 0
  # The number may be another program's by now; a sweep has its name among its arguments.
  runs() { cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' '\n' | grep -qxF -- "$name"; }
  if runs; then kill -TERM "$pid" || true; fi
  while runs; do sleep 0.2; done
  exit 0
fi

name=$1 file=$2
shift 2
: "${RSAS_WORKSPACE:?names the folder of sweeps that outlives the cluster}"

if [ -n "${RSAS_CODE:-}" ]; then
  if [ ! -d "$RSAS_CODE/$name" ]; then
    mkdir -p "$RSAS_CODE"
    cp -R . "$RSAS_CODE/.$name.$$"
    mv "$RSAS_CODE/.$name.$$" "$RSAS_CODE/$name"
  fi
  cd "$RSAS_CODE/$name"
  export PYTHONPATH="$PWD"
fi

# exec keeps this number, and lets signals reach rsas instead of a shell.
echo $$ >"$(pid_file "$name")"

# `resume || sweep` would not do: resume may fail, or be interrupted, for other reasons.
code=0
told=$(rsas status "$name" --workspace "$RSAS_WORKSPACE" 2>&1) || code=$?
case $code in
  # The cluster has given the first job up, on a machine that this one may not be able to ask.
  0) exec rsas resume "$name" --take-over --address auto --workspace "$RSAS_WORKSPACE" ;;
  2) exec rsas sweep "$file" --name "$name" --address auto --workspace "$RSAS_WORKSPACE" "$@" ;;
  *) echo "$told" >&2; exit "$code" ;;
esac
