# Notes about a step that has printed nothing for a while, so that nobody waits for a step that waits for input. Part of
# runner.sh.
#
# shellcheck disable=SC2154,SC2034 # RUNS_segment_*, RUNS_step_*: made by parameters.py; the rest: runner.sh

# listen: begin to watch a step.
listen() { RUNS_heard=$RUNS_now RUNS_heard_size=$RUNS_size RUNS_noted=0 RUNS_patience=$RUNS_segment_silence; }

# note_silence: emit a note when the silence has lasted its limit, then 5 times that, 25 times, and so on.
note_silence() {
    local process what
    # Our own note is no output of the step.
    if ((RUNS_size != RUNS_heard_size && RUNS_size != RUNS_noted)); then
        listen
    elif ((10#$RUNS_now - 10#$RUNS_heard >= RUNS_patience)); then
        find_activity
        RUNS_encode "\`$RUNS_step_script\` still runs, without output for $((RUNS_patience / 100)) s$RUNS_activity"
        what="note $RUNS_encoded"
        emit "$what"
        RUNS_heard_size=$RUNS_size RUNS_noted=$((RUNS_size + ${#what} + ${#RUNS_nonce} + 3)) RUNS_patience=$((RUNS_patience * 5))
    fi
}

# find_activity: set RUNS_activity to what the innermost process of the step does, from /proc; empty if that is unknown.
# Only the name of the program: its arguments may be secrets.
find_activity() {
    local stat state parent group parents=' ' each number descriptor
    local -a members=()
    RUNS_activity=''
    for each in /proc/[1-9]*; do
        { read -r stat <"$each/stat"; } 2>/dev/null || continue
        IFS=' ' read -r state parent group _ <<<"${stat##*) }"
        [[ $group == "$RUNS_group" ]] || continue
        parents+="$parent "
        members+=("${each#/proc/} $state")
    done
    for each in ${members[@]+"${members[@]}"}; do
        state=${each#* } each=${each% *}
        [[ $state != Z && $parents != *" $each "* ]] || continue
        read -r stat <"/proc/$each/comm" || continue
        RUNS_activity=": \`$stat\`"
        [[ $state != R ]] || RUNS_activity+=' does not wait, but works or repeats'
        # The number of read(2) on x86-64 and on arm64.
        read -r number descriptor _ <"/proc/$each/syscall" || continue
        case $MACHTYPE:$number in x86_64*:0 | aarch64*:63) RUNS_activity+=" waits to read \`$(readlink "/proc/$each/fd/$((descriptor))")\`" ;; esac
    done
} 2>/dev/null
