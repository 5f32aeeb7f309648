# shellcheck shell=sh
# The first program on a machine: POSIX sh, read whole from the channel before any of it runs.
#
# It reads one header line and the archive, verifies the archive, unpacks it, starts the runner in a
# session of its own and then only follows: what the runner and its steps write to the spool goes to
# the channel. Asked again for a segment that was started, it follows from the byte that is asked for.
#
# Header: NONCE SESSION SEGMENT LENGTH SHA256 SCOPE ENCODING OFFSET MARKS. All are words of [0-9A-Za-z._:/%-].
# OFFSET is where to begin in the spool, MARKS whether a step may set a marker. With a LENGTH of 0 nothing is
# sent: SEGMENT then is one that was started, or a question (see questions.sh).

# Functions that come with the environment, which bash takes over as `sh` too, shadow nothing of ours.
if [ -n "${BASH_VERSION-}" ]; then
    unset -f env sed
    # shellcheck disable=SC2046 # words on purpose
    unset -f $(env | sed -n 's/^BASH_FUNC_\([^=]*\)%%=.*/\1/p')
fi

say() { printf '\036%s %s\n' "$nonce" "$*"; }

# Percent-encode a text into one word.
word() {
    case $1 in
    *[!A-Za-z0-9/._-]*) printf %s "$1" | od -An -v -tx1 | tr -d '\n' | sed 's/ *$//; s/  */%/g' ;;
    *) printf %s "$1" ;;
    esac
}

refuse() {
    reason=$1
    shift
    say "refuse $reason $(word "$*")"
    exit 0
}

# Said without `word`, which needs some of them.
need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { say "refuse tools the%20target%20has%20no%20%60$tool%60" && exit 0; }
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

# Whether it is new enough the runner says, in its first lines: a process less.
find_bash() {
    bash=$(command -v bash || command -v /usr/local/bin/bash || command -v /opt/homebrew/bin/bash) ||
        refuse bash "the target has no \`bash\`"
    # shellcheck disable=SC2016 # expanded by that bash
    version=$("$bash" --norc -p -c 'echo "$BASH_VERSION"' 2>/dev/null)
    case $version in
    4.[2-9]* | 4.1[0-9]* | [5-9].* | [1-9][0-9].*) ;;
    *) refuse bash "\`$bash\` is ${version:-no bash}, expected 4.2 or later" ;;
    esac
}

find_state() {
    if [ -n "${RUNSDEPLOY_STATE_DIR:-}" ]; then
        base=$RUNSDEPLOY_STATE_DIR
    elif [ "$(id -u)" = 0 ]; then
        base=/var/lib/runsdeploy
    else
        base=${XDG_STATE_HOME:-${HOME:?}/.local/state}/runsdeploy
    fi
    place "$base"
}

place() {
    base=$1
    case $base in /*) ;; *) refuse state "\`$base\` is not an absolute path" ;; esac
    case $scope in .) state=$base ;; *) state=$base/$scope ;; esac
    directory=$state/sessions/$session
    here=$directory/$segment
}

# Where no marker can be kept a segment that sets none still runs, from any place of ours that can be written.
make_place() {
    wanted=$here
    made && return
    if [ "$marks" = no ] && try_elsewhere made; then return; fi
    found=$({ mkdir -p "$wanted" && true >"$wanted/heard.$$"; } 2>&1)
    rm -f "$wanted/heard.$$"
    rmdir "$directory/files/shared" "$directory/files" "$here" "$directory" 2>/dev/null
    refuse state "cannot write \`$wanted\`: $found"
}

# try_elsewhere TEST
try_elsewhere() {
    for parent in "${XDG_RUNTIME_DIR:-/run}" /run /dev/shm /tmp; do
        place "$parent/runsdeploy-$(id -u)"
        [ "$1" = known ] || mkdir -m 700 "$base" 2>/dev/null
        private "$base" && { [ "$1" = known ] || fits; } && "$1" && return
    done
    return 1
}

# Whether what is sent, and as much again unpacked, has room there.
fits() { [ "$(df -Pk "$base" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && echo "$free"; })" -gt $((length / 400 + 2048)) ]; }

known() { [ -e "$here/spool" ]; }

# One that was started may be over by now, and its files gone for good.
made() { { [ -e "$here/started" ] || mkdir -p "$directory/files/shared" "$here"; } 2>/dev/null && [ -w "$here" ] && beat 2>/dev/null; }

# A directory that is nobody else's, though everybody may write beside it.
private() {
    # shellcheck disable=SC2012,SC3067 # no name is read, and `stat` is not everywhere; -O is
    [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && case $(ls -ld "$1") in drwx------*) ;; *) false ;; esac
}

# no_space PATH: say what is missing, with what there is.
no_space() {
    # shellcheck disable=SC2046 # words on purpose
    set -- "$1" $(df -Pk "$state" 2>/dev/null | tail -n 1) $(df -Pi "$state" 2>/dev/null | tail -n 1)
    rm -rf "$here" "$directory/files"
    rmdir "$directory" 2>/dev/null
    refuse space "cannot write \`$1\`: $length bytes and 1 MiB are needed, \`${7:-?}\` has ${5:-?} KiB and ${11:-?} inodes free"
}

# Verified first, then claimed, by a file that must be new (noclobber is O_EXCL): whoever sends a segment again
# because no answer came cannot start it twice, nor touch what was started.
receive() {
    payload=$here/payload.$$
    head -c "$length" >"$payload" 2>/dev/null || no_space "$payload"
    found=$(sha256 "$payload")
    if [ "${found%% *}" != "$digest" ]; then
        size=$(wc -c <"$payload")
        rm -f "$payload" "$here/heard.$$"
        rmdir "$directory/files/shared" "$directory/files" "$here" "$directory" 2>/dev/null
        refuse payload "$((size)) of $length bytes arrived, or not as they were sent"
    fi
    if command -v flock >/dev/null 2>&1; then
        # Held by the runner for as long as it lives: how others know that it does.
        true >>"$here/alive" || no_space "$here/alive"
        exec 8>>"$here/alive"
        flock -n 8 || { rm -f "$payload" && return; }
    fi
    if (set -C && : >"$here/started") 2>/dev/null; then
        unpack && start
    elif [ ! -e "$here/started" ]; then
        no_space "$here/started"
    fi
    # Somebody else's was faster.
    [ ! -e "$payload" ] || rm -f "$payload"
    exec 8>&-
}

unpack() {
    { printf '%s\n' "$nonce" >"$here/nonce" && true >"$here/spool"; } 2>/dev/null || no_space "$here/spool"
    case $encoding in gzip) gzip -dc <"$payload" ;; *) cat "$payload" ;; esac |
        tar -xpf - -C "$directory" 2>/dev/null || no_space "$directory/files"
    rm -f "$payload"
}

# In a session of its own, so that what ends this one does not end it.
start() {
    set -- "$bash" -p "$here/run/runner.sh" "$base" "$state" "$directory" "$here"
    # With SHELLOPTS in the environment `-p` would make the steps' bash privileged too, and it would read no BASH_ENV.
    set -- env -u SHELLOPTS -u BASHOPTS "$@"
    if command -v setsid >/dev/null 2>&1; then set -- setsid "$@"; else trap '' HUP; fi
    "$@" </dev/null >>"$here/spool" 2>>"$here/errors" &
    echo "$!" >"$here/pid"
}

# Time of a clock that nobody steps, where there is one. Never truncated: an empty file would say nothing.
beat() {
    now=-
    [ ! -r /proc/uptime ] || read -r now _ </proc/uptime
    echo "$now ${tail:--}" 1<>"$here/heard.$$"
}

# A line is a number (bytes of the spool that were taken), a wish (`stop`, `kill`, `told`), or only says that
# somebody is there.
listen() {
    while read -r line; do
        case $line in
        stop | kill) true >"$here/$line" ;;
        # That our output then ends tells the controller that we know.
        told)
            true >"$here/told"
            break
            ;;
        [0-9]*) echo "$line" 1<>"$here/seen" ;;
        esac
        beat
    done
    rm -f "$here/heard.$$"
    kill "$@"
}

# The first hole that the runner made in the spool (lines of FROM TO) behind the offset.
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
    say "from $offset"
    if [ -n "$limit" ]; then
        # Up to the hole; who wants more asks again.
        { tail -c +$((offset + 1)) "$here/spool" | head -c "$limit"; } 3<&- &
    else
        # The runner must find whoever reads before it makes a hole, and whoever reads must see the holes that it made.
        [ ! -e "$here/dropped" ] || holes=$(cat "$here/dropped")
        # shellcheck disable=SC2016 # expanded by that shell
        sh -c 'echo "$4 $$" 1<>"$5"; [ ! -e "$1/dropped" ] || [ "$(cat "$1/dropped")" = "$2" ] || exit
            exec tail -c +"$3" -f "$1/spool"' sh "$here" "${holes:-}" $((offset + 1)) "$now" "$here/heard.$$" 3<&- &
    fi
    tail=$!
    # On a full disk the runner's last word may not have reached the spool.
    unsaid=''
    trap 'unsaid=yes; kill "$tail" 2>/dev/null' USR1
    wait_for_runner 3<&- &
    waiter=$!
    # Not `listen <&3 >/dev/null`: dash would keep our output open beside it, and the channel would never end.
    (exec <&3 3<&- >/dev/null 2>&1 && listen "$tail" "$waiter") &
    listener=$!
    exec 3<&-
    wait "$tail"
    ended=$?
    [ -z "$unsaid" ] || say "finish interrupted"
    # Sent away by the runner: still somebody who listens, until he has read what is under way.
    if [ "$ended" -gt 128 ] && [ ! -e "$here/finished" ] && kill -0 "$listener" 2>/dev/null; then
        kill "$waiter" 2>/dev/null
        exec >/dev/null 2>&1
        wait "$listener"
    fi
    kill "$waiter" "$listener" 2>/dev/null
    rm -f "$here/heard.$$"
}

wait_for_runner() {
    trap 'kill "$patient" 2>/dev/null; exit' TERM
    if [ -e "$here/alive" ]; then
        flock "$here/alive" true &
    else
        # Whoever claimed it may still be unpacking.
        tries=0
        until [ -s "$here/pid" ] || [ $((tries += 1)) -gt 10 ]; do sleep 1; done
        read -r runner <"$here/pid"
        while kill -0 "$runner" 2>/dev/null; do sleep 1; done &
    fi
    patient=$!
    wait "$patient"
    said || [ -e "$here/finished" ] || bury >>"$here/spool" 2>/dev/null
    said || kill -s USR1 $$
}

said() {
    read -r spoken <"$here/nonce"
    tail -c 65536 "$here/spool" | grep -q "$spoken \(finish\|refuse\|locked\) "
}

# What a runner that is no more left unsaid; what it was running must not go on unseen.
bury() {
    nonce=$spoken now=- group=
    [ ! -r /proc/sys/kernel/random/boot_id ] || read -r now </proc/sys/kernel/random/boot_id
    boot=$now
    [ ! -e "$here/boot" ] || read -r boot <"$here/boot"
    if [ "$boot" != "$now" ]; then
        say "note $(word "the target was restarted while the session ran")"
    else
        [ ! -e "$here/group" ] || read -r group <"$here/group"
        [ -z "$group" ] || kill -s KILL -- "-$group" 2>/dev/null || sudo -n kill -s KILL -- "-$group" 2>/dev/null
        # The last that it let through the pipe comes first, but a daemon that keeps the pipe is not waited for.
        relay=''
        [ ! -e "$here/relay" ] || read -r relay <"$here/relay"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            sleep 1
            # shellcheck disable=SC3013 # where `test` has no -ef that is all
            [ "/proc/$relay/fd/1" -ef "$here/spool" ] 2>/dev/null || break
        done
        say "note $(word "the session's runner was killed${group:+, and so what it ran}")"
    fi
    set -- "$directory/files" "$here/run" "$here"/payload*
    rm -rf "$@" 2>/dev/null || sudo -n rm -rf "$@" 2>/dev/null
    say "finish interrupted"
}

# What a login may have set for programs that we use.
settle() {
    unset ENV BASH_ENV CDPATH GREP_OPTIONS POSIXLY_CORRECT TAR_OPTIONS GZIP FUNCNEST TMOUT GLOBIGNORE
    PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
    export PATH
    umask 077
}

main() {
    settle
    read -r nonce session segment length digest scope encoding offset marks
    need head wc tar gzip tail mkdir mkfifo mv rm cp cat dd sync od tr sed grep env id ls find sleep df
    find_state
    say "hello 1 $(word "$state")"
    case $segment in
    segment*) ;;
    *)
        answer
        return
        ;;
    esac
    find_bash
    # A channel that dies under what is said next must not leave us for present.
    trap 'rm -f "$here/heard.$$"; exit 1' PIPE HUP TERM
    if [ "$length" -gt 0 ]; then
        make_place
        if [ -e "$here/started" ]; then head -c "$length" >/dev/null; else receive; fi
    fi
    # One before us, whose connection broke, may have claimed it and not got further yet.
    tries=0
    until known || [ ! -e "$here/alive" ] || [ $((tries += 1)) -gt 10 ]; do sleep 1; done
    known || try_elsewhere known || refuse absent "nothing is known of segment $segment of session $session"
    beat
    exec 3<&0
    follow
}
