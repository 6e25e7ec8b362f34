#!/usr/bin/env bash
# Check the project from nothing: environment, style, types, layers, scripts, tests.
#
#   scripts/test.sh            what every change must pass; at most nine minutes on two quiet cores
#   scripts/test.sh --quick    while you work: the static checks, and the tests of single parts without those that take
#                              many seconds; at most a minute and a half once the environment is made
#   scripts/test.sh --long     the same with coverage, then the long versions of the tests, Windows, and the mutants
#   scripts/test.sh -- ARGS    hand ARGS to pytest (and skip the static checks)
#   scripts/test.sh --torch    with any of these: install torch also where that takes gigabytes, so that nothing is skipped
#                              for want of it
set -euo pipefail

step() { printf '\n== %s\n' "$*"; }

static_checks() {
    step "style"
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    step "types"
    .venv/bin/mypy
    .venv/bin/mypy --platform win32 --cache-dir .mypy_cache/windows training/fleet/{system,client,worker,install}
    step "layers"
    .venv/bin/lint-imports --no-cache
    step "scripts"
    .venv/bin/shellcheck -x scripts/*.sh .ci/run
}

refuse() {
    complain "$1"
    exit 2
}

main() {
    local how=ordinary handed=no
    cd "$(dirname "$0")/.."
    # shellcheck source=scripts/environment.sh
    . scripts/environment.sh
    while [ $# -gt 0 ] && [ "$handed" = no ]; do
        case $1 in
            --torch) WITH_TORCH=yes ;;
            --quick | --long)
                if [ "$how" != ordinary ] && [ "$how" != "$1" ]; then refuse "found $how and $1, expected one of them"; fi
                how=$1
                ;;
            --) handed=yes ;;
            *) refuse "found $1, expected --quick, --long, --torch or -- followed by arguments for pytest" ;;
        esac
        shift
    done
    if [ "$handed" = yes ] && [ "$how" != ordinary ]; then
        refuse "found $how before --; to hand it to pytest, give it after --"
    fi
    make_environment dev
    case " $how $* " in *" --long "*) want_container_packages ;; esac
    if [ "$handed" = yes ]; then exec .venv/bin/python -m pytest "$@"; fi
    if [ "$how" = --long ]; then need_torch; fi
    static_checks
    step "tests"
    case $how in
        --quick) run_tests --quick tests/unit tests/conformance tests/docs ;;
        --long) long_tests ;;
        *) run_tests ;;
    esac
}

# Many tests wait for other processes, so there is room for one more than there are cores.
run_tests() { .venv/bin/python -m pytest -n 3 --dist loadgroup "$@"; }

# The measured coverage is that of the networks as well.
need_torch() {
    has_torch && return
    complain "--long needs torch, and pip finds no CPU build of it; add --torch to install another (4.7 GB)"
    exit 1
}

long_tests() {
    run_tests --cov --cov-report=
    .venv/bin/coverage report --fail-under=95
    step "long versions"
    run_tests --long -m slow
    step "the worker on Windows"
    scripts/test-windows.sh
    step "mutants"
    .venv/bin/python -m tests.mutants
    step "every guard broken"
    .venv/bin/python -m tests.mutants sweep
}

main "$@"
