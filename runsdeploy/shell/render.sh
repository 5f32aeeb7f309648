# The head of a rendered plan: functions that write the files behind it, and run the plan as a deploy does. The steps run
# under the same runner; here is the part of the controller: start, show, stop, and report the outcome.
#
# shellcheck disable=SC2154 # bootstrap.sh, which comes among the files: nonce, state, directory, here

if (($#)); then
    # `--dry-run` must not deploy.
    printf "a rendered plan takes no arguments, found \`%q\`; \`bash FILE\` deploys it to this machine, " "$1" >&2
    printf 'its first lines describe it\n' >&2
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

# begin HOST MARKS FACTS_FILE: make the directory for the files, until the plan is known to be complete.
begin() {
    RUNS_host=$1 RUNS_marks=$2 RUNS_facts_file=$3
    ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 402)) || begin_elsewhere
    RUNS_work=$(mktemp -d) || quit 3 "cannot make a directory for the files of the plan"
    trap clean EXIT
    trap 'interrupted INT' INT
    trap 'interrupted TERM' TERM HUP
}

# Run this file in the first other bash that is new enough, where the bootstrap looks too (bootstrap.sh).
begin_elsewhere() {
    local each found="\`$BASH\` is $BASH_VERSION" version
    local IFS=:
    # shellcheck disable=SC2086 # words on purpose, and no globs: set -f
    set -- ${RUNSDEPLOY_BASH:+"$RUNSDEPLOY_BASH"} $PATH /opt/homebrew/bin /usr/local/bin /opt/local/bin /usr/pkg/bin
    for each; do
        [[ $each == "${RUNSDEPLOY_BASH-}" ]] || each+=/bash
        [[ $each == /* && -f $each && -x $each && $found != *"\`$each\`"* ]] || continue
        # shellcheck disable=SC2016 # expanded by that bash
        version=$("$each" --norc -p -c 'echo "$BASH_VERSION"' 2>/dev/null </dev/null)
        case $version in
        4.[2-9]* | 4.1[0-9]* | [5-9].* | [1-9][0-9].*)
            [[ ${BASH_SOURCE[0]-} != "$0" ]] || exec "$each" "$0"
            quit 3 "$found; run it with \`$each\`"
            ;;
        esac
        found+=", \`$each\` is ${version:-no bash}"
    done
    quit 3 "$found, expected bash 4.2 or later"
}

clean() {
    trap '' INT TERM HUP
    [[ -z $RUNS_tail ]] || kill -KILL "$RUNS_tail" 2>/dev/null
    [[ -z $RUNS_waiter ]] || kill "$RUNS_waiter" 2>/dev/null
    rm -rf ${RUNS_work:+"$RUNS_work"} ${here:+"$here/attached.$$"}
}

# interrupted SIGNAL: as in a deploy, the first interrupt requests a stop, the second kills the step, the third leaves.
interrupted() {
    RUNS_signal=$1
    [[ -n $RUNS_tail ]] || quit $((128 + $(kill -l "$1")))
    ((++RUNS_interrupts < 3)) || quit $((128 + $(kill -l "$1"))) "left; the stop request stays"
    if [[ $1 == TERM || $RUNS_interrupts == 2 ]]; then
        : >"$here/kill"
        printf '%s\n' "ending the running step" >&2
    else
        : >"$here/stop"
        printf '%s\n' "stopping after the running step; once more ends it" >&2
    fi
}

# step NUMBER SCRIPT FILE FIRST_LINE: a step, whose files follow; FIRST_LINE is that of its text in the operator's file.
step() { RUNS_names[$1]=$2 RUNS_sources[$1]=$3 RUNS_firsts[$1]=$4; }

# folder MODE PATH
folder() { { mkdir -p "$RUNS_work/$2" && chmod "$1" "$RUNS_work/$2"; } || quit 3 "cannot make \`$2\`"; }

# link TARGET PATH
link() { { mkdir -p "$RUNS_work/${2%/*}" && ln -s "$1" "$RUNS_work/$2"; } || quit 3 "cannot make \`$2\`"; }

# put MODE PATH [LINES] [base64|open]: write stdin to a file, below so many empty lines (its CONF section); `open` for one
# without a newline at its end.
put() {
    local path=$RUNS_work/$2 lines=${3:-0} text
    mkdir -p "${path%/*}"
    if ! {
        for (( ; lines > 0; lines--)); do echo; done
        case ${4-} in
        base64) decode_base64 ;;
        open) text=$(cat && echo .) && printf %s "${text%?.}" ;;
        *) cat ;;
        esac
    } >"$path" || ! chmod "$1" "$path"; then
        quit 3 "cannot write \`$2\`"
    fi
}

decode_base64() {
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

# run: the last line of a rendered plan, so all files are there.
run() {
    # shellcheck source-path=SCRIPTDIR source=bootstrap.sh
    . "$RUNS_work/segment0/run/bootstrap.sh"
    # shellcheck source-path=SCRIPTDIR source=state.sh
    . "$RUNS_work/segment0/run/state.sh"
    # shellcheck source-path=SCRIPTDIR source=trust.sh
    . "$RUNS_work/segment0/run/trust.sh"
    # shellcheck source-path=SCRIPTDIR source=sweep.sh
    . "$RUNS_work/segment0/run/sweep.sh"
    # Events of the bootstrap are meant for a controller: only a refusal is shown.
    # shellcheck disable=SC2329 # called by bootstrap.sh
    emit() {
        case $* in
        'refuse '*)
            decode "${*##* }"
            quit 3 "$RUNS_decoded"
            ;;
        *) printf '\036%s %s\n' "$nonce" "$*" ;;
        esac
    }
    reset_environment
    need head wc tail mkdir mkfifo mv rm cp cat dd sync od tr sed grep env id ls find sleep df
    nonce=$(random) session=$(random) segment=segment0 scope=. marks=$RUNS_marks
    length=$(du -sk "$RUNS_work" | { read -r size _ && echo $((size * 1024)); })
    find_bash
    find_state
    make_directory
    set +f
    cp -RPp "$RUNS_work/"* "$directory/" || no_space "$directory"
    set -f
    # The session's files are removed by the next session if this one is killed; those would stay.
    rm -rf "$RUNS_work"
    RUNS_work=''
    complete_files
    exec 8>>"$here/alive"
    ! command -v flock >/dev/null || flock -n 8
    start
    exec 8>&-
    follow_spool
    report
}

# Complete the files by the names of this user, this machine and this session.
complete_files() {
    local by meta
    by=$(encode "$(id -un)")%40$(encode "$(uname -n)")%3Arender
    printf 'RUNS_segment_session=%s RUNS_segment_by=%s\n' "$session" "$by" >>"$here/run/segment.sh"
    set +f
    for meta in "$here/run/step/"*/meta.sh; do
        # shellcheck disable=SC2016 # expanded where it is read
        printf 'RUNS_step_origin=${RUNS_step_origin/by rendered/by %s}\n' "$by" >>"$meta"
    done
    set -f
    echo "$protocol" >"$here/started"
    : >"$here/spool"
    printf '%s\n' "$nonce" >"$here/nonce" || no_space "$here/nonce"
}

decode() { printf -v RUNS_decoded %b "${1//%/\\x}"; }

# follow_spool: show the spool until its last event, which wait_for_runner writes for a dead runner.
follow_spool() {
    local part line='' most=65536
    # Not earlier: the steps must have the locale of the caller.
    LC_ALL=C
    # A terminal sends its signals to all processes of its group: these must ignore them.
    exec 6< <(trap '' INT TERM HUP && exec tail -c +1 -f "$here/spool" 2>/dev/null)
    RUNS_tail=$!
    trap 'RUNS_ending=interrupted' USR1
    wait_for_runner 6<&- &
    RUNS_waiter=$!
    until [[ -n $RUNS_ending ]]; do
        if IFS= read -r -t 1 -n "$most" -u 6 part; then
            line+=$part
            if ((${#part} < most)); then
                show_line "$line"
                line=''
            elif ((${#line} > most)); then
                # The memory of a line without an end is bounded; the end that may hold an event is kept.
                show_output "${line:0:-most}"
                line=${line: -most}
            fi
        elif (($? > 128)); then
            line+=$part
        else
            break
        fi
    done
    : >"$here/end_acknowledged"
}

# show_line LINE: an event is at the end of a line, behind output without a newline.
show_line() {
    local mark
    for mark in "$nonce" ${RUNS_earlier-}; do
        if [[ $1 == *$'\036'"$mark "* ]]; then
            [[ $1 == $'\036'* ]] || show_output "${1%%$'\036'"$mark "*}"
            # shellcheck disable=SC2086 # words on purpose
            if [[ $mark == "$nonce" ]]; then show_event ${1#*$'\036'"$mark "}; else show_earlier ${1#*$'\036'"$mark "}; fi
            return
        fi
    done
    show_output "$1"
}

# show_output LINE: as a terminal would leave it, without control characters, which it would obey.
show_output() {
    leave_line "$1"
    [[ -z ${RUNS_line//[[:space:]]/} ]] || RUNS_last=$RUNS_line
    printf '  | %s\n' "${RUNS_line//[$'\001'-$'\010'$'\013'-$'\037'$'\177']/?}"
}

# leave_line LINE: set RUNS_line to what a terminal is left with: of a redrawn line the last state, without colours and
# other well-formed sequences. This is `session/line_discipline.py` as far as bash has it cheaply, and by bytes.
leave_line() {
    local rest=$1$'\r' part over out=''
    local control=$'\e\[[0-?]*[ -/]*[@-~]' text=$'\e[]PX^_][^\001-\037\177]*(\a|\e\\\\)' other=$'\e[ -/]+[0-~]|\e[=>78c]'
    RUNS_line=$1
    [[ $1 == *[$'\r\b\e']* ]] || return 0
    rest=${rest//$'\e[G'/$'\r'} rest=${rest//$'\e[1G'/$'\r'}
    while [[ -n $rest ]]; do
        part=${rest%%$'\r'*} rest=${rest#*$'\r'}
        case $part in
        *$'\e[2K'*) out='' part=${part##*$'\e[2K'} ;;
        *$'\e[K'* | *$'\e[0K'*) out='' ;;
        esac
        while [[ $part =~ $control|$text|$other ]]; do part=${part/"${BASH_REMATCH[0]}"/}; done
        while [[ $part == *?$'\b'* ]]; do
            over=${part%%$'\b'*}
            part=${over%?}${part#*$'\b'}
        done
        part=${part//$'\b'/}
        out=$part${out:${#part}}
        # What is left of a character of several bytes.
        while [[ ${out:${#part}} == [$'\200'-$'\277']* ]]; do out=$part${out:${#part}+1}; done
    done
    RUNS_line=$out
}

# show_event VERB WORD...: show an event; the last one sets RUNS_ending.
show_event() {
    RUNS_earlier=''
    case $1 in
    start)
        RUNS_last=''
        printf '[%s/%s] %s\n' $((++RUNS_place)) "${#RUNS_names[@]}" "${RUNS_names[$2]}"
        ;;
    end)
        count "$3"
        printf '%-12s %s  %s s\n' "$3" "${RUNS_names[$2]}" "$5"
        case $3 in ok | already-done) ;; *) locate "$2" "$4" "$6" "$7" "${8-}" ;; esac
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
        printf 'unacknowledged output of an earlier session of %s, started %s (%s):\n' "$RUNS_decoded" "$4" "$5"
        RUNS_earlier=$6
        ;;
    refuse)
        decode "$3"
        [[ $2 != facts ]] || RUNS_decoded="$RUNS_facts_file: $RUNS_decoded"
        RUNS_ending=refused
        ;;
    locked)
        decode "held by $3 since $4: $5"
        RUNS_ending=locked
        ;;
    finish) RUNS_ending=$2 ;;
    esac
}

# show_earlier VERB WORD...: show an event of an earlier session.
show_earlier() {
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

# locate NUMBER STATUS LINE HOW [FILE]: show the line of a step that failed. A failed line that did not end the step may be
# older than bash's own last message. FILE is a library, or a file of a tree.
locate() {
    local line=$3 file=${RUNS_sources[$1]}
    if [[ $4 != exit && $RUNS_last =~ "/${file##*/}: line "([0-9]+): ]] && ((BASH_REMATCH[1] > line)); then
        line=${BASH_REMATCH[1]}
    fi
    if [[ -n ${5-} ]]; then
        decode "$5"
        file=${RUNS_decoded#tree[0-9]*/}:$3
    elif ((line >= RUNS_firsts[$1])); then
        file+=:$line
    fi
    printf "%s: \`%s\` failed (status %s)\n" "$file" "${RUNS_names[$1]}" "$2" >&2
}

# report: show the outcome, and exit with its status.
report() {
    local n counts=''
    for n in "${!RUNS_outcomes[@]}"; do
        [[ -z ${RUNS_counts[n]-} ]] || counts+="${counts:+, }${RUNS_counts[n]} ${RUNS_outcomes[n]}"
    done
    case $RUNS_ending in
    ok | failed)
        printf '%s: %s (%s)\n' "$RUNS_host" "$RUNS_ending" "$counts"
        [[ $RUNS_ending == ok ]] || quit 1
        quit 0
        ;;
    locked) quit 4 "locked: $RUNS_decoded" ;;
    refused) quit 3 "refused: $RUNS_decoded" ;;
    esac
    printf '%s: interrupted%s\n' "$RUNS_host" "${counts:+ ($counts)}"
    [[ -z ${RUNS_signal-} ]] || quit $((128 + $(kill -l "$RUNS_signal")))
    quit 3
}
