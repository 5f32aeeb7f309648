# shellcheck shell=sh
# The first program on a machine: POSIX sh, read whole from the channel before any of it runs.
#
# It reads one header line and the archive, verifies the archive, unpacks it, starts the runner in a
# session of its own and then only follows: what the runner and its steps write to the spool goes to
# the channel, and the end of the channel's input tells the runner to stop after the running step.
#
# Header: NONCE SESSION SEGMENT LENGTH SHA256 SCOPE ENCODING. All are words of [0-9A-Za-z._:/-]. A LENGTH of 0
# only asks: SEGMENT is then `facts`, `markers`, `account`, or `sweep`.

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

need() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || refuse tools "the target has no \`$tool\`"
    done
}

sha256() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum <"$1"
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 <"$1"
    elif command -v openssl >/dev/null 2>&1; then
        openssl dgst -sha256 -r <"$1"
    else
        refuse tools "the target has none of \`sha256sum\`, \`shasum\`, \`openssl\`"
    fi
}

# Whether it is new enough the runner says, in its first lines: a process less.
find_bash() {
    bash=$(command -v bash || command -v /usr/local/bin/bash || command -v /opt/homebrew/bin/bash) ||
        refuse bash "the target has no \`bash\`"
}

find_state() {
    if [ -n "${RUNSDEPLOY_STATE_DIR:-}" ]; then
        base=$RUNSDEPLOY_STATE_DIR
    elif [ "$(id -u)" = 0 ]; then
        base=/var/lib/runsdeploy
    else
        base=${XDG_STATE_HOME:-${HOME:?}/.local/state}/runsdeploy
    fi
    case $scope in .) state=$base ;; *) state=$base/$scope ;; esac
    directory=$state/sessions/$session
    here=$directory/$segment
}

# A file that must be new (noclobber is O_EXCL) keeps a segment from being started twice.
receive() {
    mkdir -p "$directory/files/shared" "$here" 2>/dev/null ||
        refuse state "cannot make \`$here\`: $(mkdir -p "$directory/files/shared" "$here" 2>&1)"
    set -C
    { printf '' >"$here/started"; } 2>/dev/null || refuse twice "segment $segment of session $session was started before"
    set +C
    head -c "$length" >"$here/payload" || refuse space "cannot write \`$here/payload\`"
    found=$(sha256 "$here/payload")
    if [ "${found%% *}" != "$digest" ]; then
        size=$(wc -c <"$here/payload")
        rm -rf "$here"
        refuse payload "$((size)) of $length bytes arrived, or not as they were sent"
    fi
    case $encoding in gzip) gzip -dc <"$here/payload" ;; *) cat "$here/payload" ;; esac |
        tar -xpf - -C "$directory" || refuse space "cannot unpack into \`$directory\`"
}

start() {
    printf '%s\n' "$nonce" >"$here/nonce"
    : >"$here/spool"
    set -- "$bash" -p "$here/run/runner.sh" "$base" "$state" "$directory" "$here"
    # In a session of its own, so that what ends this one does not end it.
    if command -v setsid >/dev/null 2>&1; then set -- setsid "$@"; else trap '' HUP; fi
    "$@" </dev/null >>"$here/spool" 2>&1 3<&- &
    runner=$!
}

follow() {
    tail -c +1 -f "$here/spool" 3<&- &
    tail=$!
    {
        # Any line, and the end: no further step. The end also: nobody listens any more.
        while read -r _; do : >"$here/stop"; done
        [ -e "$here/finished" ] || : >"$here/stop"
        kill "$tail"
    } <&3 >/dev/null 2>&1 &
    listener=$!
    exec 3<&-
    wait "$runner"
    [ -e "$here/finished" ] || say "finish interrupted" >>"$here/spool"
    wait "$listener"
}

release() { sed -n "s/^$1=//p" "$os_release" | tr -d "\"'"; }

# The facts of this machine, each from the specific to the general.
facts() {
    kernel=$(uname -s | tr '[:upper:]' '[:lower:]')
    case $(uname -m) in *64* | s390x) bits=64 ;; *) bits=32 ;; esac
    os_release=/etc/os-release
    [ -r "$os_release" ] || os_release=/dev/null
    say facts sysname "$kernel"
    # shellcheck disable=SC2046 # words on purpose
    say facts sysdist $(release ID) $(release ID_LIKE) "$kernel"
    # shellcheck disable=SC2046
    set -- $(release VERSION_ID) $(release VERSION_CODENAME)
    [ $# -gt 0 ] || set -- "$(uname -r)"
    say facts sysver "$@"
    say facts bits "$bits"
    say finish ok
}

# list_markers OWNER DIRECTORY [COMMAND...]: names first, then the values that markers hold.
list_markers() {
    owner=$1 markers=$2/markers
    shift 2
    # shellcheck disable=SC2016 # expanded by that shell
    "$@" sh -c 'cd "$1" 2>/dev/null && find . -type f && grep -rs "^value " .' sh "$markers" |
        sed "s/^/$(printf '\036')$nonce marker $owner /"
}

markers() {
    list_markers own "$state"
    if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
        list_markers root "/var/lib/runsdeploy${state#"$base"}" sudo -n
    fi
    account
}

# Who we are, and whether that can be root.
account() {
    kind=user
    if [ "$(id -u)" = 0 ]; then
        kind=root
    elif sudo -n true 2>/dev/null; then
        kind=sudo
    fi
    say account "$kind"
    say finish ok
}

# Remove what a session that ended elsewhere left here.
sweep() {
    set -- "$directory/files" "$directory"/segment*/run "$directory"/segment*/payload
    rm -rf "$@" 2>/dev/null || sudo -n rm -rf "$@" 2>/dev/null
    say finish ok
}

main() {
    unset ENV BASH_ENV CDPATH GREP_OPTIONS POSIXLY_CORRECT
    PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
    export PATH
    umask 077
    read -r nonce session segment length digest scope encoding
    find_state
    say "hello 1 $(word "$state")"
    need head wc tar gzip tail mkdir mv rm cat dd sync od tr sed env
    if [ "$length" -eq 0 ]; then
        case $segment in facts) facts ;; markers) markers ;; account) account ;; sweep) sweep ;; esac
        return
    fi
    find_bash
    receive
    exec 3<&0
    start
    follow
}
