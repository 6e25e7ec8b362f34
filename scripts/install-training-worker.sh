#!/usr/bin/env bash
# Install a training worker on this host, enrol it, start it, and wait until the receiver lists it. Run it again with
# newer code to upgrade; --help names the flags. docs/guides/add-a-linux-host.md tells the whole story.
set -Eeuo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/install-training-worker.sh --receiver URL --host NAME --code CODE [--ca-sha256 HEX] [choices]
       scripts/install-training-worker.sh [choices]             upgrade, repair or change what is installed
       scripts/install-training-worker.sh --uninstall [--purge] [--user]

An operator's `cis490-jobs invite HOST` prints the first form. It may be run again at any moment.

  --receiver URL       address of the receiver
  --host NAME          name to enrol under, the one of the invite [this machine's name]
  --code CODE          one-time code; left out, it comes from $CIS490_INVITE or is asked for
  --ca-sha256 HEX      fingerprint of the receiver's certificate authority
  --dataset NAME=DIR   a dataset of this host; repeat it for more, the first is also the default
  --without-trainer    leave out the packages of the project's own trainer (for trainers of another kind);
                       later runs leave them out as well, until --with-trainer
  --with-trainer       install them [the default at first]
  --python PROGRAM     the Python to use, 3.11 or newer [the first one found]
  --wheels DIR         take packages from this folder, for a host without a package index
  --user               install for the account that runs this, without root
  --dry-run            print every change and make none
  --uninstall          remove service, code and secret; runs and settings stay
  --purge              with --uninstall: remove these as well
TEXT
}

choose() {
    PART=worker UNIT=cis490-training-worker ACCOUNT=cis490-worker
    STOPS="a running job is finished or given back"
    MODE=system DRY_RUN=no UNINSTALL=no PURGE=no PYTHON=${PYTHON:-} WHEELS="" REQUIREMENTS=keep
    RECEIVER="" NAME="" CODE=${CIS490_INVITE:-} FINGERPRINT="" DATASETS=""
    unset CIS490_INVITE
    while [ $# -gt 0 ]; do
        case $1 in
            --receiver)
                RECEIVER=$(value "$@")
                shift
                ;;
            --host)
                NAME=$(value "$@")
                shift
                ;;
            --code)
                CODE=$(value "$@")
                shift
                ;;
            --ca-sha256)
                FINGERPRINT=$(value "$@")
                shift
                ;;
            --dataset)
                DATASETS+=${DATASETS:+,}$(value "$@")
                shift
                ;;
            --python)
                PYTHON=$(value "$@")
                shift
                ;;
            --wheels)
                WHEELS=$(value "$@")
                shift
                ;;
            --without-trainer) REQUIREMENTS="" ;;
            --with-trainer) REQUIREMENTS=trainer ;;
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

judge() {
    local item folder
    SETTINGS=$STATE/worker.toml
    if [ -z "$RECEIVER" ] && ! is_enrolled; then
        fail 2 "this host is not enrolled and no --receiver is given; have an operator run \`cis490-jobs invite HOST\`" \
            "and run the command it prints"
    fi
    for item in ${DATASETS//,/ }; do
        folder=${item#*=}
        if [ "$folder" = "$item" ] || [ ! -r "$folder/dataset.toml" ]; then
            fail 78 "found --dataset $item; expected NAME=DIR, and the file dataset.toml in DIR"
        fi
        case $MODE:$(cd "$folder" && pwd -P)/ in
            system:/home/* | system:"/root"/* | system:/run/user/* | system:/tmp/*)
                fail 78 "the service cannot see $folder, because it runs without home and temporary folders; move the" \
                    "dataset to /srv, say, or give --user"
                ;;
        esac
    done
}

# An uninstalled host keeps the settings from enrolling, but not the secret that they name.
is_enrolled() {
    [ -e "$SETTINGS" ] && { [ -e "$STATE/worker.secret" ] || ! grep -qF "$STATE/worker.secret" "$SETTINGS"; }
}

install_worker() {
    local before
    demand_systemd "python3 -m training.fleet.worker enrol --help, then python3 -m training.fleet.worker"
    choose_python
    choose_release trainer
    judge
    want_openmp
    want_account
    want_folder "$STATE" 0700 "$ACCOUNT:$ACCOUNT"
    if [ ! -d "$CONFIG" ]; then want_folder "$CONFIG" "$([ "$MODE" = system ] && printf 0750 || printf 0700)" root:root; fi
    before=$CHANGES
    want_settings
    want_release
    if [ "$CHANGES" -ne "$before" ]; then examine_host; fi
    want_enrolled
    want_current
    want_command cis490-training-worker training.fleet.worker
    want_unit
    stay_after_logout
    want_running "$before"
    drop_old_releases
}

want_settings() {
    local text
    text="# Settings of the training worker; docs/guides/worker.md lists them. Who it is stands in $SETTINGS."$'\n'
    if [ -e "$ENVIRONMENT" ]; then text=$(cat "$ENVIRONMENT")$'\n'; fi
    if [ -n "$DATASETS" ]; then text=$(with_setting "$text" CIS490_DATASET "$DATASETS")$'\n'; fi
    want_file "$ENVIRONMENT" 0640 root:root "$text"
}

# See that the host can train before it takes the place of an older version, or a job.
examine_host() {
    local flags=() datasets
    datasets=$(setting_of CIS490_DATASET)
    if [ -n "${DATASETS:-$datasets}" ]; then flags=(--dataset "${DATASETS:-$datasets}"); fi
    # Who it is will be said by the enrolment that follows: what an earlier one left may be gone or revoked.
    if [ -n "$RECEIVER" ]; then flags+=(--config /dev/null); fi
    change "have the host examine itself" true
    if [ "$DRY_RUN" = yes ]; then return; fi
    if ! as_account "$RELEASE/venv/bin/python" -P -m training.fleet.worker --self-test "${flags[@]}" </dev/null; then
        if [ -n "$REQUIREMENTS" ]; then
            fail 1 "the host cannot train yet: correct what FAIL says and run the same command again; nothing runs so far"
        fi
        say "it was installed without the project's own trainer, so only trainers of another kind can run here"
    fi
}

want_enrolled() {
    local flags=(--receiver "$RECEIVER") said
    if [ -z "$RECEIVER" ]; then return; fi
    if [ -n "$NAME" ]; then flags+=(--host "$NAME"); fi
    if [ -n "$FINGERPRINT" ]; then flags+=(--ca-sha256 "$FINGERPRINT"); fi
    if [ "$DRY_RUN" = yes ]; then
        if ! is_enrolled; then change "enrol this host at $RECEIVER" true; fi
        return
    fi
    STEP="the enrolment at $RECEIVER"
    if ! said=$(hand_over_code | as_account "$RELEASE/venv/bin/python" -P -m training.fleet.worker enrol "${flags[@]}"); then
        fail 77 "this host is not enrolled, see above; run the same command again with a code that is good"
    fi
    say "${said%%$'\n'*}"
    case $said in enrolled*) CHANGES=$((CHANGES + 1)) ;; esac
}

# The code goes through a pipe: no process that is started here shows it, nor has it in its environment.
hand_over_code() {
    if [ -n "$CODE" ]; then
        printf '%s\n' "$CODE"
    elif ! is_enrolled && [ -t 0 ]; then
        local typed
        read -rsp "One-time code: " typed </dev/tty && printf '%s\n' "$typed"
    fi
}

report() {
    sum_up
    if [ "$DRY_RUN" = yes ]; then return; fi
    if ! wait_for_status "listed at *" 90; then
        manage --no-pager -n 15 status "$UNIT" || true
        fail 1 "the worker is installed and the receiver does not list it yet; see what it says: $(logs)"
    fi
    consult_doctor
    say ""
    say "This host works for the fleet: $(manage show "$UNIT" -p StatusText --value) as $(name_of_host)."
    say "  logs:       $(logs) -f"
    say "  state:      $(managed) status $UNIT"
    say "  settings:   $ENVIRONMENT, then $(managed) restart $UNIT"
    say "  upgrade:    run this script from newer code"
    say "  uninstall:  $0 --uninstall$([ "$MODE" = system ] || printf ' --user')"
}

name_of_host() { sed -n 's/^name = "\(.*\)"$/\1/p' "$SETTINGS"; }

uninstall_worker() {
    demand_systemd "nothing is installed here"
    drop_service
    drop "$BIN/cis490-training-worker" "$PREFIX"
    drop "$STATE"/worker.secret{,.new,.next} "$STATE/worker.pem"
    if [ "$PURGE" = yes ]; then
        drop "$STATE/worker" "$STATE/worker.toml" "$STATE/ca.pem" "$ENVIRONMENT"
        if [ "$MODE" = system ]; then drop "$STATE"; fi
        drop_account
    fi
    sum_up
    local left
    for left in "$STATE" "$ENVIRONMENT"; do
        if [ -e "$left" ]; then say "left: $left"; fi
    done
    say "datasets were not touched; an operator ends the identity: cis490-jobs worker revoke HOST"
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
        uninstall_worker
    else
        install_worker
        report
    fi
}

# A download that was cut off has no closing brace, and runs nothing.
{ main "$@"; exit; }
