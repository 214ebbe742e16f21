#!/usr/bin/env bash
# The proxy of compose.yaml without containers: the same config, with parts from Python packages. Ctrl-C ends all of it.
# PORT (4000), WORKERS (1), RUN_DIR (.run beside this file) and PYTHON (python) may be set.
set -euo pipefail
cd "$(dirname "$0")"
exec "${PYTHON:-python}" stand_ins.py
