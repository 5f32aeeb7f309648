# The runner: runs the steps of one segment, one after the other, detached from the controller.
#
# Output of the steps and events (see event_line.py) go to the spool, which is our stdout. Each start and end of a step
# goes to the journal before the next action. Requests of the controller are files beside it: `stop` (start no further
# step), `kill` (end the running one too); `attached.*` records that a controller is attached.
#
# shellcheck disable=SC2154 # RUNS_segment_* and RUNS_step_*: segment.sh and meta.sh, made by parameters.py

RUNS_base=$1 RUNS_state=$2 RUNS_session=$3 RUNS_here=$4
RUNS_run=$RUNS_here/run
# bash's message about a killed step (`line 135: 4711 Killed ( cd …`) is about our lines, not the operator's.
exec 2>>"$RUNS_here/errors"
IFS= read -r RUNS_nonce <"$RUNS_here/nonce"
# shellcheck source=/dev/null
. "$RUNS_run/segment.sh"
# shellcheck source-path=SCRIPTDIR source=runs.sh
. "$RUNS_run/runs.sh"
# shellcheck source-path=SCRIPTDIR source=spool.sh
. "$RUNS_run/spool.sh"
# shellcheck source-path=SCRIPTDIR source=lock.sh
. "$RUNS_run/lock.sh"
# shellcheck source-path=SCRIPTDIR source=run_step.sh
. "$RUNS_run/run_step.sh"

# write_journal LINE...: on the disk before it returns: after a power cut no step may have run without an entry.
write_journal() {
    printf '%s\n' "$@" >>"$RUNS_here/journal" && sync "$RUNS_here/journal" && return
    free_reserve && printf '%s\n' "$@" >>"$RUNS_here/journal" && sync "$RUNS_here/journal"
}

# Set RUNS_now to hundredths of a second of a clock that is never set, where there is one.
clock() {
    RUNS_now=$SECONDS.00
    [[ ! -r /proc/uptime ]] || read -r RUNS_now _ </proc/uptime
    RUNS_now=${RUNS_now/./}
}

# end_before_steps EVENT...: end without running a step; the shipped files are removed before the event.
end_before_steps() {
    rm -rf "$RUNS_session/files" "$RUNS_run"
    [[ -z ${RUNS_locked-} ]] || : >"$RUNS_state/holder"
    end_spool "$@"
    prune
    exit 0
}

# Remove the files of the session; only root can remove those of a step that ran as root.
remove_files() {
    local -a remains=("$RUNS_session/files" "$RUNS_session"/segment*/{run,payload})
    rm -rf "${remains[@]}" 2>/dev/null && return
    [[ $RUNS_segment_root == no ]] || sudo -n -- rm -rf "${remains[@]}"
}

finish() {
    emit_files "$1"
    # Before the end: the controller may start the next segment as soon as it receives that.
    if [[ $RUNS_segment_last == yes || $1 == interrupted || ($1 == failed && $RUNS_segment_keep_going == no) ]]; then
        remove_files
    fi
    write_journal ${RUNS_ended:+"$RUNS_ended"} "finish $1"
    # Not before: on a slow disk the journal may take long, and the holder of the lock must have a name.
    : >"$RUNS_state/holder"
    end_spool "finish $1"
    prune
}

# Remove sessions after 7 days, or more than 20; files that a killed controller left between two segments after 1 day.
prune() {
    local name
    cd "$RUNS_state/sessions" || return
    # shellcheck disable=SC2012 # the names are ours: hexadecimal
    {
        ls -1t | tail -n +21
        find . -maxdepth 1 -name '[0-9a-f]*' -mtime +7
    } | while read -r name; do is_over "${name#./}" && rm -rf "./${name#./}"; done
    find . -maxdepth 3 \( -name files -o -path './*/segment*/run' \) -mtime +0 -prune | while read -r name; do
        is_over "${name:2:32}" && rm -rf "$name"
    done
}

# is_over SESSION: whether it is not ours and none of its runners lives.
is_over() {
    local each
    [[ $PWD/$1 != "$RUNS_session" ]] || return
    for each in "$1"*/segment*/alive; do
        [[ ! -e $each ]] || ! command -v flock >/dev/null || flock -n "$each" true || return
    done
}

# --- before the first step -----------------------------------------------------------------------

# Refuse a target that does not have the expected facts; the controller adds the file and the repair to the message.
check_facts() {
    local found
    [[ -n $RUNS_segment_expected_facts ]] || return 0
    # shellcheck source-path=SCRIPTDIR source=facts.sh
    found=$(. "$RUNS_run/facts.sh" && contradictions "$RUNS_segment_expected_facts" 9>&- 8>&-)
    [[ -n $found ]] || return 0
    RUNS_encode "$found"
    end_before_steps refuse facts "$RUNS_encoded"
}

# Make the directories for the steps' markers, by one process for all of them.
make_marker_directories() {
    local name
    local -a folders=()
    for name in ${RUNS_segment_marking[@]+"${RUNS_segment_marking[@]}"}; do
        RUNS_name "$name"
        [[ -d $RUNS_state/markers/$RUNS_encoded ]] || folders+=("$RUNS_state/markers/$RUNS_encoded")
    done
    [[ ${#folders[@]} == 0 ]] || { mkdir -p "${folders[@]}" && sync "$RUNS_state/markers" "$RUNS_state"; } 2>/dev/null
}

# Refuse before the first step if a step needs root and the login user cannot become root, or root's markers are not to be
# trusted: root judges them for itself.
check_sudo() {
    local error state=/var/lib/runsdeploy${RUNS_state#"$RUNS_base"}
    [[ $RUNS_segment_root == yes && $EUID -ne 0 ]] || return 0
    if ! command -v sudo >/dev/null; then
        error="there is no \`sudo\`"
    elif error=$(sudo -n -- env sh -c '. "$1" && find_problem /var/lib/runsdeploy "$2" && find_marker_problem "$2"
        [ -z "$problem" ] || printf "\036%s" "$problem"' sh "$RUNS_run/trust.sh" "$state" 2>&1 </dev/null 9>&- 8>&-); then
        [[ $error == *$'\036'* ]] || return 0
        RUNS_encode "${error##*$'\036'}"
        end_before_steps refuse state "$RUNS_encoded"
    fi
    RUNS_encode "\`conf root\` needs root, which user \`$(id -un)\` cannot become by \`sudo -n\`: ${error//$'\n'/ }"
    end_before_steps refuse sudo "$RUNS_encoded"
}

# emit_files OUTCOME: send the files for the other side, each as a `file` event and its bytes.
emit_files() {
    local file path mode
    [[ $1 != interrupted ]] || return 0
    for file in ${RUNS_segment_returns[@]+"${RUNS_segment_returns[@]}"}; do
        path=$RUNS_session/files/shared/$file
        [[ -f $path && ! -L $path ]] || continue
        if [[ -x $path ]]; then mode=0755; else mode=0644; fi
        RUNS_encode "$file"
        emit "file $RUNS_encoded $mode $(($(wc -c <"$path"))) $(RUNS_sha256 <"$path")"
        cat "$path"
    done
}

run_segment() {
    local number outcome=ok
    # Steps write their status to it; opened for writing too, or reading would not wait.
    if ! { mkfifo -m 600 "$RUNS_here/ends" && exec 7<>"$RUNS_here/ends" && rm -f "$RUNS_here/ends"; }; then
        RUNS_encode "cannot make \`$RUNS_here/ends\`: $(free_space)"
        end_before_steps refuse space "$RUNS_encoded"
    fi
    printf '%s\n' "$RUNS_boot" >"$RUNS_here/boot"
    printf '%s %s\n' "$RUNS_segment_by" "$RUNS_since" >"$RUNS_here/owner"
    # The next session reads these files after a power cut.
    sync "$RUNS_here/nonce" "$RUNS_here/boot" "$RUNS_here/owner"
    [[ $RUNS_segment_detach == no ]] || : >"$RUNS_here/detached"
    lock
    make_reserve
    report_earlier_sessions
    check_sudo
    check_facts
    make_marker_directories
    for number in "${RUNS_segment_steps[@]}"; do
        await_controller
        if [[ -e $RUNS_here/stop || -e $RUNS_here/kill ]] || ! is_attached "$RUNS_here"; then
            outcome=interrupted
            break
        fi
        run_step "$number"
        case $RUNS_outcome in
        interrupted) outcome=interrupted && break ;;
        failed | killed | timeout) outcome=failed && [[ $RUNS_segment_keep_going == yes ]] || break ;;
        esac
    done
    finish "$outcome"
}

RUNS_ended='' RUNS_holes='' RUNS_boot=-
[[ ! -r /proc/sys/kernel/random/boot_id ]] || read -r RUNS_boot </proc/sys/kernel/random/boot_id
TZ=UTC0 printf -v RUNS_since '%(%Y-%m-%dT%H:%M:%SZ)T' -1
open_spool
run_segment
