# One session at a time: the lock and who holds it, whether anybody listens, and what sessions before us left.
# Part of runner.sh.
#
# shellcheck disable=SC2154,SC2034 # RUNS_segment_*: segment.sh, made by bundle.py; the rest: runner.sh, or for it

# The lock is the kernel's: it goes when this process goes, however that happens.
lock() {
    local limit=$RUNS_segment_wait began nameless=0
    if ! command -v flock >/dev/null; then
        say_text note "the target has no \`flock\`, so nothing keeps two sessions apart"
        return
    fi
    if ! { true >>"$RUNS_state/lock"; } 2>/dev/null; then
        RUNS_encode "cannot write \`$RUNS_state/lock\`: $(room)"
        leave refuse space "$RUNS_encoded"
    fi
    exec 9>>"$RUNS_state/lock"
    clock
    began=$RUNS_now
    while held || ! flock -n 9; do
        read_holder
        # Between having the lock and saying so, and between saying no more and giving it back, there is a moment.
        if [[ $RUNS_held == 'session - '* ]] && ((nameless++ < 10)); then
            pause
            continue
        fi
        # A session whose controller is gone ends by itself soon, and one of our own at once.
        if [[ -n $RUNS_holding ]] && ! attended "$RUNS_holding"; then
            ((limit >= RUNS_segment_patience)) || limit=$RUNS_segment_patience
            [[ $RUNS_held_by != "$RUNS_segment_by" ]] || : >"$RUNS_holding/stop"
        fi
        clock
        ((10#$RUNS_now - 10#$began < limit * 100)) || leave "locked $RUNS_held"
        [[ -n ${RUNS_waiting-} ]] || say "waiting $RUNS_held"
        RUNS_waiting=yes
        if [[ -e $RUNS_here/stop || -e $RUNS_here/kill ]] || ! attended "$RUNS_here"; then leave finish interrupted; fi
        pause
    done
    hold_lock ''
}

# Whether an operator other than ours keeps the target for himself.
held() {
    local by since reason
    [[ -e $RUNS_state/hold ]] && read -r by since reason <"$RUNS_state/hold" || return
    if [[ $by == "$RUNS_segment_by" ]]; then
        [[ -n ${RUNS_told_of_hold-} ]] || say "note you%20hold%20this%20host:%20$reason"
        RUNS_told_of_hold=yes
        return 1
    fi
    RUNS_held="operator $by $since $reason -"
}

# hold_lock STEP: say what we are doing, for whoever finds the lock held.
hold_lock() {
    RUNS_locked=yes
    RUNS_encode "$1"
    printf '%s %s %s %s\n%s\n' "$RUNS_segment_by" "$RUNS_since" "${RUNS_encoded:--}" \
        "session%20$RUNS_segment_session,%20process%20$$" "$RUNS_here" >"$RUNS_state/holder"
}

# Set RUNS_held, what a `locked` event says, and RUNS_holding, the segment that holds the lock, if one does.
read_holder() {
    local since doing which
    RUNS_holding='' RUNS_held_by=''
    if held; then return; fi
    { read -r RUNS_held_by since doing which && read -r RUNS_holding; } 2>/dev/null <"$RUNS_state/holder"
    RUNS_held="session ${RUNS_held_by:--} ${since:--} ${doing:--} ${which:--}"
}

# attended SEGMENT: whether somebody listens to it, or need not. Silence of a minute is that of a dead link.
attended() {
    local file since
    [[ ! -e $1/detached ]] || return 0
    clock
    for file in "$1"/heard.*; do
        [[ -e $file ]] || continue
        { read -r since _ 2>/dev/null <"$file" && [[ $since != - ]]; } || return 0
        since=${since/./}
        ((10#$RUNS_now - 10#${since:-0} < 6000)) && return 0
    done
    return 1
}

# When nobody listens any more, no further step starts; whoever comes back in time finds us waiting.
await_listener() {
    local began
    attended "$RUNS_here" && return
    clock
    began=$RUNS_now
    until attended "$RUNS_here"; do
        clock
        [[ ! -e $RUNS_here/stop ]] && ((10#$RUNS_now - 10#$began < RUNS_segment_patience * 100)) || return
        pause
    done
}

pause() { read -r -t 0.2 -u 7; }

# What sessions before us left unheard is told now: they hold no lock, so they are over.
tell_earlier() {
    local segment
    for segment in "$RUNS_state"/sessions/*/segment*; do
        [[ -e $segment/about && ! -e $segment/told && $segment != "$RUNS_here" ]] || continue
        # Of our own session the controller heard it, or it would not have begun us, whatever became of its last word.
        [[ ${segment%/*} != "$RUNS_session" ]] || : >"$segment/told"
        [[ ! -e $segment/told ]] || continue
        # One that waits for the lock, as we did, is not over.
        [[ -e $segment/finished ]] || flock -n "$segment/alive" true 2>/dev/null || continue
        tell_segment "$segment"
        : >"$segment/told"
    done
}

tell_segment() {
    local about nonce seen=0 size from to piece length=0 dropped=0 how=finished name=${1%/*}
    local -a pieces=()
    read -r about <"$1/about" && read -r nonce <"$1/nonce" || return
    [[ ! -e $1/seen ]] || read -r seen <"$1/seen"
    if [[ ! -e $1/finished ]]; then
        how=killed
        [[ $(<"$1/boot") == "$RUNS_boot" ]] || how=restarted
        [[ $how == restarted ]] || end_remains "$1"
        rm -rf "$name/files" "$1/run" "$1"/payload*
    fi
    settle "$1"
    size=$(wc -c <"$1/spool")
    # What is left of it: lines of OFFSET LENGTH between the holes.
    [[ ! -e $1/dropped ]] || while read -r from to; do
        ((to > seen)) || continue
        ((from <= seen)) || pieces+=("$seen $((from - seen))")
        dropped=$((dropped + to - (from > seen ? from : seen))) seen=$to
    done <"$1/dropped"
    ((size <= seen)) || pieces+=("$seen $((size - seen))")
    ((${#pieces[@]})) || [[ $how != finished ]] || return 0
    for piece in ${pieces[@]+"${pieces[@]}"}; do length=$((length + ${piece#* })); done
    say "earlier ${name##*/} $about $how $nonce $length"
    for piece in ${pieces[@]+"${pieces[@]}"}; do
        tail -c "+$((${piece% *} + 1))" "$1/spool" | head -c "${piece#* }"
    done
    ((dropped == 0)) || say_text note "$dropped bytes of that output were dropped: no more is kept"
}

# settle SEGMENT: wait for the last that its runner let through, but not for a daemon that keeps the pipe.
settle() {
    local relay='' turn
    [[ ! -e $1/relay ]] || read -r relay <"$1/relay"
    for ((turn = 0; turn < 75; turn++)); do
        [[ /proc/$relay/fd/1 -ef $1/spool ]] || return 0
        pause
    done
}

# The runner is dead; what it was running is ended, if it is surely that.
end_remains() {
    local group name=${1%/*}
    [[ -e $1/group ]] && read -r group <"$1/group" && kill -0 -- "-$group" 2>/dev/null || return 0
    if [[ ! -e /proc/$$/environ ]] || grep -qsz "^RUNS_SESSION=${name##*/}$" /proc/[0-9]*/environ; then
        kill -KILL -- "-$group" 2>/dev/null || sudo -n -- kill -KILL -- "-$group" 2>/dev/null
        # The last that it wrote is on its way through the pipe.
        sleep 0.5
    elif [[ -n $(tr '\0' ' ' 2>/dev/null <"/proc/$group/cmdline") ]]; then
        say_text note "processes of session ${name##*/}, whose runner was killed, may still run (process group $group)"
    fi
}
