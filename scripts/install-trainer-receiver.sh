#!/usr/bin/env bash
# Install the receiver of a training fleet on this machine: keys and tokens, settings, service. Run it again with newer
# code to upgrade; --help names the flags. docs/guides/install-the-receiver.md tells the whole story.
#
# This finds a Python; what is done is in training/fleet/install.
set -euo pipefail

main() {
    local source before="" word
    source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ ! -r "$source/scripts/installing.py" ]; then
        printf '%s: this is a part of the project; clone it and run the script in the clone\n' "$(basename "$0")" >&2
        exit 78
    fi
    for word; do
        if [ "$before" = --python ]; then PYTHON=$word; fi
        before=$word
    done
    # shellcheck source=scripts/environment.sh
    . "$source/scripts/environment.sh"
    PYTHON=$(find_python) || exit 78
    # Nothing but the code beside this is loaded, and nothing is written there, where this may run as root.
    exec "$PYTHON" -IB "$source/scripts/installing.py" receiver "$@"
}

# A download that was cut off has no closing brace, and runs nothing.
{ main "$@"; exit; }
