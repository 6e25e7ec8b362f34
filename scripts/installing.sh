#!/usr/bin/env bash
# What install-training-worker.sh and install-trainer-receiver.sh share. Sourced by them; holds functions alone.
#
# The script that sources this sets PART (worker or receiver), UNIT, ACCOUNT, SOURCE (the checkout) and the choices
# MODE (system or user), DRY_RUN, PYTHON, WHEELS and REQUIREMENTS. Every change goes through `change`, so a dry run
# prints all of them and makes none.

# shellcheck disable=SC2153 # the names above are set elsewhere
CHANGES=0
STEP="the start"

say() { printf '%s\n' "$*"; }

# Print what was found and what to do, and end. The status follows sysexits: 69, 77 and 78 as the programs use them.
fail() {
    local status=$1
    shift
    complain "$*"
    trap - ERR
    exit "$status"
}

complain() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

tell_where_it_stopped() {
    complain "stopped at: $STEP; mend what stands above and run the same command again, it goes on where it stopped"
}

# change TEXT COMMAND...: run the command, or print what it would do.
change() {
    STEP=$1
    shift
    CHANGES=$((CHANGES + 1))
    if [ "$DRY_RUN" = yes ]; then
        say "would $STEP"
        return
    fi
    say "$STEP"
    "$@"
}

# ---- where things lie ----------------------------------------------------------------------------------------------

choose_places() {
    if [ "$MODE" = system ]; then
        PREFIX=/opt/cis490/$PART
        BIN=/usr/local/bin
        CONFIG=/etc/cis490
        STATE=/var/lib/$ACCOUNT
        UNITS=/etc/systemd/system
    else
        PREFIX=${XDG_DATA_HOME:-$HOME/.local/share}/cis490/$PART
        BIN=$HOME/.local/bin
        CONFIG=${XDG_CONFIG_HOME:-$HOME/.config}/cis490
        STATE=${XDG_STATE_HOME:-$HOME/.local/state}/cis490
        UNITS=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    fi
    ENVIRONMENT=$CONFIG/${UNIT#cis490-}.env
    RUN=$PREFIX/current/venv/bin/python
}

manage() {
    if [ "$MODE" = system ]; then systemctl "$@"; else systemctl --user "$@"; fi
}

# The command with which a person does the same.
managed() {
    if [ "$MODE" = system ]; then printf 'sudo systemctl'; else printf 'systemctl --user'; fi
}

logs() {
    if [ "$MODE" = system ]; then printf 'sudo journalctl -u %s' "$UNIT"; else printf 'journalctl --user -u %s' "$UNIT"; fi
}

# Run a command as who the service runs as, with the standard input of the caller and nothing of its environment.
as_account() {
    local clean=(env -i "PATH=/usr/local/bin:/usr/bin:/bin" "HOME=$STATE" "LANG=${LANG:-C.UTF-8}" "STATE_DIRECTORY=$STATE")
    if [ "$MODE" = system ]; then
        (cd / && runuser -u "$ACCOUNT" -- "${clean[@]}" "$@")
    else
        "${clean[@]}" "HOME=$HOME" "$@"
    fi
}

# Run a command as the service does, with its settings. These go through the environment and are never an argument,
# because one may be a token.
as_service() (
    unset -v "${!CIS490_@}"
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in CIS490_*=*) export "${line%%=*}=$(unquoted "${line#*=}")" ;; esac
    done < <(cat "$ENVIRONMENT" 2>/dev/null)
    export STATE_DIRECTORY=$STATE
    if [ "$MODE" = user ]; then exec "$@"; fi
    export HOME=$STATE
    cd / && exec runuser -u "$ACCOUNT" -- "$@"
)

# unquoted VALUE: print it without the quotes that may stand around it in a file of settings.
unquoted() {
    case $1 in
        \"*\" | \'*\') printf '%s' "${1:1:${#1}-2}" ;;
        *) printf '%s' "$1" ;;
    esac
}

demand_rights() {
    if [ "$MODE" = system ] && [ "$DRY_RUN" = no ] && [ "$(id -u)" -ne 0 ]; then
        fail 77 "installing for the whole machine needs root; run it with sudo, or give --user to install for yourself"
    fi
    if [ "$MODE" = user ] && [ "$(id -u)" -eq 0 ]; then
        fail 77 "--user is for an account of a person, and this is root; run it as that person, or without --user"
    fi
}

# demand_systemd BY_HAND
demand_systemd() {
    if [ ! -d /run/systemd/system ] || ! command -v systemctl >/dev/null; then
        fail 69 "this host is not run by systemd (a container, or WSL without it), so no service can be installed;" \
            "in the checkout, start it by hand: $1"
    fi
    if [ "$MODE" = user ] && [ -z "${XDG_RUNTIME_DIR:-}" ]; then
        fail 69 "there is no session of systemd for $(id -un) (XDG_RUNTIME_DIR is not set); log in on a console or by" \
            "ssh, not by su or sudo, and run this again"
    fi
}

# ---- files ---------------------------------------------------------------------------------------------------------

owner_is() { [ "$MODE" = user ] || [ "$(stat -c %U:%G "$1")" = "$2" ]; }

# want_folder PATH MODE OWNER
want_folder() {
    if [ -d "$1" ] && [ "$(stat -c %a "$1")" = "${2#0}" ] && owner_is "$1" "$3"; then
        return
    fi
    if [ "$MODE" = system ]; then
        change "make the folder $1 ($2 $3)" make_folder "$@"
    else
        change "make the folder $1 ($2)" make_folder "$@"
    fi
}

make_folder() {
    mkdir -p "$1"
    chmod "$2" "$1"
    if [ "$MODE" = system ]; then chown "$3" "$1"; fi
}

# want_file PATH MODE OWNER CONTENT: the file has this content. It appears whole.
want_file() {
    if [ -f "$1" ] && [ "$(stat -c %a "$1")" = "${2#0}" ] && owner_is "$1" "$3" && [ "$(cat "$1" && printf .)" = "$4." ]; then
        return
    fi
    change "write $1" write_file "$@"
}

write_file() {
    local part=$1.part
    mkdir -p "$(dirname "$1")"
    rm -f "$part"
    (umask 077 && printf '%s' "$4" >"$part")
    if [ "$MODE" = system ]; then chown "$3" "$part"; fi
    chmod "$2" "$part"
    mv -f "$part" "$1"
}

# with_setting TEXT NAME VALUE: print an environment file with this line in place of an older one; the rest stays.
with_setting() {
    local line done=no
    while IFS= read -r line; do
        case $line in
            "$2="*)
                if [ "$done" = no ]; then say "$2=$3"; fi
                done=yes
                ;;
            *) say "$line" ;;
        esac
    done <<<"${1%$'\n'}"
    if [ "$done" = no ]; then say "$2=$3"; fi
}

setting_of() {
    if [ -r "$ENVIRONMENT" ]; then sed -n "s/^$1=//p" "$ENVIRONMENT" | tail -n 1; fi
}

# drop PATH...: delete what is there.
drop() {
    local path
    for path; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            change "delete $path" rm -rf -- "$path"
        fi
    done
}

# ---- account -------------------------------------------------------------------------------------------------------

want_account() {
    if [ "$MODE" = user ] || getent passwd "$ACCOUNT" >/dev/null; then
        return
    fi
    change "add the system account $ACCOUNT" useradd --system --user-group --home-dir "$STATE" --no-create-home \
        --shell /usr/sbin/nologin "$ACCOUNT"
}

drop_account() {
    if [ "$MODE" = system ] && getent passwd "$ACCOUNT" >/dev/null; then
        change "delete the system account $ACCOUNT" userdel "$ACCOUNT"
    fi
}

# ---- code ----------------------------------------------------------------------------------------------------------

# choose_release PACKAGES: what to install unless a flag or an earlier installation says otherwise.
#
# The service runs from a copy: it may not read a checkout in a home folder, and a pull must not change what runs.
choose_release() {
    local digest
    if [ "$REQUIREMENTS" = keep ]; then
        REQUIREMENTS=$1
        if [ -r "$PREFIX/current/packages" ]; then REQUIREMENTS=$(cat "$PREFIX/current/packages"); fi
    fi
    if [ -n "$WHEELS" ]; then
        if [ ! -d "$WHEELS" ]; then fail 78 "found --wheels $WHEELS; expected a folder with the packages"; fi
        WHEELS=$(cd "$WHEELS" && pwd)
    fi
    digest=$(release_digest)
    RELEASE=$PREFIX/releases/${digest:0:16}
}

release_digest() {
    {
        (cd "$SOURCE" && find training -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
        if [ -n "$REQUIREMENTS" ]; then cat "$SOURCE/requirements/$REQUIREMENTS.txt"; fi
        "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
    } | sha256sum
}

want_release() {
    if [ ! -e "$RELEASE/complete" ]; then
        change "install the code and its packages into $RELEASE" make_release
    fi
}

make_release() {
    umask 022
    rm -rf "$RELEASE"
    mkdir -p "$RELEASE/app"
    tar -C "$SOURCE" --exclude=__pycache__ -cf - training LICENSE | tar -C "$RELEASE/app" --no-same-owner -xf -
    chmod -R u=rwX,go=rX "$RELEASE/app"
    make_environment_of_release
    "$RELEASE/venv/bin/python" - "$RELEASE/app" <<'PYTHON'
import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "cis490.pth").write_text(sys.argv[1] + "\n")
PYTHON
    "$RELEASE/venv/bin/python" -m compileall -q "$RELEASE/app"
    printf '%s\n' "$REQUIREMENTS" >"$RELEASE/packages"
    touch "$RELEASE/complete"
}

make_environment_of_release() {
    if [ -z "$REQUIREMENTS" ]; then
        "$PYTHON" -m venv --without-pip "$RELEASE/venv"
        return
    fi
    need_ensurepip
    "$PYTHON" -m venv "$RELEASE/venv"
    local index=()
    if [ -n "$WHEELS" ]; then index=(--no-index --find-links "$WHEELS"); fi
    if ! "$RELEASE/venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --require-hashes --no-deps \
        --only-binary :all: "${index[@]}" -r "$SOURCE/requirements/$REQUIREMENTS.txt"; then
        fail 69 "pip could not install requirements/$REQUIREMENTS.txt; is the package index reachable? Without one, fetch" \
            "the packages elsewhere (pip download --no-deps -d DIR -r requirements/$REQUIREMENTS.txt) and give --wheels DIR"
    fi
}

# Debian ships Python without the part that makes environments.
need_ensurepip() {
    if "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
    if ! install_packages python3-venv; then
        fail 69 "$PYTHON cannot make environments; install that and run this again: sudo apt-get install -y python3-venv"
    fi
}

# LightGBM loads the OpenMP runtime of the system, which a small Debian lacks.
want_openmp() {
    if [ "$REQUIREMENTS" != trainer ] || "$PYTHON" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; then
        return
    fi
    change "install the system package libgomp1" install_openmp
}

install_openmp() { need_system_packages "$PYTHON" || exit 69; }

choose_python() {
    if [ -n "$PYTHON" ] && ! command -v "$PYTHON" >/dev/null; then
        fail 78 "found no program $PYTHON; give --python a Python 3.11 or newer"
    fi
    # A service of the machine needs a Python of the machine; the first one of root's PATH may lie in a home folder.
    if [ "$MODE" = system ] && [ -z "$PYTHON" ]; then
        PYTHON=$(PATH=/usr/local/bin:/usr/bin:/bin find_python 2>/dev/null) || PYTHON=""
        if [ -n "$PYTHON" ]; then PYTHON=$(PATH=/usr/local/bin:/usr/bin:/bin command -v "$PYTHON"); fi
    fi
    PYTHON=$(find_python) || exit 78
    PYTHON=$(command -v "$PYTHON")
    case $MODE:$PYTHON in
        system:/home/* | system:"/root"/*) fail 78 "the service cannot read $PYTHON in a home folder; give --python another" ;;
    esac
}

# Take the new code into use. A service that runs is stopped before, so that none of it sees half of each.
want_current() {
    if [ "$(readlink "$PREFIX/current" 2>/dev/null)" = "$RELEASE" ]; then
        return
    fi
    stop_for_upgrade
    change "take $RELEASE into use" use_release
}

use_release() {
    ln -sfn "$RELEASE" "$PREFIX/current.new"
    mv -fT "$PREFIX/current.new" "$PREFIX/current"
}

drop_old_releases() {
    local release
    for release in "$PREFIX"/releases/*; do
        if [ -d "$release" ] && [ "$release" != "$RELEASE" ]; then drop "$release"; fi
    done
}

# want_command NAME MODULE: a command of this name for people.
want_command() {
    local marker="# Written by the installer of the training fleet."
    if [ -e "$BIN/$1" ] && ! grep -qxF "$marker" "$BIN/$1"; then
        say "left alone: $BIN/$1 is not this installer's; the command is $RUN -P -m $2"
        return
    fi
    want_file "$BIN/$1" 0755 root:root "#!/bin/sh
$marker
exec $RUN -P -m $2 \"\$@\"
"
}

# ---- service -------------------------------------------------------------------------------------------------------

# Print the unit. A service of a person cannot change accounts and has none of what only root may set up.
unit_text() {
    local source=$SOURCE/etc/systemd/$UNIT.service
    if [ "$MODE" = system ]; then
        cat "$source"
        return
    fi
    grep -E '^(\[|Description|Documentation|StartLimit|Type|NotifyAccess|ExecReload|ExecStopPost|Restart|WatchdogSec|KillMode|Timeout|OOMPolicy|NoNewPrivileges|UMask|LimitNOFILE)' "$source" |
        sed -e "/^\[Service\]/a EnvironmentFile=-$ENVIRONMENT\nEnvironment=STATE_DIRECTORY=$STATE\nWorkingDirectory=$STATE\nExecStart=$RUN -P -m training.fleet.$PART" \
            -e '/^\[Install\]/a WantedBy=default.target'
}

want_unit() {
    local before=$CHANGES text
    text=$(unit_text)
    want_file "$UNITS/$UNIT.service" 0644 root:root "$text"$'\n'
    if [ "$CHANGES" -ne "$before" ]; then change "tell systemd of the unit" manage daemon-reload; fi
    if ! manage is-enabled -q "$UNIT" 2>/dev/null; then
        change "have $UNIT started at every boot" manage enable -q "$UNIT"
    fi
}

is_running() { manage is-active -q "$UNIT" 2>/dev/null; }

stop_for_upgrade() {
    if is_running; then
        change "stop $UNIT in order: $STOPS" manage stop "$UNIT"
    fi
}

# want_running SINCE: start it, or start it again when something changed since that count of changes.
want_running() {
    if is_running && [ "$CHANGES" -eq "$1" ]; then
        return
    fi
    manage reset-failed "$UNIT" 2>/dev/null || true
    change "start $UNIT" manage restart "$UNIT"
}

# wait_for_status PATTERN SECONDS: wait until the service says so of itself.
wait_for_status() {
    local end=$((SECONDS + $2))
    while [ "$SECONDS" -lt "$end" ]; do
        # shellcheck disable=SC2254 # the pattern is one
        case $(manage show "$UNIT" -p StatusText --value) in $1) return 0 ;; esac
        if [ "$(manage show "$UNIT" -p ActiveState --value)" = failed ]; then return 1; fi
        sleep 0.3
    done
    return 1
}

stay_after_logout() {
    if [ "$MODE" = system ] || [ "$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)" = yes ]; then
        return
    fi
    if [ "$DRY_RUN" = yes ]; then
        change "let the services of $(id -un) run without a login (loginctl enable-linger)" true
    elif ! loginctl enable-linger 2>/dev/null; then
        say "it stops when you log out; to let it run, have an administrator run: sudo loginctl enable-linger $(id -un)"
    fi
}

# Run the checks, on what the service has been told.
consult_doctor() {
    if [ "$DRY_RUN" = no ]; then as_service "$RUN" -P -m "training.fleet.$PART" doctor || true; fi
}

drop_service() {
    if [ -e "$UNITS/$UNIT.service" ]; then
        if is_running; then change "stop $UNIT in order: $STOPS" manage stop "$UNIT"; fi
        change "no longer start $UNIT at boot" manage disable -q "$UNIT"
        drop "$UNITS/$UNIT.service"
        change "tell systemd of it" manage daemon-reload
    fi
}

# Say that nothing was to be done, or that a dry run ends here.
sum_up() {
    if [ "$CHANGES" -eq 0 ]; then
        say "nothing to change"
    elif [ "$DRY_RUN" = yes ]; then
        say "a dry run: $CHANGES changes named, none made"
    fi
}
