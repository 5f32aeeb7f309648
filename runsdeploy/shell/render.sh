# The head of a rendered plan: what lays the files out that follow it, and runs them as a deploy would. The steps run under
# the very runner that a deploy sends; here is only what a controller does: begin, show, stop, and say how it ended.
#
# shellcheck disable=SC2154 # bootstrap.sh, which comes among the files: nonce, state, directory, here

if (($#)); then
    # `--dry-run` must not deploy.
    printf "a rendered plan takes no arguments, found \`%q\`; \`bash FILE\` deploys it to this machine, " "$1" >&2
    printf 'and what that does is told at its head\n' >&2
    exit 2
fi
set -f
umask 077
RUNS_work='' RUNS_tail='' RUNS_waiter='' RUNS_ending='' RUNS_interrupts=0
RUNS_names=() RUNS_sources=() RUNS_firsts=() RUNS_counts=() RUNS_outcomes=(ok already-done)

# quit STATUS MESSAGE...
quit() {
    local status=$1
    shift
    (($# == 0)) || printf '%s: %s\n' "$RUNS_host" "$*" >&2
    exit "$status"
}

# begin HOST MARKS PROMISE_FILE: where the files lie until the plan is known to be whole.
begin() {
    RUNS_host=$1 RUNS_marks=$2 RUNS_promised=$3
    ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 402)) || quit 3 "bash $BASH_VERSION is too old, expected 4.2 or later"
    RUNS_work=$(mktemp -d) || quit 3 "cannot make a directory for the files of the plan"
    trap clean EXIT
    trap 'interrupted INT' INT
    trap 'interrupted TERM' TERM HUP
}

clean() {
    trap '' INT TERM HUP
    [[ -z $RUNS_tail ]] || kill -KILL "$RUNS_tail" 2>/dev/null
    [[ -z $RUNS_waiter ]] || kill "$RUNS_waiter" 2>/dev/null
    rm -rf "$RUNS_work" ${here:+"$here/heard.$$"}
}

# The first lets the running step end, as it does in a deploy; the second ends it; the third leaves.
interrupted() {
    RUNS_signal=$1
    [[ -n $RUNS_tail ]] || quit $((128 + $(kill -l "$1")))
    ((++RUNS_interrupts < 3)) || quit $((128 + $(kill -l "$1"))) "left; what was asked to stop stays asked"
    if [[ $1 == TERM || $RUNS_interrupts == 2 ]]; then
        : >"$here/kill"
        printf '%s\n' "ending the running step" >&2
    else
        : >"$here/stop"
        printf '%s\n' "stopping after the running step; once more ends it" >&2
    fi
}

# step NUMBER SCRIPT FILE FIRST_LINE: what follows is its own; the line is where its text begins in the operator's file.
step() { RUNS_names[$1]=$2 RUNS_sources[$1]=$3 RUNS_firsts[$1]=$4; }

# folder MODE PATH
folder() { { mkdir -p "$RUNS_work/$2" && chmod "$1" "$RUNS_work/$2"; } || quit 3 "cannot make \`$2\`"; }

# link TARGET PATH
link() { { mkdir -p "$RUNS_work/${2%/*}" && ln -s "$1" "$RUNS_work/$2"; } || quit 3 "cannot make \`$2\`"; }

# put MODE PATH [LINES] [base64|open]: a file is our stdin, below so many empty lines, which stand for what was above it;
# an open one has no newline at its end.
put() {
    local path=$RUNS_work/$2 lines=${3:-0} text
    mkdir -p "${path%/*}"
    if ! {
        for (( ; lines > 0; lines--)); do echo; done
        case ${4-} in
        base64) plain ;;
        open) text=$(cat && echo .) && printf %s "${text%?.}" ;;
        *) cat ;;
        esac
    } >"$path" || ! chmod "$1" "$path"; then
        quit 3 "cannot write \`$2\`"
    fi
}

plain() {
    if ! command -v base64 >/dev/null; then
        openssl base64 -d
    elif [[ $(printf 'YQ==\n' | base64 -d 2>/dev/null) == a ]]; then
        base64 -d
    else
        base64 -D
    fi
}

# random: 32 hexadecimal digits.
random() { od -An -v -tx1 -N16 /dev/urandom | tr -d ' \n'; }

# run: all files are there, so the plan is whole.
run() {
    # shellcheck source-path=SCRIPTDIR source=bootstrap.sh
    . "$RUNS_work/segment0/run/bootstrap.sh"
    # What the bootstrap says is for a controller.
    say() {
        case $* in
        'refuse '*)
            decode "${*##* }"
            quit 3 "$RUNS_decoded"
            ;;
        *) printf '\036%s %s\n' "$nonce" "$*" ;;
        esac
    }
    settle
    need head wc tail mkdir mkfifo mv rm cp cat dd sync od tr sed grep env id ls find sleep df
    nonce=$(random) session=$(random) segment=segment0 scope=. marks=$RUNS_marks
    length=$(du -sk "$RUNS_work" | { read -r size _ && echo $((size * 1024)); })
    find_bash
    find_state
    make_place
    set +f
    cp -RPp "$RUNS_work/"* "$directory/" || no_space "$directory"
    set -f
    announce
    exec 8>>"$here/alive"
    ! command -v flock >/dev/null || flock -n 8
    start
    exec 8>&-
    hear
    judge
}

# What only the machine knows that runs it: who we are.
announce() {
    local by meta
    by=$(word "$(id -un)")%40$(word "$(uname -n)")%3Arender
    printf 'RUNS_segment_session=%s RUNS_segment_by=%s\n' "$session" "$by" >>"$here/run/segment.sh"
    set +f
    for meta in "$here/run/step/"*/meta.sh; do
        # shellcheck disable=SC2016 # expanded where it is read
        printf 'RUNS_step_origin=${RUNS_step_origin/by rendered/by %s}\n' "$by" >>"$meta"
    done
    set -f
    : >"$here/started"
    : >"$here/spool"
    printf '%s\n' "$nonce" >"$here/nonce" || no_space "$here/nonce"
}

decode() { printf -v RUNS_decoded %b "${1//%/\\x}"; }

# hear: show what the spool gets, until the runner has said how it ended, or somebody that it is no more.
hear() {
    local part line=''
    # Not before the session began: its steps have the locale that we were called with.
    LC_ALL=C
    # What is meant for us, a terminal tells to all that it started.
    exec 6< <(trap '' INT TERM HUP && exec tail -c +1 -f "$here/spool" 2>/dev/null)
    RUNS_tail=$!
    trap 'RUNS_ending=interrupted' USR1
    wait_for_runner 6<&- &
    RUNS_waiter=$!
    until [[ -n $RUNS_ending ]]; do
        if IFS= read -r -t 1 -u 6 part; then
            tell "$line$part"
            line=''
        elif (($? > 128)); then
            line+=$part
        else
            break
        fi
    done
    : >"$here/told"
}

# tell LINE: an event of ours stands at the end of a line, behind output that had no end yet.
tell() {
    local mark
    for mark in "$nonce" ${RUNS_past-}; do
        if [[ $1 == *$'\036'"$mark "* ]]; then
            [[ $1 == $'\036'* ]] || show "${1%%$'\036'"$mark "*}"
            # shellcheck disable=SC2086 # words on purpose
            if [[ $mark == "$nonce" ]]; then hear_event ${1#*$'\036'"$mark "}; else hear_past ${1#*$'\036'"$mark "}; fi
            return
        fi
    done
    show "$1"
}

# A terminal would obey control characters.
show() {
    [[ -z ${1//[[:space:]]/} ]] || RUNS_last=$1
    printf '  | %s\n' "${1//[$'\001'-$'\010'$'\013'-$'\037'$'\177']/?}"
}

hear_event() {
    RUNS_past=''
    case $1 in
    start)
        RUNS_last=''
        printf '[%s/%s] %s\n' $((++RUNS_place)) "${#RUNS_names[@]}" "${RUNS_names[$2]}"
        ;;
    end)
        count "$3"
        printf '%-12s %s  %s s\n' "$3" "${RUNS_names[$2]}" "$5"
        case $3 in ok | already-done) ;; *) locate "$2" "$4" "$6" "$7" ;; esac
        ;;
    note)
        decode "$2"
        printf 'note: %s\n' "$RUNS_decoded" >&2
        ;;
    waiting)
        decode "$3 since $4"
        printf 'waiting for %s\n' "$RUNS_decoded" >&2
        ;;
    earlier)
        decode "$3"
        printf 'earlier session of %s since %s, which nobody heard to its end (%s):\n' "$RUNS_decoded" "$4" "$5"
        RUNS_past=$6
        ;;
    refuse)
        decode "$3"
        [[ $2 != promise ]] || RUNS_decoded="$RUNS_promised: $RUNS_decoded"
        RUNS_ending=refused
        ;;
    locked)
        decode "held by $3 since $4: $5"
        RUNS_ending=locked
        ;;
    finish) RUNS_ending=$2 ;;
    esac
}

hear_past() {
    case $1 in
    start)
        decode "$3"
        printf 'earlier: %s\n' "$RUNS_decoded"
        ;;
    end) printf 'earlier: %s\n' "$3" ;;
    esac
}

# count OUTCOME
count() {
    local n
    for n in "${!RUNS_outcomes[@]}"; do
        [[ ${RUNS_outcomes[n]} != "$1" ]] || break
        n=${#RUNS_outcomes[@]}
    done
    RUNS_outcomes[n]=$1
    ((++RUNS_counts[n]))
}

# locate NUMBER STATUS LINE HOW: say where a step failed. A failure that it survived may be older than what bash itself
# said when it gave up.
locate() {
    local line=$3 file=${RUNS_sources[$1]}
    if [[ $4 != exit && $RUNS_last =~ "/${file##*/}: line "([0-9]+): ]] && ((BASH_REMATCH[1] > line)); then
        line=${BASH_REMATCH[1]}
    fi
    ((line < RUNS_firsts[$1])) || file+=:$line
    printf "%s: \`%s\` failed (status %s)\n" "$file" "${RUNS_names[$1]}" "$2" >&2
}

judge() {
    local n said=''
    for n in "${!RUNS_outcomes[@]}"; do
        [[ -z ${RUNS_counts[n]-} ]] || said+="${said:+, }${RUNS_counts[n]} ${RUNS_outcomes[n]}"
    done
    case $RUNS_ending in
    ok | failed)
        printf '%s: %s (%s)\n' "$RUNS_host" "$RUNS_ending" "$said"
        [[ $RUNS_ending == ok ]] || quit 1
        quit 0
        ;;
    locked) quit 4 "locked: $RUNS_decoded" ;;
    refused) quit 3 "refused: $RUNS_decoded" ;;
    esac
    printf '%s: interrupted%s\n' "$RUNS_host" "${said:+ ($said)}"
    [[ -z ${RUNS_signal-} ]] || quit $((128 + $(kill -l "$RUNS_signal")))
    quit 3
}
