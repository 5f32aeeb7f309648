# The spool: how output and events get there, its size, and the reserve for a full disk. Part of runner.sh.
#
# shellcheck disable=SC2154,SC2034 # RUNS_segment_*: segment.sh, made by parameters.py; the rest: runner.sh, or for it

# All output reaches the spool through a pipe, in the order written: a section that opens /dev/stderr with `>` would
# truncate a file.
open_spool() {
    exec > >(relay)
    RUNS_relay=$!
    echo "$RUNS_relay" >"$RUNS_here/relay"
}

# Copy the pipe to the spool. On a full disk the reserve makes room for the events that report it.
relay() {
    local copier status copying=yes
    exec 8>&- >>"$RUNS_here/spool"
    trap 'copying=; kill "$copier"' USR1
    while :; do
        cat <&0 &
        copier=$!
        wait "$copier"
        status=$?
        ((status)) || return
        # Daemons of the steps may write after the end; without a reader SIGPIPE would kill them.
        [[ $copying == yes ]] || exec cat >/dev/null
        copying=''
        free_reserve
        emit_text note "some output was lost: the spool could not be written"
    done
}

# end_spool EVENT: write the last event and wait until the relay has copied it, on a slow disk for up to 60 s. After that
# only daemons of the steps hold the pipe.
end_spool() {
    local turn
    spool_size
    emit "$@"
    : >"$RUNS_here/finished"
    # The next holder of the lock sees that this session is over, and waits for the rest of the pipe.
    exec 9>&- >&-
    for ((turn = 0; turn < 300; turn++)); do
        kill -0 "$RUNS_relay" 2>/dev/null || return
        ((turn < 5)) || ! has_event "$*" || break
        pause
    done
    kill -USR1 "$RUNS_relay"
}

# has_event EVENT: whether the event is in the spool, behind RUNS_size. Not `grep`: everybody may read its arguments, and
# who knows the nonce can write events.
has_event() {
    [[ $(tail -c "+$((RUNS_size + 1))" "$RUNS_here/spool" | head -c 1048576 | tr -d '\000') == *$'\036'"$RUNS_nonce $1"* ]]
}

# Set RUNS_size to the bytes of the spool; reading it from /proc costs no process.
spool_size() {
    local key
    { read -r key RUNS_size </proc/"$RUNS_relay"/fdinfo/1 && [[ $key == pos: ]]; } 2>/dev/null ||
        RUNS_size=$(wc -c <"$RUNS_here/spool")
}

# emit EVENT...: write an event, see event_line.py.
emit() { printf '\036%s %s\n' "$RUNS_nonce" "$*"; }

# Free the reserve for markers, journal and events on a full disk.
free_reserve() { [[ -e $RUNS_state/reserve ]] && rm -f "$RUNS_state/reserve"; }

# Print the free space of the state directory.
free_space() {
    local free mount inodes
    read -r _ _ _ free _ mount < <(df -Pk "$RUNS_state" 2>/dev/null | tail -n 1)
    read -r _ _ _ inodes _ < <(df -Pi "$RUNS_state" 2>/dev/null | tail -n 1)
    printf '%s' "\`${mount:-?}\` has ${free:-?} KiB and ${inodes:-?} inodes free"
}

# Put 1 MiB aside, so that a full disk cannot prevent markers, journal entries and events.
make_reserve() {
    [[ -s $RUNS_state/reserve ]] && return
    # Not zeros: some file systems store those without space.
    dd if=/dev/urandom of="$RUNS_state/reserve" bs=65536 count=16 2>/dev/null && sync "$RUNS_state/reserve" && return
    rm -f "$RUNS_state/reserve"
    RUNS_encode "cannot put 1 MiB aside in \`$RUNS_state\` for markers and the journal: $(free_space)"
    end_before_steps refuse space "$RUNS_encoded"
}

# emit_text VERB TEXT
emit_text() {
    RUNS_encode "$2"
    emit "$1 $RUNS_encoded"
}

# Keep only the first and the last RUNS_segment_output bytes of a step's output, by a hole in the spool between them.
# On a file system without holes nothing is dropped.
limit_spool() {
    local hole acknowledged=0 follower file
    spool_size
    ((RUNS_size - RUNS_output > 2 * RUNS_segment_output)) && [[ -z ${RUNS_no_holes-} ]] || return
    RUNS_from=$(((RUNS_output + RUNS_segment_output + 4095) / 4096 * 4096))
    hole=$(((RUNS_size - RUNS_segment_output) / 4096 * 4096))
    ((hole - ${RUNS_hole:-$RUNS_from} >= RUNS_segment_output / 8)) || return
    command -v fallocate >/dev/null || RUNS_no_holes=yes
    [[ -z ${RUNS_no_holes-} ]] || return
    {
        [[ -z $RUNS_holes ]] || printf '%s' "$RUNS_holes"
        printf '%s %s\n' "$RUNS_from" "$hole"
    } >"$RUNS_here/dropped.new" && mv -f "$RUNS_here/dropped.new" "$RUNS_here/dropped" || return
    # A process that reads there would find zeros: it is ended first, and the controller reconnects behind the hole.
    [[ ! -e $RUNS_here/acknowledged ]] || read -r acknowledged <"$RUNS_here/acknowledged"
    for file in "$RUNS_here"/attached.*; do
        ((acknowledged < hole)) && read -r _ follower 2>/dev/null <"$file" && [[ $follower == [1-9]* ]] &&
            kill -KILL "$follower" 2>/dev/null
    done
    fallocate -p -o "${RUNS_hole:-$RUNS_from}" -l $((hole - ${RUNS_hole:-$RUNS_from})) "$RUNS_here/spool" ||
        RUNS_no_holes=yes
    [[ -z ${RUNS_no_holes-} ]] || printf '%s' "$RUNS_holes" >"$RUNS_here/dropped"
    RUNS_hole=$hole
}
