# shellcheck shell=bash
# DEFAULTS: messages, answers and quiet commands; loaded before every SCRIPT.
#
#     etitle          == title
#     estep            * step
#     einfo              information
#     ewarn            ! warning: text      (stderr)
#     eerror, die     !! error: text        (stderr)
#
# No colours, ever: on a target the output is a file.
#
# Locals start with an underscore in all the bundled libraries: in a script that says
# `readonly dest=…`, a function's `local dest` would fail and leave it with the script's value.

# The words, joined by spaces, after a mark of three columns; further lines stand below the first.
_defaults_say() {
    local _mark=$1 _text
    shift
    local IFS=' '
    _text=${*//$'\n'/$'\n   '}
    [ -n "$_text" ] || _mark=${_mark%"${_mark##*[! ]}"}
    printf '%s%s\n' "$_mark" "$_text"
}

# etitle TEXT…: what this script is about.
etitle() { _defaults_say '== ' "$@"; }

# estep TEXT…: what is done now.
estep() { _defaults_say ' * ' "$@"; }

# einfo TEXT…: a detail.
einfo() { _defaults_say '   ' "$@"; }

# ewarn TEXT…: doubtful, but the script goes on.
ewarn() { _defaults_say ' ! ' warning: "$@" >&2; }

# eerror TEXT…: wrong; what to do about it is up to the caller.
eerror() { _defaults_say '!! ' error: "$@" >&2; }

# die [-s STATUS] TEXT…: eerror, and the script ends with STATUS (1 to 255; default 1).
die() {
    local _status=1
    if [ "${1-}" = -s ]; then
        _status=${2-}
        shift "$(($# > 1 ? 2 : 1))"
        # A failure that ended with 0 would be taken for a success.
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

# is_no VALUE: true for no, n, false, f, off, 0, non, in any case. What is neither yes nor no
# (the empty string, a typing error) is false for both.
is_no() {
    case ${1-} in
    [nN] | [nN][oO] | [fF] | [fF][aA][lL][sS][eE] | [oO][fF][fF] | 0 | [nN][oO][nN]) return 0 ;;
    esac
    return 1
}

# quietly COMMAND…: its output is shown, on stderr, only if it fails; its status is kept.
#
# The output goes to a file and not to a pipe: a daemon that COMMAND leaves behind would keep the
# pipe open, and the script would wait for it forever. COMMAND runs in a subshell, where the
# caller's `set -e` still holds (in `COMMAND || status=$?` it would not); hence the two levels
# below, as a command substitution starts without it.
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
