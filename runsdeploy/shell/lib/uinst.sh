# shellcheck shell=bash
# uinst: bring files, lines, blocks, links, modes and owners to a state, and say what changed.
#
# Every operation prints one line, `changed: …` or `unchanged: …`, for each path that it is given,
# returns 0 unless it failed, and sets uinst_changed (the last operation) and uinst_any (any since
# the library was loaded) to yes or no. Nothing is written when nothing has to change.
# Needs DEFAULTS, and no tool beyond POSIX but readlink; find, sync and diff may be missing.

if ! declare -F _uinst_run >/dev/null; then
    uinst_changed=no
    uinst_any=no
fi

uinst_file() { _uinst_run file '[-m MODE] [-o OWNER[:GROUP]] [-bqL] SRC DEST' "$@"; }
uinst_text() { _uinst_run text '[-m MODE] [-o OWNER[:GROUP]] [-bqL] TEXT DEST' "$@"; }
uinst_tree() { _uinst_run tree '[-m MODE] [-d DIRMODE] [-o OWNER[:GROUP]] [-bqL] SRCDIR DESTDIR' "$@"; }
uinst_line() { _uinst_run line '[-r REGEX] [-m MODE] [-o OWNER[:GROUP]] [-bqL] LINE FILE' "$@"; }
uinst_noline() { _uinst_run noline '[-bqL] LINE FILE' "$@"; }
uinst_block() { _uinst_run block '[-c COMMENT] [-m MODE] [-o OWNER[:GROUP]] [-bqL] NAME FILE TEXT|-f SRC' "$@"; }
uinst_noblock() { _uinst_run noblock '[-c COMMENT] [-bqL] NAME FILE' "$@"; }
uinst_link() { _uinst_run link '[-b] TARGET LINK' "$@"; }
uinst_dir() { _uinst_run dir '[-m MODE] [-o OWNER[:GROUP]] [-L] DIR…' "$@"; }
uinst_mode() { _uinst_run mode '[-L] MODE PATH…' "$@"; }
uinst_owner() { _uinst_run owner '[-L] OWNER[:GROUP] PATH…' "$@"; }
uinst_absent() { _uinst_run absent 'PATH…' "$@"; }

# _uinst_run OPERATION USAGE ARGUMENTS…: an operation runs in a subshell, so that the script's
# options, traps, IFS and directory neither disturb it nor are disturbed by it. What comes back is
# one status: 16 when something changed, plus 0 to 15 for success and failures.
_uinst_run() {
    local _op=$1 _usage=$2 _ret=0
    shift 2
    (
        _uinst_settle
        _uinst_options "$@" || exit
        shift "$((OPTIND - 1))"
        "_uinst_do_$_op" "$@" || _ret=$?
        exit "$((_ret + _did))"
    ) || _ret=$?
    uinst_changed=no
    [ "$_ret" -lt 128 ] || return "$_ret"
    if [ "$_ret" -ge 16 ]; then
        uinst_changed=yes
        uinst_any=yes
    fi
    return "$((_ret % 16))"
}

# The state that the code below is written for, whatever the script has set.
_uinst_settle() {
    trap - ERR DEBUG RETURN
    # A script that is stopped in the middle leaves no temporary file behind.
    trap '[ -z "$_tmp" ] || command rm -f "$_tmp"' EXIT
    set +efuC +o pipefail
    shopt -u failglob nocasematch
    shopt -s dotglob nullglob
    IFS=$' \t\n'
    unset -v GLOBIGNORE
    _mode='' _dirmode='' _owner='' _regex='' _comment='#' _from=''
    _backup='' _quiet='' _follow='' _src='' _text='' _tmp='' _path='' _what='' _tree='' _did=0
}

_uinst_options() {
    local _o _allowed=${_usage%%] [A-Z]*}
    OPTIND=1
    while getopts ':m:d:o:r:c:f:bqL' _o; do
        # Only what the usage names.
        case "$_usage" in *-"$_o"* | *-[bqL]*"$_o"*) ;; *) _o='?' ;; esac
        case $_o in
        m) _uinst_set_mode _mode ;;
        d) _uinst_set_mode _dirmode ;;
        o) _owner=$OPTARG ;;
        r) _regex=$OPTARG ;;
        c) _comment=$OPTARG ;;
        f) _from=$OPTARG ;;
        b) _backup=yes ;;
        q) _quiet=yes ;;
        L) _follow=yes ;;
        *) _uinst_usage ;;
        esac || return
    done
}
