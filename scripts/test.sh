#!/usr/bin/env bash
# Check the project from nothing: environment, style, types, layers, scripts, tests.
#
#   scripts/test.sh            what every change must pass
#   scripts/test.sh --long     the same with coverage, then the long versions of the tests, Windows, and the mutants
#   scripts/test.sh -- ARGS    hand ARGS to pytest (and skip the static checks)
set -euo pipefail

step() { printf '\n== %s\n' "$*"; }

static_checks() {
    step "style"
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    step "types"
    .venv/bin/mypy
    .venv/bin/mypy --platform win32 --cache-dir .mypy_cache/windows training/fleet/{system,executors,client,worker}
    step "layers"
    .venv/bin/lint-imports --no-cache
    step "scripts"
    .venv/bin/shellcheck -x scripts/*.sh .ci/run
}

main() {
    cd "$(dirname "$0")/.."
    # shellcheck source=scripts/environment.sh
    . scripts/environment.sh
    make_environment dev
    case " $* " in *" --long "*) want_container_packages ;; esac

    if [ "${1:-}" = "--" ]; then
        shift
        exec .venv/bin/python -m pytest "$@"
    fi
    case "${1:-}" in
        "" | --long) ;;
        *)
            printf 'test.sh: found %s, expected --long or -- followed by arguments for pytest\n' "$1" >&2
            exit 2
            ;;
    esac
    static_checks
    step "tests"
    # Many tests wait for other processes, so there is room for one more than there are cores.
    if [ "${1:-}" != --long ]; then
        .venv/bin/python -m pytest -n 3 --dist loadgroup
    else
        .venv/bin/python -m pytest -n 3 --dist loadgroup --cov --cov-report=
        .venv/bin/coverage report --fail-under=95
        step "long versions"
        .venv/bin/python -m pytest -n 3 --dist loadgroup --long -m slow
        step "the worker on Windows"
        scripts/test-windows.sh
        step "mutants"
        .venv/bin/python -m tests.mutants
        step "every guard broken"
        .venv/bin/python -m tests.mutants sweep
    fi
}

main "$@"
