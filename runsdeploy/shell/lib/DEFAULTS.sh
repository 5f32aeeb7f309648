# shellcheck shell=bash
# DEFAULTS: messages, yes/no values and quiet commands; loaded before every SCRIPT section.
#
#     etitle          == title
#     estep            * step
#     einfo              information
#     ewarn            ! warning: text      (stderr)
#     eerror, die     !! error: text        (stderr)
#
# There are no colours: on a target the output is a file.
#
# Local variables start with an underscore in all bundled libraries: in a script with `readonly dest=…`, a function's
# `local dest` would fail, and the function would use the script's value.

# _defaults_say MARK TEXT…: print the text, joined by spaces, after a mark of three columns; further lines are indented
# as far as the first.
_defaults_say() {
    local _mark=$1 _text
    shift
    local IFS=' '
    _text=${*//$'\n'/$'\n   '}
    [ -n "$_text" ] || _mark=${_mark%"${_mark##*[! ]}"}
    printf '%s%s\n' "$_mark" "$_text"
}

# etitle TEXT…: the subject of the script.
etitle() { _defaults_say '== ' "$@"; }

# estep TEXT…: the current part of the work.
estep() { _defaults_say ' * ' "$@"; }

# einfo TEXT…: a detail.
einfo() { _defaults_say '   ' "$@"; }

# ewarn TEXT…: a warning; the script goes on.
ewarn() { _defaults_say ' ! ' warning: "$@" >&2; }

# eerror TEXT…: an error; the script goes on unless the caller ends it.
eerror() { _defaults_say '!! ' error: "$@" >&2; }

# die [-s STATUS] TEXT…: print an error, and end the script with STATUS (1 to 255; default 1).
die() {
    local _status=1
    if [ "${1-}" = -s ]; then
        _status=${2-}
        shift "$(($# > 1 ? 2 : 1))"
        # With status 0 a failure would look like a success.
        case $_status in
        [1-9] | [1-9][0-9] | 1[0-9][0-9] | 2[0-4][0-9] | 25[0-5]) ;;
        *)
            eerror "die: \`$_status\` is not a status from 1 to 255: 1 is used"
            _status=1
            ;;
        esac
    fi
    [ "${1-}" != -- ] || shift
    eerror "$@"
    exit "$_status"
}

# is_yes VALUE: true for yes, y, true, t, on, 1, oui, o, in any case.
is_yes() {
    case ${1-} in
    [yY] | [yY][eE][sS] | [tT] | [tT][rR][uU][eE] | [oO][nN] | 1 | [oO] | [oO][uU][iI]) return 0 ;;
    esac
    return 1
}

# is_no VALUE: true for no, n, false, f, off, 0, non, in any case. Any other value (the empty string, a misspelt word)
# is false for both functions.
is_no() {
    case ${1-} in
    [nN] | [nN][oO] | [fF] | [fF][aA][lL][sS][eE] | [oO][fF][fF] | 0 | [nN][oO][nN]) return 0 ;;
    esac
    return 1
}

# quietly COMMAND…: run COMMAND, show its output on stderr only if it fails, and return its status.
#
# The output goes to a file and not to a pipe: a daemon that COMMAND starts would keep the pipe open, and the script
# would wait for it forever. COMMAND runs in a subshell, where the caller's `set -e` still applies (left of
# `||` it would not). There are two levels of subshells because a command substitution starts without `set -e`.
quietly() {
    local _out _status _errexit=''
    case $- in *e*) _errexit=yes ;; esac
    _out=${RUNS_SHARED:-${TMPDIR:-/tmp}}/.quietly.$BASHPID.$RANDOM
    if ! (umask 077 && set -C && : >"$_out") 2>/dev/null; then
        ewarn "quietly: cannot write $_out: the output is shown"
        "$@"
        return
    fi
    _status=$(
        trap - ERR
        set +e
        (
            [ -z "$_errexit" ] || set -e
            "$@"
        ) >>"$_out" 2>&1
        printf %s "$?"
    )
    [ "$_status" = 0 ] || command cat "$_out" >&2 || :
    command rm -f "$_out"
    return "${_status:-1}"
}
