#!/usr/bin/env bash
# Make the environment .venv from hash-pinned requirements. Sourced by demo.sh and test.sh from the project's root:
#
#   . scripts/environment.sh
#   make_environment trainer      # or dev, which holds all of trainer
#
# Nothing happens when .venv already has what requirements/NAME.txt names. Where pip finds packages is pip's own
# configuration. On Debian, missing system packages are installed when this runs as root or with a sudo that needs no
# password; otherwise the exact command is shown.

TORCH_VERSION=2.13.0

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
    need_system_packages .venv/bin/python || return 1
    if [ "$name" = dev ]; then
        want_torch
        want_test_packages
    fi
    sha256sum <"$requirements" >".venv/made-from-$name"
}

environment_is_made() {
    [ -x .venv/bin/python ] && [ "$(cat ".venv/made-from-$1" 2>/dev/null)" = "$(sha256sum <"requirements/$1.txt")" ]
}

create_environment() {
    local python
    python=$(find_python) || return 1
    need_system_packages "$python" || return 1
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

# Debian ships Python without the part that makes environments, and LightGBM loads the OpenMP runtime of the system.
need_system_packages() {
    local python=$1 missing=()
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || missing+=(libgomp1)
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if ! install_packages "${missing[@]}"; then
        complain "the system lacks ${missing[*]}; install that and run this again:" \
            "sudo apt-get update && sudo apt-get install -y ${missing[*]}"
        return 1
    fi
}

# The tests use the CPU build of torch by its exact version. PyPI's own build for Linux brings gigabytes of CUDA, so it
# is never taken by accident; without torch the tests that need it are skipped, and fail where CI is set.
want_torch() {
    local build=$TORCH_VERSION
    [ "$(uname -s)" = Linux ] && build+=+cpu
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input \
        --require-hashes --no-deps --only-binary :all: -r requirements/torch.txt &&
        .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input \
            --no-deps --only-binary :all: "torch==$build" && return
    complain "some tests will be skipped, because pip finds no torch $build; to run them, point pip's find-links at" \
        "the CPU wheels of the PyTorch project, or install a torch of your own into .venv"
}

# Tests that lack one of these are skipped with a reason, so a machine where they can't be installed can still test.
want_test_packages() {
    local missing=() pair
    for pair in ip:iproute2 unshare:util-linux gcc:gcc strace:strace openssl:openssl caddy:caddy; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    if [ ${#missing[@]} -gt 0 ] && ! install_packages "${missing[@]}"; then
        complain "some tests will be skipped, because the system lacks ${missing[*]}"
    fi
}

install_packages() {
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        root=(sudo -n)
    fi
    command -v apt-get >/dev/null || return 1
    printf 'installing the system packages %s\n' "$*" >&2
    "${root[@]}" apt-get update -qq || return 1
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}
