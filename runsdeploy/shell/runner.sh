# The runner: runs the steps of one segment, one after the other, detached from the controller.
#
# Output of the steps and events (see event_line.py) go to the spool, which is our stdout. Each start and end of a step
# goes to the journal before the next action. Requests of the controller are files beside it: `stop` (start no further
# step), `kill` (end the running one too); `attached.*` records that a controller is attached.
#
# shellcheck disable=SC2154 # RUNS_segment_* and RUNS_step_*: segment.sh and meta.sh, made by parameters.py
# shellcheck disable=SC2034 # read by the files that `load` reads

RUNS_base=$1 RUNS_state=$2 RUNS_session=$3 RUNS_here=$4
RUNS_run=$RUNS_here/run
printf '%s\n' "$$" >"$RUNS_here/pid"
# bash's message about a killed step (`line 135: 4711 Killed ( cd …`) is about our lines, not the operator's.
exec 2>>"$RUNS_here/errors"
IFS= read -r RUNS_nonce <"$RUNS_here/nonce"

# load FILE: the last line of each file sets RUNS_end (parameters.py). Without the whole of it nothing may run.
load() {
    local RUNS_end=''
    # shellcheck source=/dev/null
    . "$RUNS_run/$1"
    [[ $RUNS_end != "$1" ]] || return 0
    printf '\036%s refuse state %s\n' "$RUNS_nonce" "cannot%20read%20the%20session%27s%20file%20%60$1%60"
    exit 1
}
for RUNS_part in segment.sh runs.sh spool.sh lock.sh sweep.sh run_step.sh silence.sh locate.sh; do load "$RUNS_part"; done

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
    sweep "$RUNS_session"
    [[ -z ${RUNS_locked-} ]] || : >"$RUNS_state/holder"
    end_spool "$@"
    prune
    exit 0
}

finish() {
    local outcome=$1 continues=yes
    [[ $outcome == ok || ($outcome == failed && $RUNS_segment_keep_going == yes) ]] || continues=no
    if [[ $continues == yes ]] && ! return_files; then outcome=failed continues=$RUNS_segment_keep_going; fi
    # Before the end: the controller may start the next segment as soon as it receives that.
    if [[ $continues == no || $RUNS_segment_last == yes ]]; then
        sweep "$RUNS_session" "$RUNS_here/returned"
    else
        # The next segment has its own.
        rm -rf "$RUNS_run"
    fi
    if [[ -e $RUNS_here/returned || ($continues == yes && $RUNS_segment_last == no) ]]; then expect_controller; fi
    write_journal ${RUNS_ended:+"$RUNS_ended"} "finish $outcome"
    # Not before: on a slow disk the journal may take long, and the holder of the lock must have a name.
    : >"$RUNS_state/holder"
    end_spool "finish $outcome"
    prune
}

# Record that the controller is expected to come back, for the next segment or for the files for the other side: TIME
# SECONDS. Each of its lines renews the time; without one for so many seconds the session is over.
expect_controller() {
    local lapse=$RUNS_segment_patience
    # Between two segments the controller connects anew, and sends its first line 3 s later.
    ((lapse >= 20)) || lapse=20
    time_of_life
    printf '%s %s\n' "$RUNS_life_text" "$lapse" >"$RUNS_session/expected.new" &&
        mv -f "$RUNS_session/expected.new" "$RUNS_session/expected"
}

# Remove sessions that are over: after 7 days, or more than 20.
prune() {
    local state name kept
    find_states
    for state in "${RUNS_states[@]}"; do
        cd "$state/sessions" || continue
        kept=1
        # shellcheck disable=SC2012 # the names are ours: hexadecimal
        ls -1t | while read -r name; do
            goes_on "$PWD/$name" || ((++kept <= 20)) || rm -rf "./$name"
        done
        find . -maxdepth 1 -name '[0-9a-f]*' -mtime +7 | while read -r name; do
            goes_on "$PWD/${name#./}" || rm -rf "$name"
        done
    done
}

# --- before the first step -----------------------------------------------------------------------

# Refuse a target that does not have the expected facts; the controller adds the file and the repair to the message.
check_facts() {
    local found
    [[ -n $RUNS_segment_expected_facts ]] || return 0
    # shellcheck source-path=SCRIPTDIR source=facts.sh
    found=$(. "$RUNS_run/facts.sh" && contradictions "$RUNS_segment_expected_facts" 9>&- 8>&-) ||
        found="${found:+$found, and }\`uname\` says nothing on the target"
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

# Copy the files for the other side to `returned`, each as a `file` event and its bytes, and announce them. Not into the
# spool: what is there is shown, to whoever deploys next too, and stays for days.
return_files() {
    local file path mode
    ((${#RUNS_segment_returns[@]})) || return 0
    for file in "${RUNS_segment_returns[@]}"; do
        # The controller names a file that no step made.
        RUNS_is_plain "$RUNS_session/files/shared" "$file" || continue
        path=$RUNS_session/files/shared/$file
        if [[ -x $path ]]; then mode=0755; else mode=0644; fi
        RUNS_encode "$file"
        if ! { emit "file $RUNS_encoded $mode $(($(wc -c <"$path"))) $(RUNS_sha256 <"$path")" && cat "$path"; } \
            >>"$RUNS_here/returned"; then
            rm -f "$RUNS_here/returned"
            emit_text note "cannot copy \`$path\` to \`$RUNS_here/returned\` for the other side: $(free_space)"
            return 1
        fi
    done
    [[ ! -e $RUNS_here/returned ]] || emit "returned $(($(wc -c <"$RUNS_here/returned")))"
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
    sync "$RUNS_here/nonce" "$RUNS_here/boot" "$RUNS_here/owner" "$RUNS_here/started"
    [[ $RUNS_segment_detach == no ]] || : >"$RUNS_here/detached"
    # From now on it is the runner that shows that the session goes on.
    [[ ! -e $RUNS_session/expected ]] || rm -f "$RUNS_session/expected"
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
