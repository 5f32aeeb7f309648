# shellcheck shell=sh
# The first program on a machine: POSIX sh, read whole from the channel before any of it runs.
#
# It reads one header line and the archive, verifies the archive, unpacks it and starts the runner in a session of its
# own. From then on it only follows: it copies the spool, to which runner and steps write, to the channel. Asked again
# for a segment that was started, it follows from the requested byte.
#
# Header: NONCE SESSION SEGMENT LENGTH SHA256 SCOPE ENCODING OFFSET MARKS. All are words of [0-9A-Za-z._:/%-].
# OFFSET is the first byte of the spool to send, MARKS is `yes` if a step may set a marker. With a LENGTH of 0 no archive
# follows: SEGMENT is then one that was started, or a question (see questions.sh).

# shellcheck disable=SC2034,SC2154 # scope, marks: state.sh, which sets state, directory, here; me, problem: trust.sh

# the number of the protocol: of the events, of the controller's lines, and of the files of a segment
protocol=3
# status of a reader of requests after the request `files`
FILES=9

# Functions from the environment, which bash imports as `sh` too, must not shadow ours.
if [ -n "${BASH_VERSION-}" ]; then
    unset -f env sed
    # shellcheck disable=SC2046 # words on purpose
    unset -f $(env | sed -n 's/^BASH_FUNC_\([^=]*\)%%=.*/\1/p')
fi

# say TEXT: print a line by a builtin, because everybody may read the arguments of a program: `printf` is one for mksh.
case $(command -v print) in
print) say() { print -r -- "$1"; } ;;
*) say() { printf '%s\n' "$1"; } ;;
esac

# emit EVENT...: write an event, see event_line.py.
emit() { say "$mark$nonce $*"; }

# Percent-encode a text into one word.
encode() {
    case $1 in
    *[!A-Za-z0-9/._-]*) printf %s "$1" | od -An -v -tx1 | tr -d '\n' | sed 's/ *$//; s/  */%/g' ;;
    *) printf %s "$1" ;;
    esac
}

# refuse REASON TEXT...
refuse() {
    reason=$1
    shift
    emit "refuse $reason $(encode "$*")"
    exit 0
}

# need TOOL...: the refusal is encoded by hand, because `encode` needs some of the tools.
need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { emit "refuse tools the%20target%20has%20no%20%60$tool%60" && exit 0; }
    done
    command -v sha256sum >/dev/null 2>&1 || command -v shasum >/dev/null 2>&1 || command -v openssl >/dev/null 2>&1 ||
        refuse tools "the target has none of \`sha256sum\`, \`shasum\`, \`openssl\`"
}

sha256() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum <"$1"
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 <"$1"
    else
        openssl dgst -sha256 -r <"$1"
    fi
}

# Set bash to the first that is new enough: RUNSDEPLOY_BASH, PATH, and where a Mac or a BSD has it. Where the first one
# will do, this costs one process.
find_bash() {
    asked='' found='' rest=$PATH:/opt/homebrew/bin:/usr/local/bin:/opt/local/bin:/usr/pkg/bin:
    bash=${RUNSDEPLOY_BASH-}
    until is_new_enough; do
        [ -n "$rest" ] || refuse bash "${found:-the target has no \`bash\`}, expected bash 4.2 or later"
        bash=${rest%%:*}/bash rest=${rest#*:}
    done
}

is_new_enough() {
    case $bash in /*) ;; *) return 1 ;; esac
    case $asked in *":$bash:"*) return 1 ;; esac
    asked=$asked:$bash:
    { [ -f "$bash" ] && [ -x "$bash" ]; } || return
    # shellcheck disable=SC2016 # expanded by that bash
    version=$("$bash" --norc -p -c 'echo "$BASH_VERSION"' 2>/dev/null </dev/null)
    case $version in 4.[2-9]* | 4.1[0-9]* | [5-9].* | [1-9][0-9].*) return ;; esac
    found="$found${found:+, }\`$bash\` is ${version:-no bash}"
    return 1
}

# Verify the archive, then claim the segment by a file that must be new (noclobber is O_EXCL): a controller that sends a
# segment again, because no answer came, can neither start it twice nor change files of the one that was started.
receive() {
    payload=$here/payload.$$
    # Locked as long as it comes: by that others know that the session goes on.
    true 2>/dev/null >"$payload" || no_space "$payload"
    exec 7>"$payload"
    ! command -v flock >/dev/null 2>&1 || flock 7
    head -c "$length" >&7 2>/dev/null || no_space "$payload"
    found=$(sha256 "$payload")
    if [ "${found%% *}" != "$digest" ]; then
        size=$(wc -c <"$payload")
        rm -f "$payload" "$here/attached.$$"
        rmdir "$directory/files/shared" "$directory/files" "$here" "$directory" 2>/dev/null
        refuse payload "$((size)) of $length bytes arrived, or not as they were sent"
    fi
    if command -v flock >/dev/null 2>&1; then
        # The runner inherits this lock and holds it as long as it lives: by it others know whether it does.
        true >>"$here/alive" || no_space "$here/alive"
        exec 8>>"$here/alive"
        flock -n 8 || { rm -f "$payload" && exec 7>&- && return; }
    fi
    if (set -C && echo "$protocol" >"$here/started") 2>/dev/null; then
        unpack && start
    elif [ ! -e "$here/started" ]; then
        no_space "$here/started"
    fi
    # Another bootstrap claimed it first.
    [ ! -e "$payload" ] || rm -f "$payload"
    exec 7>&- 8>&-
}

unpack() {
    { say "$nonce" >"$here/nonce" && true >"$here/spool"; } 2>/dev/null || no_space "$here/spool"
    case $encoding in gzip) gzip -dc <"$payload" ;; *) cat "$payload" ;; esac |
        tar -xpf - -C "$directory" 2>/dev/null || no_space "$directory/files"
    rm -f "$payload"
    exec 7>&-
}

# Start the runner in a session of its own: a signal that ends this one must not end the runner.
start() {
    set -- "$bash" -p "$here/run/runner.sh" "$base" "$state" "$directory" "$here"
    # With SHELLOPTS in the environment `-p` would make the steps' bash privileged too, and it would read no BASH_ENV.
    set -- env -u SHELLOPTS -u BASHOPTS "$@"
    if command -v setsid >/dev/null 2>&1; then set -- setsid "$@"; fi
    # Not `&` of this shell: without job control it lets the runner and all steps ignore INT and QUIT, and a program cannot
    # know that they should not. Job control of bash needs no terminal, and without setsid it makes a process group.
    # shellcheck disable=SC2016 # expanded by that bash
    "$bash" --norc -p -c 'set -m; "$@" &' bash "$@" </dev/null >>"$here/spool" 2>>"$here/errors"
}

# Record that a controller is attached: the time of a clock that is never set, where there is one, and the process that
# follows the spool. The file is never truncated: an empty one would say nothing.
record_attached() {
    now=-
    [ ! -r /proc/uptime ] || read -r now _ </proc/uptime
    echo "$now ${tail:--}" 1<>"$here/attached.$$"
    record_expected
}

# Record that the controller of a session lives that has files for a later segment, see `expect_controller` in runner.sh.
record_expected() {
    [ -e "$directory/expected" ] || return 0
    if [ -r /proc/uptime ]; then read -r life _ </proc/uptime; else life=$(date +%s).00; fi
    read -r _ lapse <"$directory/expected" && echo "$life $lapse" 1<>"$directory/expected"
}

# read_requests PROCESS...: read the controller's lines. A line is a number (bytes of the spool that are acknowledged), a
# request (`stop`, `kill`), `files` (send the files for the other side, see `send_files`), `end` or `end files` (the final
# acknowledgement of the output, or of the files too), or empty (a heartbeat). At their end, end the processes: the first
# one, which sends, by a signal of which `follow` knows that it came from here.
read_requests() {
    files=''
    while read -r line; do
        case $line in
        stop | kill) true >"$here/$line" ;;
        files)
            files=yes
            break
            ;;
        # The end of our output confirms it to the controller.
        end | 'end files')
            if [ "$line" != end ]; then
                rm -f "$here/returned"
                # The session is over, or has files for a later segment.
                [ -e "$directory/files" ] || rm -f "$directory/expected"
            fi
            true >"$here/end_acknowledged"
            break
            ;;
        [0-9]*) echo "$line" 1<>"$here/acknowledged" ;;
        esac
        record_attached
    done
    [ -n "$files" ] || rm -f "$here/attached.$$"
    kill -s ALRM "$1"
    shift
    [ $# -eq 0 ] || kill "$@"
    [ -z "$files" ] || exit "$FILES"
}

# Set limit to the bytes before the first hole in the spool behind the offset; `dropped` has a line FROM TO for each.
find_hole() {
    limit=
    [ -e "$here/dropped" ] || return
    while read -r from to; do
        [ "$offset" -lt "$to" ] || continue
        if [ "$offset" -ge "$from" ]; then offset=$to; else limit=$((from - offset)) && return; fi
    done <"$here/dropped"
}

follow() {
    find_hole
    emit "attached $offset"
    if [ -n "$limit" ]; then
        # Up to the hole; the controller reconnects for the rest.
        { tail -c +$((offset + 1)) "$here/spool" | head -c "$limit"; } 3<&- &
    else
        # The process is recorded before it looks for holes: either it sees a new hole, or the runner sees the process.
        [ ! -e "$here/dropped" ] || holes=$(cat "$here/dropped")
        # shellcheck disable=SC2016 # expanded by that shell
        sh -c 'echo "$4 $$" 1<>"$5"; [ ! -e "$1/dropped" ] || [ "$(cat "$1/dropped")" = "$2" ] || exit
            exec tail -c +"$3" -f "$1/spool"' sh "$here" "${holes:-}" $((offset + 1)) "$now" "$here/attached.$$" 3<&- &
    fi
    tail=$!
    # On a full disk the runner's last event may not have reached the spool.
    end_missing=''
    trap 'end_missing=yes; kill "$tail" 2>/dev/null' USR1
    wait_for_runner 3<&- &
    waiter=$!
    # Not `read_requests <&3 >/dev/null`: dash would keep our output open beside it, and the channel would never end.
    (exec <&3 3<&- >/dev/null 2>&1 && read_requests "$tail" "$waiter") &
    reader=$!
    wait "$tail"
    ended=$?
    if [ -z "$end_missing" ] && [ $((ended % 128)) -eq 14 ]; then
        wait "$reader"
        [ $? -ne "$FILES" ] || send_files
        rm -f "$here/attached.$$"
        return
    fi
    exec 3<&-
    [ -z "$end_missing" ] || emit "finish interrupted"
    # The runner ended `tail`, because of a hole: a controller stays attached until it has read the rest of the channel.
    if [ "$ended" -gt 128 ] && [ ! -e "$here/finished" ] && kill -0 "$reader" 2>/dev/null; then
        kill "$waiter" 2>/dev/null
        exec >/dev/null 2>&1
        wait "$reader"
    fi
    kill "$waiter" "$reader" 2>/dev/null
    rm -f "$here/attached.$$"
}

# Send the files for the other side, from the byte that the next line names, and read the lines behind it.
send_files() {
    read -r offset <&3 && [ -e "$here/returned" ] || refuse absent "the files of $segment are not on the target any more"
    emit "attached $offset"
    tail -c +$((offset + 1)) "$here/returned" 3<&- &
    tail=$!
    (exec <&3 3<&- >/dev/null 2>&1 && read_requests "$tail") &
    reader=$!
    exec 3<&-
    wait "$reader"
}

# Wait until the runner has ended; if it left the spool without an end, write one.
wait_for_runner() {
    trap 'kill "$waited" 2>/dev/null; exit' TERM
    if [ -e "$here/alive" ]; then
        flock "$here/alive" true &
    else
        # The bootstrap that claimed the segment may still be unpacking.
        tries=0
        until [ -s "$here/pid" ] || [ $((tries += 1)) -gt 10 ]; do sleep 1; done
        read -r runner <"$here/pid"
        while kill -0 "$runner" 2>/dev/null; do sleep 1; done &
    fi
    waited=$!
    wait "$waited"
    has_end || [ -e "$here/finished" ] || end_for_runner >>"$here/spool" 2>/dev/null
    has_end || kill -s USR1 $$
}

# Whether the spool holds the event that ends the session.
has_end() {
    read -r spool_nonce <"$here/nonce"
    # Not `grep`: everybody may read its arguments, and who knows the nonce can write events.
    case $(tail -c 65536 "$here/spool" | tr -d '\000') in
    *"$mark$spool_nonce finish "* | *"$mark$spool_nonce refuse "* | *"$mark$spool_nonce locked "*) ;;
    *) false ;;
    esac
}

# End a session whose runner is dead: write the missing events and kill the step that was running.
end_for_runner() {
    nonce=$spool_nonce now=- group=
    [ ! -r /proc/sys/kernel/random/boot_id ] || read -r now </proc/sys/kernel/random/boot_id
    boot=$now
    [ ! -e "$here/boot" ] || read -r boot <"$here/boot"
    if [ "$boot" != "$now" ]; then
        emit "note $(encode "the target was restarted while the session ran")"
    else
        [ ! -e "$here/group" ] || read -r group <"$here/group"
        [ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null || sudo -n kill -s KILL -- "-$group" 2>/dev/null
        # The rest of the step's output comes first; a daemon that keeps the pipe open is waited for 10 s.
        relay=''
        [ ! -e "$here/relay" ] || read -r relay <"$here/relay"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            sleep 1
            # shellcheck disable=SC3013 # a `test` without -ef waits no longer
            [ "/proc/$relay/fd/1" -ef "$here/spool" ] 2>/dev/null || break
        done
        emit "note $(encode "the session's runner was killed${group:+, and its running step}")"
    fi
    sweep "$directory"
    emit "finish interrupted"
}

# Undo settings of the login that change what our programs do.
reset_environment() {
    # An exported variable of this name would take the nonce to every program.
    set +a
    unset nonce spool_nonce RUNS_nonce ENV BASH_ENV CDPATH GREP_OPTIONS POSIXLY_CORRECT TAR_OPTIONS GZIP FUNCNEST TMOUT GLOBIGNORE
    unset QUOTING_STYLE TIME_STYLE
    PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
    export PATH
    umask 077
    mark=$(printf '\036')
}

main() {
    reset_environment
    read -r nonce session segment length digest scope encoding offset marks
    need head wc tar gzip tail mkdir mkfifo mv rm cp cat dd sync od tr sed grep env id ls find sleep df
    find_state
    emit "hello $protocol $(encode "$state")"
    case $segment in
    segment*) ;;
    *)
        answer
        return
        ;;
    esac
    find_bash
    # If the channel breaks during the next writes, the record of an attached controller must go.
    trap 'rm -f "$here/attached.$$"; exit 1' PIPE HUP TERM
    if [ "$length" -gt 0 ]; then
        make_directory
        if [ -e "$here/started" ]; then head -c "$length" >/dev/null; else receive; fi
    fi
    # A bootstrap whose connection broke may have claimed the segment and still be unpacking.
    tries=0
    until has_spool || [ ! -e "$here/alive" ] || [ $((tries += 1)) -gt 10 ]; do sleep 1; done
    has_spool || try_elsewhere has_spool || refuse absent "segment $segment of session $session is not on the target"
    record_attached
    exec 3<&0
    follow
}
