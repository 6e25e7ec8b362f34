#!/usr/bin/env bash
# Train the models of etc/demo_manifest.toml on the telemetry that ships with the project, with a real receiver and a
# real worker on this machine. Needs Python 3.11+ and nothing before it.
#
#   scripts/demo.sh            train, show the results, stop
#   scripts/demo.sh --keep     leave receiver and worker running until Ctrl-C
#   scripts/demo.sh --help     all options
set -euo pipefail

main() {
    cd "$(dirname "$0")/.."
    # shellcheck source=scripts/environment.sh
    . scripts/environment.sh
    make_environment trainer
    exec .venv/bin/python tools/demo.py "$@"
}

main "$@"
