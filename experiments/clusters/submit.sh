#!/bin/sh
# Submit a sweep to a Ray cluster that is up: submit.sh NAME FILE.py[:FUNCTION] [OPTION OF rsas sweep]...
# Submitted again under the same NAME it goes on. Paths below /shared are the cluster's.
set -eu
cd "$(dirname "$0")/../.."

# Without the mode the client sends no token, even where it has one.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"

# `ray job stop` kills after 3 seconds unless told how long saving may take.
exec ray job submit \
  --address "${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}" \
  --no-wait \
  --working-dir . \
  --runtime-env-json '{"env_vars": {"RSAS_WORKSPACE": "/shared/runs", "RSAS_CODE": "/shared/code", "RAY_JOB_STOP_WAIT_TIME_S": "100"}}' \
  -- sh experiments/clusters/launch.sh "$@"
