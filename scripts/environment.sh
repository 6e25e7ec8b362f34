#!/usr/bin/env bash
# Make the environment .venv from hash-pinned requirements. Sourced by demo.sh and test.sh from the project's root:
#
#   . scripts/environment.sh
#   make_environment trainer      # or dev, which holds all of trainer
#
# Nothing happens when .venv already has what requirements/NAME.txt names. Where pip finds packages is pip's own
# configuration. On Debian, missing system packages are installed when this runs as root or with a sudo that needs no
# password; otherwise the exact command is shown.

complain() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

make_environment() {
    local name=$1 requirements="requirements/$1.txt"
    export PATH # a Python that is started without one cannot find itself
    if environment_is_made dev || environment_is_made "$name"; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        create_environment
    fi
    printf 'installing %s into .venv (once; takes a minute or two)\n' "$requirements" >&2
    if ! .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input \
        --require-hashes --no-deps --only-binary :all: -r "$requirements"; then
        complain "pip could not install $requirements; is the package index reachable? Then run this again"
        return 1
    fi
    need_openmp
    sha256sum <"$requirements" >".venv/made-from-$name"
}

environment_is_made() {
    [ -x .venv/bin/python ] && [ "$(cat ".venv/made-from-$1" 2>/dev/null)" = "$(sha256sum <"requirements/$1.txt")" ]
}

create_environment() {
    local python
    python=$(find_python) || return 1
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_package python3-venv "this Python cannot make environments"
    fi
    "$python" -m venv --clear .venv
}

# Print the name of the first Python that is new enough.
find_python() {
    local python
    for python in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$python"
            return
        fi
    done
    complain "found no Python 3.11 or newer; install one (Debian 12: apt-get install python3), or name it in PYTHON"
    return 1
}

# LightGBM loads the OpenMP runtime of the system.
need_openmp() {
    if ! .venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; then
        install_package libgomp1 "the OpenMP runtime is missing"
    fi
}

# Install a Debian package, or say how.
install_package() {
    local package=$1 reason=$2 root=()
    if [ "$(id -u)" -ne 0 ]; then
        root=(sudo -n)
    fi
    if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
        printf '%s; installing the system package %s\n' "$reason" "$package" >&2
        if "${root[@]}" apt-get update -qq && "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "$package" >/dev/null; then
            return
        fi
    fi
    complain "$reason; install it and run this again: sudo apt-get update && sudo apt-get install -y $package"
    return 1
}
