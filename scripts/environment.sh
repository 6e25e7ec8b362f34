#!/usr/bin/env bash
# Make the environment .venv from hash-pinned requirements. Sourced by demo.sh and test.sh from the project's root:
#
#   . scripts/environment.sh
#   make_environment trainer      # or dev, which holds all of trainer
#
# WITH_TORCH=yes adds torch to dev also where that takes gigabytes. Nothing happens when .venv already has what requirements/NAME.txt names. Where pip finds packages is pip's own
# configuration. On Debian, missing system packages are installed when this runs as root or with a sudo that needs no
# password; otherwise the exact command is shown.

TORCH_VERSION=2.13.0
TORCH_NEEDS_GB=8 # 4.7 stay; the packages lie beside them until all of them are unpacked
WITH_TORCH=no

complain() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

make_environment() {
    local name=$1 requirements="requirements/$1.txt"
    export PATH # a Python that is started without one cannot find itself
    if ! environment_is_made dev && ! environment_is_made "$name"; then
        if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            create_environment || return
        fi
        printf 'installing %s into .venv (once; takes a minute or two)\n' "$requirements" >&2
        install_pinned "$requirements" || return 1
        need_system_packages .venv/bin/python || return 1
        if [ "$name" = dev ]; then want_test_packages; fi
        sha256sum <"$requirements" >".venv/made-from-$name"
    fi
    if [ "$name" = dev ]; then want_torch; fi
}

install_pinned() {
    pip_install --require-hashes -r "$1" && return
    complain "pip could not install $1; is the package index reachable? Then run this again"
    return 1
}

pip_install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --only-binary :all: "$@"
}

environment_is_made() {
    [ -x .venv/bin/python ] && [ "$(cat ".venv/made-from-$1" 2>/dev/null)" = "$(sha256sum <"requirements/$1.txt")" ]
}

create_environment() {
    local python
    python=$(find_python) || return
    need_system_packages "$python" || return 1
    "$python" -m venv --clear .venv
}

# Print the name of the first Python that is new enough. Where PYTHON names one, no other is tried.
find_python() {
    local names=(python3 python3.14 python3.13 python3.12 python3.11) python version older=""
    if [ -n "${PYTHON:-}" ]; then names=("$PYTHON"); fi
    for python in "${names[@]}"; do
        if version=$("$python" -c 'import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
            printf '%s\n' "$python"
            return
        fi
        if [ -n "${version:-${PYTHON:-}}" ]; then older+="${older:+, }$python ${version:+is }${version:-does not start}"; fi
    done
    complain "found no Python 3.11 or newer${older:+ ($older)}; install one (Debian 12: apt-get install python3)," \
        "or name it in PYTHON"
    return 78
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

# Some tests need torch: its CPU build, where pip finds that. The build of the package index brings gigabytes of CUDA on
# Linux, so it is installed only where it is asked for, by WITH_TORCH or CI; elsewhere these tests are skipped. What came
# of it is kept in .venv/torch, so that the next run asks no index again. A torch that somebody else installed stays.
want_torch() {
    local wanted=$WITH_TORCH pins kept
    if [ -n "${CI:-}" ]; then wanted=yes; fi
    pins=$(cat requirements/torch.txt requirements/torch-index.txt | sha256sum)
    kept=$(cat .venv/torch 2>/dev/null) || kept=""
    case $wanted:$kept in
        no:"none $pins" | no:"installed $pins") return ;;
        *:"installed $pins" | *:none* | *:) if has_torch; then return; fi ;;
    esac
    kept=installed
    if pip_finds_cpu_torch; then
        install_cpu_torch || return 1
    elif [ "$wanted" = yes ]; then
        install_torch_of_the_index || return 1
    else
        kept=none
    fi
    printf '%s %s\n' "$kept" "$pins" >.venv/torch
}

has_torch() { .venv/bin/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; }

# PyPI's build for other systems than Linux is the one for the CPU.
cpu_torch() { if [ "$(uname -s)" = Linux ]; then echo "torch==$TORCH_VERSION+cpu"; else echo "torch==$TORCH_VERSION"; fi; }

pip_finds_cpu_torch() { pip_install --dry-run "$(cpu_torch)" >/dev/null 2>&1; }

# Its hash depends on who built it, so its version is all that is pinned.
install_cpu_torch() {
    printf 'installing torch for the CPU into .venv (once)\n' >&2
    install_pinned requirements/torch.txt || return 1
    pip_install "$(cpu_torch)" && return
    complain "pip found $(cpu_torch) and could not install it; what pip says stands above"
    return 1
}

# Downloads lie in .venv as well, because the folder for temporary files is often small and in memory.
install_torch_of_the_index() {
    local free_gb status=0
    free_gb=$(df -Pk .venv | awk 'NR == 2 { print int($4 * 1024 / 1e9) }')
    if [ "$free_gb" -lt "$TORCH_NEEDS_GB" ]; then
        complain "torch needs $TORCH_NEEDS_GB GB while it is installed, and the disk of .venv has $free_gb GB free;" \
            "free some, or point pip's find-links at the CPU build of torch $TORCH_VERSION; then run this again"
        return 1
    fi
    printf 'installing torch as the package index has it into .venv (once): 4.7 GB on disk, a minute on a fast line\n' >&2
    mkdir -p .venv/tmp
    TMPDIR=$PWD/.venv/tmp install_pinned requirements/torch-index.txt || status=1
    rm -rf .venv/tmp
    return "$status"
}

# Tests that lack one of these are skipped with a reason, so a machine where they can't be installed can still test.
want_test_packages() {
    local missing=() pair
    for pair in ip:iproute2 unshare:util-linux gcc:gcc strace:strace openssl:openssl caddy:caddy promtool:prometheus; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    if [ ${#missing[@]} -gt 0 ] && ! install_packages "${missing[@]}"; then
        complain "some tests will be skipped, because the system lacks ${missing[*]}"
    fi
}

# What boots a container for the long tests of the installers.
want_container_packages() {
    local missing=() pair
    for pair in systemd-nspawn:systemd-container debootstrap:debootstrap; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ ${#missing[@]} -gt 0 ] && ! install_packages "${missing[@]}"; then
        complain "the tests of the installers will be skipped, because the system lacks ${missing[*]}"
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
