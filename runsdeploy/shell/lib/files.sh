# shellcheck shell=bash
# files: functions of uinst and uinc that write files atomically. Private: scripts do not call them.

# shellcheck disable=SC2034 # _path, _perm and others are set for the callers

# _file_show PATH: print a path on one line, quoted for bash if it has to be.
_file_show() {
    local _quote=\' _quoted="'\\''"
    case $1 in ./[!-]*) set -- "${1#./}" ;; esac
    case $1 in
    *[[:cntrl:]]*) printf %q "$1" ;;
    '' | *[]\[[:space:]\"\'\\\`\$\&\;\|\<\>\(\)\*\?\{\}\!\#]*) printf "'%s'" "${1//$_quote/$_quoted}" ;;
    *) printf %s "$1" ;;
    esac
}

# _file_path PATH FOLLOW: set _path to PATH without a slash at the end, and so that no command takes it for an option;
# with FOLLOW, to the target of a link.
_file_path() {
    [ -n "$1" ] || return
    case $1 in /* | ./* | ../*) _path=$1 ;; *) _path=./$1 ;; esac
    while [ "$_path" != / ] && [ "$_path" != "${_path%/}" ]; do _path=${_path%/}; done
    [ -n "$2" ] && [ -L "$_path" ] || return 0
    _path=$(command readlink -f "$_path" && printf .) || return
    _path=${_path%$'\n'.}
}

# _file_set_mode NAME MODE: set the variable NAME to MODE, digits as four digits, so that modes can be compared. chmod
# refuses an invalid mode later.
_file_set_mode() {
    case $2 in
    '' | *[!0-7]* | ??????*) printf -v "$1" %s "$2" ;;
    *) printf -v "$1" %04o "$((8#$2))" ;;
    esac
}

# _file_stat PATH [-L]: set _perm (four octal digits), _uid and _gid; with -L, those of the target of a link.
_file_stat() {
    # The option is -c for GNU and busybox, -f for BSD.
    # shellcheck disable=SC2046 # its words are wanted
    set -- $(command stat ${2:+-L} -c '%a %u %g' "$1" 2>/dev/null || command stat ${2:+-L} -f '%Mp%Lp %u %g' "$1")
    [ $# -eq 3 ] || return
    printf -v _perm %04o "$((8#$1))"
    _uid=$2 _gid=$3
}

# _file_is_text PATH: true if the file holds no NUL, which bash cannot hold and diff should not show.
_file_is_text() {
    # shellcheck disable=SC2094 # both read
    LC_ALL=C command tr -d '\000' <"$1" | command cmp -s - "$1"
}

# _file_temp PATH: set _tmp to a new, private file in the directory of PATH. Its name starts with a dot, so that
# programs that read such directories (cron, sudo, run-parts) ignore it.
_file_temp() {
    local _name=${1%/*}/.tmp.$BASHPID.$RANDOM _why
    if _why=$( (umask 077 && set -C && : >"$_name") 2>&1); then
        _tmp=$_name
    else
        eerror "cannot write in $(_file_show "${1%/*}/"): ${_why##*: }"
        return 1
    fi
}

# _file_dress PATH BASE: give _tmp the owner and mode of the file PATH or, if there is no such file, the mode BASE
# without the umask's bits.
_file_dress() {
    local _ids
    if [ -f "$1" ] && [ ! -L "$1" ]; then
        _file_stat "$_tmp" && _ids=$_uid:$_gid && _file_stat "$1" || return
        [ "$_ids" = "$_uid:$_gid" ] || command chown "$_uid:$_gid" "$_tmp" || return
    else
        printf -v _perm %04o "$(($2 & ~8#$(umask)))"
    fi
    command chmod "$_perm" "$_tmp"
}

# _file_replace PATH: rename _tmp to PATH. After a crash there is the complete old file or the complete new one, because
# the content is on the disk before the rename.
_file_replace() {
    ! type -P sync >/dev/null || command sync "$_tmp" || return
    command mv -f "$_tmp" "$1" || return
    _tmp=''
    # Some file systems refuse this for a directory: the rename may reach the disk later, but the content is safe.
    command sync "${1%/*}/" 2>/dev/null || :
}

# _file_diff OLD NEW LABEL: set _diff or, if no diff may be shown, the reason _why. A diff is shown only of text, and
# only of files that all users of the target may read: logs keep a script's output, and must not hold private content.
_file_diff() {
    local _f
    _diff='' _why=''
    for _f in "$1" "$2"; do
        [ "$_f" != /dev/null ] || continue
        _file_stat "$_f" || return
        [ $((8#$_perm & 4)) -ne 0 ] || { _why="mode $_perm: no diff" && return; }
        _file_is_text "$_f" || { _why=binary && return; }
    done
    ! type -P diff >/dev/null || _diff=$(command diff -u -L "$3" -L "$3" "$1" "$2" |
        LC_ALL=C command sed '200{s/.*/… (the rest is not shown)/;q;}')
}

# _file_keep PATH: copy PATH, a file or a link, to PATH~.
_file_keep() {
    if [ -d "$1~" ] && [ ! -L "$1~" ]; then
        eerror "$(_file_show "$1~") is a directory"
        return 1
    fi
    command rm -f "$1~" && command cp -pP "$1" "$1~"
}

# _file_own PATH OWNER[:GROUP]: change the owner, and add the change to _what. chown is not run if find reports that
# PATH has this owner already, because chown clears setuid; without find, chown always runs.
_file_own() {
    local _user=${2%%:*} _group='' _was
    case $2 in *:*) _group=${2#*:} ;; esac
    [ -z "$(command find "$1" -prune ${_user:+-user "$_user"} ${_group:+-group "$_group"} 2>/dev/null)" ] || return 0
    _file_stat "$1" && _was=$_uid:$_gid && command chown -- "$2" "$1" && _file_stat "$1" || return
    [ "$_was" = "$_uid:$_gid" ] || _what+=", owner $_was -> $_uid:$_gid"
}

# _file_mode PATH MODE: change the mode, and add the change to _what. MODE is four digits, or letters for chmod.
_file_mode() {
    local _was _mode=$2
    _file_stat "$1" || return
    [ "$_perm" != "$_mode" ] || return 0
    _was=$_perm
    # Five digits: with fewer, GNU chmod keeps the setgid bit of a directory.
    case $_mode in [0-7]*) _mode=0$_mode ;; esac
    command chmod -- "$_mode" "$1" && _file_stat "$1" || return
    [ "$_was" = "$_perm" ] || _what+=", mode $_was -> $_perm"
}

# _file_link TARGET PATH: make PATH a link to TARGET, atomically.
_file_link() {
    _tmp=${2%/*}/.tmp.$BASHPID.$RANDOM
    command ln -s -- "$1" "$_tmp" || return
    # Without -T (BSD), `mv` would move the new link into the directory that an old link leads to.
    command mv -fT "$_tmp" "$2" 2>/dev/null || { command rm -f "$2" && command mv -f "$_tmp" "$2"; } || return
    _tmp=''
}

# _file_is_home PATH: true for /, . and .., in any spelling: `$dir/` with an empty dir, `/usr/..`, `$PWD`.
_file_is_home() {
    local _no
    for _no in / . ..; do
        [ "${1##*/}" != $_no ] || return 0
        [ -L "$1" ] || [ ! "$1" -ef $_no ] || return 0
    done
    return 1
}

# _file_is_in PATH DIR: true if PATH, or a directory above it in its spelling, is the directory DIR.
_file_is_in() {
    local _p=$1
    until [ "${_p:-/}" -ef "$2" ]; do
        case $_p in */*) _p=${_p%/*} ;; *) return 1 ;; esac
    done
}

# In the two filters, _eol is empty for a last line without a newline: no newline is added to it.
#
# _text_line LINE REGEX DROP: replace the first line that is LINE or matches REGEX by LINE, and remove the others;
# without such a line, add LINE at the end. With DROP, remove them all.
_text_line() {
    local _l _eol=$'\n' _seen=$3
    while IFS= read -r _l || { [ -n "$_l" ] && _eol=''; }; do
        if [ "$_l" = "$1" ] || { [ -n "$2" ] && [[ $_l =~ $2 ]]; }; then
            [ -z "$_seen" ] || continue
            _seen=yes _l=$1
        fi
        printf '%s%s' "$_l" "$_eol"
    done
    [ -z "$_seen" ] || return 0
    [ -n "$_eol" ] || printf '\n'
    printf '%s\n' "$1"
}

# _text_block FILE BEGIN END TEXT DROP: put TEXT between the lines BEGIN and END, which are added at the end if they are
# missing; with DROP, remove all three. Markers that do not pair are an error: a person has to repair them.
_text_block() {
    local _l _eol=$'\n' _n=0 _at=before
    while IFS= read -r _l || { [ -n "$_l" ] && _eol=''; }; do
        _n=$((_n + 1))
        case $_at$'\n'$_l in
        before$'\n'"$2")
            _at=inside
            [ -n "$5" ] || printf '%s\n%s' "$_l" "$4"
            ;;
        inside$'\n'"$3")
            _at=after
            [ -n "$5" ] || printf '%s%s' "$_l" "$_eol"
            ;;
        *$'\n'"$2" | *$'\n'"$3")
            eerror "$(_file_show "$1"):$_n: \`$_l\` does not pair with another marker"
            return 1
            ;;
        inside*) ;;
        *) printf '%s%s' "$_l" "$_eol" ;;
        esac
    done
    if [ $_at = inside ]; then
        eerror "$(_file_show "$1"): \`$2\` without \`$3\`"
        return 1
    fi
    [ "$_at$5" = before ] || return 0
    [ -n "$_eol" ] || printf '\n'
    printf '%s\n%s%s\n' "$2" "$4" "$3"
}
