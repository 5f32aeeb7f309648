# The lock of the state directory, the check for an attached controller, and the report of earlier sessions.
# Part of runner.sh.
#
# shellcheck disable=SC2154,SC2034 # RUNS_segment_*: segment.sh, made by parameters.py; the rest: runner.sh, or for it

# Take the lock, or wait for it and give up after the time limit. The kernel releases it when this process ends.
lock() {
    local limit=$RUNS_segment_wait began nameless=0
    if ! command -v flock >/dev/null; then
        emit_text note "the target has no \`flock\`, so two sessions may run at once"
        return
    fi
    if ! { true >>"$RUNS_state/lock"; } 2>/dev/null; then
        RUNS_encode "cannot write \`$RUNS_state/lock\`: $(free_space)"
        end_before_steps refuse space "$RUNS_encoded"
    fi
    exec 9>>"$RUNS_state/lock"
    clock
    began=$RUNS_now
    while held_by_operator || ! flock -n 9; do
        read_holder
        # For a moment after taking the lock, and before releasing it, a session has no name in `holder`.
        if [[ $RUNS_held == 'session - '* ]] && ((nameless++ < 10)); then
            pause
            continue
        fi
        # An unattended session ends within its patience; one of our own operator is stopped at once.
        if [[ -n $RUNS_holding ]] && ! is_attached "$RUNS_holding"; then
            ((limit >= RUNS_segment_patience)) || limit=$RUNS_segment_patience
            [[ $RUNS_held_by != "$RUNS_segment_by" ]] || : >"$RUNS_holding/stop"
        fi
        clock
        ((10#$RUNS_now - 10#$began < limit * 100)) || end_before_steps "locked $RUNS_held"
        [[ -n ${RUNS_waiting-} ]] || emit "waiting $RUNS_held"
        RUNS_waiting=yes
        if [[ -e $RUNS_here/stop || -e $RUNS_here/kill ]] || ! is_attached "$RUNS_here"; then
            end_before_steps finish interrupted
        fi
        pause
    done
    write_holder ''
}

# Whether another operator holds the target; sets RUNS_held.
held_by_operator() {
    local by since reason
    [[ -e $RUNS_state/hold ]] && read -r by since reason <"$RUNS_state/hold" || return
    if [[ $by == "$RUNS_segment_by" ]]; then
        [[ -n ${RUNS_hold_noted-} ]] || emit "note you%20hold%20this%20host:%20$reason"
        RUNS_hold_noted=yes
        return 1
    fi
    RUNS_held="operator $by $since $reason -"
}

# write_holder STEP: record the holder of the lock and its running step, for sessions that find the lock taken.
write_holder() {
    RUNS_locked=yes
    RUNS_encode "$1"
    printf '%s %s %s %s\n%s\n' "$RUNS_segment_by" "$RUNS_since" "${RUNS_encoded:--}" \
        "session%20$RUNS_segment_session,%20process%20$$" "$RUNS_here" >"$RUNS_state/holder"
}

# Set RUNS_held, the words of a `locked` event, RUNS_holding, the segment that holds the lock, and RUNS_held_by.
read_holder() {
    local since doing which
    RUNS_holding='' RUNS_held_by=''
    if held_by_operator; then return; fi
    { read -r RUNS_held_by since doing which && read -r RUNS_holding; } 2>/dev/null <"$RUNS_state/holder"
    RUNS_held="session ${RUNS_held_by:--} ${since:--} ${doing:--} ${which:--}"
}

# is_attached SEGMENT: whether a controller is attached to it, or none need be. One without a line for 60 s is gone.
is_attached() {
    local file since
    [[ ! -e $1/detached ]] || return 0
    clock
    for file in "$1"/attached.*; do
        [[ -e $file ]] || continue
        { read -r since _ 2>/dev/null <"$file" && [[ $since != - ]]; } || return 0
        since=${since/./}
        since=$((10#$RUNS_now - 10#${since:-0}))
        # It may be a little newer than `clock`; much newer is one from before a restart of the machine.
        ((since > -6000 && since < 6000)) && return 0
    done
    return 1
}

# Wait up to the patience for a controller to re-attach; without one no further step starts.
await_controller() {
    local began
    is_attached "$RUNS_here" && return
    clock
    began=$RUNS_now
    until is_attached "$RUNS_here"; do
        clock
        [[ ! -e $RUNS_here/stop ]] && ((10#$RUNS_now - 10#$began < RUNS_segment_patience * 100)) || return
        pause
    done
}

pause() { read -r -t 0.2 -u 7; }

# Set RUNS_states to the state directory and those where a session can have run that could not write to it, see
# `try_elsewhere` in state.sh.
find_states() {
    local parent state
    RUNS_states=("$RUNS_state")
    for parent in ${XDG_RUNTIME_DIR:+"$XDG_RUNTIME_DIR"} /run /dev/shm /tmp; do
        state=$parent/runsdeploy-$EUID
        # Only one that others can neither have made nor written.
        [[ -d $state && ! -L $state && -O $state && $state != "$RUNS_base" && $(ls -ld "$state") == drwx------* ]] || continue
        state+=${RUNS_state#"$RUNS_base"}
        [[ -d $state/sessions ]] && RUNS_states+=("$state")
    done
}

# goes_on SESSION: whether it is not over: a runner or its bootstrap lives, it is being sent, or its controller is expected
# to come back between two segments.
goes_on() {
    local each since lapse
    [[ $1 != "$RUNS_session" ]] || return 0
    for each in "$1"/segment*; do
        [[ -e $each/started && ! -e $each/finished ]] && is_alive "$each" && return 0
    done
    for each in "$1"/segment*/payload.*; do
        [[ -e $each ]] && is_locked "$each" && return 0
    done
    for each in "$1"/segment*/attached.*; do
        # Its bootstrap is about to write the first byte.
        [[ ! -e ${each%/*}/started ]] && kill -0 "${each##*.}" 2>/dev/null && is_attached "${each%/*}" && return 0
    done
    { read -r since lapse <"$1/expected"; } 2>/dev/null || return
    time_of_life
    since=$((RUNS_life - 10#${since/./}))
    # Less than 0 after a restart of the machine.
    ((since >= 0 && since < 10#$lapse * 100))
}

# is_alive SEGMENT: whether its runner lives, or the bootstrap that starts it.
is_alive() {
    local process
    if command -v flock >/dev/null; then
        [[ -e $1/alive ]] && is_locked "$1/alive"
    else
        { read -r process <"$1/pid"; } 2>/dev/null && kill -0 "$process" 2>/dev/null
    fi
}

# Set RUNS_life to hundredths of a second of a clock that all processes of the machine share, and RUNS_life_text to what a
# file says about it: the clock that is never set, where there is one.
time_of_life() {
    printf -v RUNS_life_text '%(%s)T.00' -1
    [[ ! -r /proc/uptime ]] || read -r RUNS_life_text _ </proc/uptime
    RUNS_life=$((10#${RUNS_life_text/./}))
}

# Report the unacknowledged output of earlier sessions, which hold no lock, and remove the files of those that are over.
report_earlier_sessions() {
    local state session
    find_states
    rm_kept_parts
    for state in "${RUNS_states[@]}"; do
        for session in "$state"/sessions/*; do
            report_session "$session"
            goes_on "$session" || sweep "$session"
        done
    done
}

# Remove what a killed step left that was keeping its files.
rm_kept_parts() {
    local each
    for each in "$RUNS_state"/outs/.new.*; do
        [[ ! -f $each ]] || rm -f "$each"
    done
}

# report_session SESSION: report its segments that are over and have unacknowledged output.
report_session() {
    local segment number=''
    for segment in "$1"/segment*; do
        [[ -e $segment/owner && ! -e $segment/end_acknowledged && $segment != "$RUNS_here" ]] || continue
        # Of another version, which wrote other files.
        { read -r number <"$segment/started" && [[ $number == 3 ]]; } 2>/dev/null || continue
        # The controller received an earlier segment of our own session, or it would not have started this one, even if
        # its final acknowledgement was lost.
        [[ ${segment%/*} != "$RUNS_session" ]] || : >"$segment/end_acknowledged"
        [[ ! -e $segment/end_acknowledged ]] || continue
        # A session that waits for the lock is not over.
        [[ -e $segment/finished ]] || flock -n "$segment/alive" true 2>/dev/null || continue
        report_segment "$segment"
        : >"$segment/end_acknowledged"
    done
}

# report_segment SEGMENT: an `earlier` event, then the unacknowledged part of its spool.
report_segment() {
    local owner nonce acknowledged=0 size from to piece length=0 dropped=0 how=finished name=${1%/*}
    local -a pieces=()
    read -r owner <"$1/owner" && read -r nonce <"$1/nonce" || return
    [[ ! -e $1/acknowledged ]] || read -r acknowledged <"$1/acknowledged"
    if [[ ! -e $1/finished ]]; then
        how=killed
        [[ $(<"$1/boot") == "$RUNS_boot" ]] || how=restarted
        [[ $how == restarted ]] || kill_remains "$1"
        sweep "$name"
    fi
    await_relay "$1"
    size=$(wc -c <"$1/spool")
    # The pieces between the holes: lines of OFFSET LENGTH.
    [[ ! -e $1/dropped ]] || while read -r from to; do
        ((to > acknowledged)) || continue
        ((from <= acknowledged)) || pieces+=("$acknowledged $((from - acknowledged))")
        dropped=$((dropped + to - (from > acknowledged ? from : acknowledged))) acknowledged=$to
    done <"$1/dropped"
    ((size <= acknowledged)) || pieces+=("$acknowledged $((size - acknowledged))")
    ((${#pieces[@]})) || [[ $how != finished ]] || return 0
    for piece in ${pieces[@]+"${pieces[@]}"}; do length=$((length + ${piece#* })); done
    emit "earlier ${name##*/} $owner $how $nonce $length"
    for piece in ${pieces[@]+"${pieces[@]}"}; do
        tail -c "+$((${piece% *} + 1))" "$1/spool" | head -c "${piece#* }"
    done
    ((dropped == 0)) || emit_text note "$dropped bytes of that output were dropped: no more is kept"
}

# await_relay SEGMENT: wait for the last output that its relay copies; for a daemon that keeps the pipe open only 15 s.
await_relay() {
    local relay='' turn
    [[ ! -e $1/relay ]] || read -r relay <"$1/relay"
    for ((turn = 0; turn < 75; turn++)); do
        [[ /proc/$relay/fd/1 -ef $1/spool ]] || return 0
        pause
    done
}

# kill_remains SEGMENT: kill the running step of a dead runner, if the process group is certainly that step's.
kill_remains() {
    local group name=${1%/*}
    [[ -e $1/group ]] && read -r group <"$1/group" && kill -0 -- "-$group" 2>/dev/null || return 0
    if [[ ! -e /proc/$$/environ ]] || grep -qsz "^RUNS_SESSION=${name##*/}$" /proc/[0-9]*/environ; then
        kill -KILL -- "-$group" 2>/dev/null || sudo -n -- kill -KILL -- "-$group" 2>/dev/null
        # Its last output is still in the pipe.
        sleep 0.5
    elif [[ -n $(tr '\0' ' ' 2>/dev/null <"/proc/$group/cmdline") ]]; then
        emit_text note "processes of session ${name##*/}, whose runner was killed, may still run (process group $group)"
    fi
}
