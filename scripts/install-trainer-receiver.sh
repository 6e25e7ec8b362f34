#!/usr/bin/env bash
# Install the receiver of a training fleet on this machine: keys and tokens, settings, service. Run it again with newer
# code to upgrade; --help names the flags. docs/guides/install-the-receiver.md tells the whole story.
set -Eeuo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/install-trainer-receiver.sh [--listen ADDR:PORT --host-names NAME,...] [choices]
       scripts/install-trainer-receiver.sh --uninstall [--purge] [--user]

Without --listen it serves this machine alone. It may be run again at any moment; what is set stays unless a flag says
otherwise, and the queue and a manifest that is there are never overwritten.

  --listen ADDR:PORT   address to listen on; beyond this machine https and client certificates are used
  --host-names NAMES   names and addresses that other hosts reach it by, separated by commas [this machine's name]
  --python PROGRAM     the Python to use, 3.11 or newer [the first one found]
  --wheels DIR         take packages from this folder, for a machine without a package index
  --user               install for the account that runs this, without root
  --dry-run            print every change and make none
  --uninstall          remove service and code; queue, artifacts, keys and settings stay
  --purge              with --uninstall: remove these as well
TEXT
}

choose() {
    # shellcheck disable=SC2034 # read by installing.sh
    PART=receiver UNIT=cis490-trainer-receiver ACCOUNT=cis490 WHEELS="" REQUIREMENTS=core
    STOPS="requests under way are answered, and jobs train on"
    MODE=system DRY_RUN=no UNINSTALL=no PURGE=no PYTHON=${PYTHON:-}
    LISTEN="" HOST_NAMES=""
    while [ $# -gt 0 ]; do
        case $1 in
            --listen)
                LISTEN=$(value "$@")
                shift
                ;;
            --host-names)
                HOST_NAMES+=${HOST_NAMES:+,}$(value "$@")
                shift
                ;;
            --python)
                PYTHON=$(value "$@")
                shift
                ;;
            --wheels)
                # shellcheck disable=SC2034 # read by installing.sh
                WHEELS=$(value "$@")
                shift
                ;;
            --user) MODE=user ;;
            --dry-run) DRY_RUN=yes ;;
            --uninstall) UNINSTALL=yes ;;
            --purge) PURGE=yes ;;
            -h | --help) usage && exit 0 ;;
            *) refuse "found $1, which is no flag of this" ;;
        esac
        shift
    done
    if [ "$PURGE" = yes ] && [ "$UNINSTALL" = no ]; then refuse "--purge belongs to --uninstall"; fi
}

value() {
    if [ $# -lt 2 ] || [ -z "$2" ]; then refuse "found $1 without a value"; fi
    printf '%s' "$2"
}

refuse() {
    complain "$1; --help names the flags"
    exit 2
}

# No job yet: what the example trains is not what this fleet shall train.
FIRST_MANIFEST='# What the fleet trains; training_manifest.toml.example shows the whole form.

[manifest]
schema = 1

[hosts.default]               # any enrolled host may take any job
'

install_receiver() {
    local before mode=0750
    demand_systemd "python3 -m training.fleet.receiver --help"
    choose_python
    choose_release core
    want_account
    if [ "$MODE" = user ]; then mode=0700; fi
    want_folder "$STATE" "$mode" "$ACCOUNT:$ACCOUNT"
    want_folder "$CONFIG" "$mode" "root:$ACCOUNT"
    before=$CHANGES
    want_release
    want_keys
    want_settings
    want_manifest
    want_current
    want_command cis490-trainer-receiver training.fleet.receiver
    want_command cis490-jobs training.fleet.cli
    want_unit
    stay_after_logout
    want_running "$before"
    drop_old_releases
}

# Make what is missing of keys, certificates and tokens. What it prints are the settings that go with them.
want_keys() {
    local flags=(--folder "$STATE/tls")
    KEYS=""
    if [ -n "$HOST_NAMES" ]; then flags+=(--host-names "$HOST_NAMES"); fi
    if [ "$DRY_RUN" = yes ]; then
        if [ ! -e "$STATE/tls/operator.token" ]; then change "make keys and tokens in $STATE/tls" true; fi
        return
    fi
    STEP="the keys in $STATE/tls"
    KEYS=$(as_account "$RELEASE/venv/bin/python" -P -m training.fleet.receiver init "${flags[@]}")
    case $KEYS in
        *"# made "*) change "make keys and tokens in $STATE/tls" true ;;
        *"# the certificate does not name "*)
            change "issue the certificate anew for $HOST_NAMES" true
            KEYS=$(as_account "$RELEASE/venv/bin/python" -P -m training.fleet.receiver init --renew "${flags[@]}")
            ;;
    esac
}

want_settings() {
    local text line
    text="# Settings of the receiver; docs/reference/settings.md lists them."$'\n'
    if [ -e "$ENVIRONMENT" ]; then
        text=$(cat "$ENVIRONMENT")$'\n'
    elif [ "$MODE" = user ]; then
        text+="CIS490_MANIFEST=$CONFIG/training_manifest.toml"$'\n'
    fi
    if [ ! -e "$ENVIRONMENT" ] || [ -n "$LISTEN$HOST_NAMES" ]; then
        LISTEN=${LISTEN:-$(setting_of CIS490_LISTEN_ADDR)}
        while IFS= read -r line; do
            if belongs "$line"; then text=$(with_setting "$text" "${line%%=*}" "${line#*=}")$'\n'; fi
        done <<<"$KEYS"
        if [ -n "$LISTEN" ]; then text=$(with_setting "$text" CIS490_LISTEN_ADDR "$LISTEN")$'\n'; fi
    fi
    want_file "$ENVIRONMENT" 0640 "root:$ACCOUNT" "$text"
}

# Say whether a line of the keys' settings belongs to what is asked for: on this machine alone only the tokens.
belongs() {
    case $LISTEN:$1 in
        *:CIS490_OPERATOR_TOKEN_FILE=*) return 0 ;;
        "":* | 127.*:* | localhost:* | "[::1]"*) return 1 ;;
        *:CIS490_*) return 0 ;;
    esac
    return 1
}

want_manifest() {
    local manifest
    manifest=$(setting_of CIS490_MANIFEST)
    manifest=${manifest:-$CONFIG/training_manifest.toml}
    want_file "$manifest.example" 0640 "root:$ACCOUNT" "$(cat "$SOURCE/etc/training_manifest.toml.example")"$'\n'
    if [ ! -e "$manifest" ]; then want_file "$manifest" 0640 "root:$ACCOUNT" "$FIRST_MANIFEST"; fi
    MANIFEST=$manifest
}

report() {
    sum_up
    if [ "$DRY_RUN" = yes ]; then return; fi
    if ! wait_for_status "listening on *" 60; then
        manage --no-pager -n 15 status "$UNIT" || true
        fail 1 "the receiver is installed and does not answer yet; see what it says: $(logs)"
    fi
    consult_doctor
    say ""
    say "The receiver is $(manage show "$UNIT" -p StatusText --value)."
    say "  manifest:   $MANIFEST, then $(managed) reload $UNIT"
    say "  settings:   $ENVIRONMENT, then $(managed) restart $UNIT"
    say "  logs:       $(logs) -f"
    say "  a host:     $(operators) cis490-jobs invite HOST"
    say "  the fleet:  $(operators) cis490-jobs status"
    say "  upgrade:    run this script from newer code"
    say "  uninstall:  $0 --uninstall$([ "$MODE" = system ] || printf ' --user')"
}

# Print how an operator on this machine names receiver and token to `cis490-jobs`: by files alone.
operators() {
    local names listen
    if [ "$MODE" = system ]; then printf 'sudo -u %s ' "$ACCOUNT"; fi
    printf 'env CIS490_OPERATOR_TOKEN_FILE=%s' "$STATE/tls/operator.token"
    listen=$(setting_of CIS490_LISTEN_ADDR)
    listen=${listen:-127.0.0.1:8445}
    if [ -n "$(setting_of CIS490_TLS_CERTIFICATE)" ]; then
        names=$(setting_of CIS490_HOST_NAMES)
        names=${names:-localhost}
        printf ' CIS490_READ_TOKEN_FILE=%s CIS490_CA_FILE=%s' "$STATE/tls/read.token" "$STATE/tls/ca.pem"
        printf ' CIS490_RECEIVER=https://%s:%s' "${names%%,*}" "${listen##*:}"
    else
        printf ' CIS490_RECEIVER=http://%s' "$listen"
    fi
}

uninstall_receiver() {
    demand_systemd "nothing is installed here"
    drop_service
    drop "$BIN/cis490-trainer-receiver" "$BIN/cis490-jobs" "$PREFIX"
    if [ "$PURGE" = yes ]; then
        drop "$STATE"/queue.db* "$STATE"/{manifest.applied.toml,store,incoming,index.jsonl,backups,tls}
        drop "$ENVIRONMENT" "$CONFIG"/training_manifest.toml{,.example}
        if [ "$MODE" = system ]; then drop "$STATE"; fi
        drop_account
    fi
    sum_up
    local left
    for left in "$STATE" "$CONFIG"; do
        if [ -e "$left" ]; then say "left: $left"; fi
    done
}

main() {
    SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    if [ ! -r "$SOURCE/scripts/installing.sh" ]; then
        printf '%s: this is a part of the project; clone it and run the script in the clone\n' "$(basename "$0")" >&2
        exit 78
    fi
    # shellcheck source=scripts/environment.sh
    . "$SOURCE/scripts/environment.sh"
    # shellcheck source=scripts/installing.sh
    . "$SOURCE/scripts/installing.sh"
    choose "$@"
    trap tell_where_it_stopped ERR
    choose_places
    demand_rights
    if [ "$UNINSTALL" = yes ]; then
        uninstall_receiver
    else
        install_receiver
        report
    fi
}

# A download that was cut off has no closing brace, and runs nothing.
{ main "$@"; exit; }
