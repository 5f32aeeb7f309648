# shellcheck shell=bash
# uinst: bring files, lines, blocks, links, modes and owners to a state, and report what changed.
#
# Every operation prints one line, `changed: …` or `unchanged: …`, for each path that it is given. It returns 0 unless
# it failed, and sets uinst_changed (this operation) and uinst_any (any operation since the library was loaded) to yes
# or no. A path that is in the wanted state is not touched, not even its ctime.
# Needs DEFAULTS for its messages.

# shellcheck disable=SC2034,SC2154 # set for scripts; set by files.sh

# shellcheck source-path=SCRIPTDIR source=files.sh
. "${BASH_SOURCE[0]%/*}/files.sh"

if ! declare -F _uinst_run >/dev/null; then
    uinst_changed=no uinst_any=no
fi

uinst_file() { _uinst_run file m:o:bqL 2 2 'SRC DEST' "$@"; }
uinst_text() { _uinst_run text m:o:bqL 2 2 'TEXT DEST' "$@"; }
uinst_tree() { _uinst_run tree m:d:o:bqL 2 2 'SRCDIR DESTDIR' "$@"; }
uinst_line() { _uinst_run line r:m:o:bqL 2 2 'LINE FILE' "$@"; }
uinst_noline() { _uinst_run noline bqL 2 2 'LINE FILE' "$@"; }
uinst_block() { _uinst_run block c:f:m:o:bqL 2 3 'NAME FILE TEXT (no TEXT with -f)' "$@"; }
uinst_noblock() { _uinst_run noblock c:bqL 2 2 'NAME FILE' "$@"; }
uinst_link() { _uinst_run link b 2 2 'TARGET LINK' "$@"; }
uinst_dir() { _uinst_run dir m:o:L 1 '' 'DIR…' "$@"; }
uinst_mode() { _uinst_run mode L 2 '' 'MODE PATH…' "$@"; }
uinst_owner() { _uinst_run owner L 2 '' 'OWNER[:GROUP] PATH…' "$@"; }
uinst_absent() { _uinst_run absent '' 1 '' 'PATH…' "$@"; }

# _uinst_run OPERATION OPTIONS LEAST MOST OPERANDS ARGUMENTS…: run an operation in a subshell, so that the script's
# options, traps, IFS and variables do not affect it, and it does not affect them. The subshell returns one status: 16
# if something changed, plus 0 for success or 1 to 15 for a failure.
_uinst_run() {
    local _op=$1 _allowed=$2 _least=$3 _most=$4 _operands=$5 _ret=0
    shift 5
    uinst_changed=no
    (
        _uinst_settle
        _uinst_options "$@" || exit
        shift "$((OPTIND - 1))"
        if [ $# -lt "$_least" ] || [ $# -gt "${_most:-$#}" ]; then _uinst_usage || exit; fi
        "_uinst_do_$_op" "$@" || _ret=$?
        exit "$((_ret + _did))"
    ) || _ret=$?
    # Killed by a signal: whether it changed anything is unknown.
    [ "$_ret" -lt 128 ] || return "$_ret"
    [ "$_ret" -lt 16 ] || uinst_changed=yes uinst_any=yes
    return "$((_ret % 16))"
}

# The shell state that the code below requires, whatever the script has set.
_uinst_settle() {
    trap - ERR DEBUG RETURN
    trap '[ -z "$_tmp" ] || command rm -f "$_tmp"' EXIT
    set +efuC +o pipefail
    GLOBIGNORE='' # before dotglob, which it changes
    shopt -u failglob nocasematch extdebug
    shopt -s dotglob nullglob
    # In UTF-8, `read` would take a stray byte and the newline after it for one character.
    IFS=$' \t\n' LC_ALL=C
    _mode='' _dirmode='' _owner='' _regex='' _comment='#' _from='' _backup='' _quiet='' _follow=''
    _src='' _text='' _tmp='' _path='' _what='' _diff='' _why='' _drop='' _tree='' _did=0
}

_uinst_options() {
    local _o
    OPTIND=1
    while getopts ":$_allowed" _o; do
        # -r '' would match every line; -o '' comes from a variable that is not set.
        [ -n "${OPTARG-x}" ] || _o='?'
        case $_o in
        m) _file_set_mode _mode "$OPTARG" ;;
        d) _file_set_mode _dirmode "$OPTARG" ;;
        o) _owner=$OPTARG ;;
        r) _regex=$OPTARG ;;
        c) _comment=$OPTARG ;;
        f) _from=$OPTARG ;;
        b) _backup=yes ;;
        q) _quiet=yes ;;
        L) _follow=yes ;;
        *) _uinst_usage || return ;;
        esac
    done
}

_uinst_usage() {
    local _i _c _words=uinst_$_op
    for ((_i = 0; _i < ${#_allowed}; _i++)); do
        _c=${_allowed:_i:1}
        if [ "$_c" = : ]; then _words=${_words%]}' …]'; else _words+=" [-$_c]"; fi
    done
    eerror "usage: $_words $_operands"
    return 2
}

# _uinst_fail [PATH] WORDS: print why the operation fails, and return 1.
_uinst_fail() {
    [ $# -eq 1 ] || set -- "$(_file_show "$1"): $2"
    eerror "uinst_$_op: $1"
    return 1
}

# _uinst_say PATH: print the operation's line; a non-empty _what holds the changes.
_uinst_say() {
    local _state=unchanged _detail=${_what#, content}
    [ -z "$_what" ] || _state=changed _did=16
    _detail=${_detail#, }
    _what=''
    if [ -z "$_tree" ]; then
        printf '%s: %s%s\n' $_state "$(_file_show "$1")" "${_detail:+ ($_detail)}"
    elif [ $_state = changed ]; then
        _tree=$((_tree + 1))
        einfo "$(_file_show "$1")${_detail:+ ($_detail)}"
    fi
    [ -z "$_diff" ] || printf '%s\n' "$_diff"
    _diff=''
}

# _uinst_path PATH: set _path to PATH; with -L, to the target of a link.
_uinst_path() {
    _file_path "$1" "$_follow" || _uinst_fail "$1" 'is not a path that leads anywhere'
}

# _uinst_path_nolink PATH: the same, but a link is an error: its target is a path that the script did not name.
_uinst_path_nolink() {
    _uinst_path "$1" || return
    [ ! -L "$_path" ] || _uinst_fail "$_path" 'is a link: -L acts on what it leads to'
}

# _uinst_meta PATH: set the requested owner and mode; the owner first, because chown clears setuid.
_uinst_meta() {
    [ -z "$_owner" ] || _file_own "$1" "$_owner" || _uinst_fail "$1" 'owner not set' || return
    [ -z "$_mode" ] || _file_mode "$1" "$_mode" || _uinst_fail "$1" 'mode not set'
}

_uinst_content() {
    if [ -n "$_src" ]; then command cat <"$_src"; else printf %s "$_text"; fi
}

# _uinst_put DEST BASE: write the content to DEST; BASE is the mode of a new file before the umask.
_uinst_put() {
    local _st=1
    if [ -L "$1" ]; then
        [ ! -d "$1" ] || _uinst_fail "$1" 'is a link to a directory' || return
    elif [ -f "$1" ]; then
        _uinst_content 2>/dev/null | command cmp -s - "$1"
        _st=$?
    elif [ -e "$1" ]; then
        _uinst_fail "$1" 'is not a regular file' || return
    fi
    case $_st in
    0) _uinst_meta "$1" ;;
    1) _uinst_write "$1" "$2" ;;
    *) _uinst_fail "$1" 'cannot be compared' ;;
    esac && _uinst_say "$1"
}

_uinst_write() {
    local _old=/dev/null _words=', new'
    [ ! -L "$1" ] || _words=', was a link'
    [ -L "$1" ] || [ ! -e "$1" ] || _old=$1 _words=''
    _file_temp "$1" || return
    _uinst_content >|"$_tmp" && _file_dress "$1" "$2" || _uinst_fail "$1" 'cannot be written' || return
    _uinst_meta "$_tmp" || return
    # A new file has another mode and owner at first; they are not reported.
    if [ -n "$_words" ]; then _what=$_words; else _what=", content$_what"; fi
    [ -n "$_quiet" ] || _file_diff "$_old" "$_tmp" "$(_file_show "$1")" || return
    _what+=${_why:+, $_why}
    _uinst_keep "$1" && { _file_replace "$1" || _uinst_fail "$1" 'cannot be replaced'; }
}

_uinst_keep() {
    [ -n "$_backup" ] && { [ -e "$1" ] || [ -L "$1" ]; } || return 0
    _file_keep "$1" || _uinst_fail "$1" 'cannot be kept'
}

# _uinst_source SRC: set _src, and _base, the mode before the umask. Of a source's mode only "executable" counts: files
# that are shipped to a target are private there.
_uinst_source() {
    case $1 in /*) _src=$1 ;; *) _src=./$1 ;; esac
    [ -f "$_src" ] && [ -r "$_src" ] && _file_stat "$_src" -L ||
        _uinst_fail "$1" 'is not a file that can be read' || return
    if [ $((8#$_perm & 0100)) -ne 0 ]; then _base=0777; else _base=0666; fi
}

_uinst_do_file() {
    local _base
    _uinst_source "$1" && _uinst_path "$2" || return
    if [ "$2" != "${2%/}" ] || { [ -d "$_path" ] && [ ! -L "$_path" ]; }; then
        [ -d "$_path" ] || _uinst_fail "$2" 'is not a directory' || return
        _uinst_path "${_path%/}/${1##*/}" || return
    fi
    _uinst_put "$_path" "$_base"
}

_uinst_do_text() {
    [ -z "$1" ] || _text=${1%$'\n'}$'\n'
    _uinst_path "$2" && _uinst_put "$_path" 0666
}

# _uinst_edit FILE FILTER ARGUMENTS…: replace the content of FILE by the output of FILTER.
_uinst_edit() {
    local _in=/dev/null
    _uinst_path_nolink "$1" || return
    if [ -e "$_path" ]; then
        [ -f "$_path" ] && _file_is_text "$_path" || _uinst_fail "$_path" 'is not a text file' || return
        _in=$_path
    elif [ -n "$_drop" ]; then
        _uinst_say "$_path"
        return
    fi
    _text=$("${@:2}" <"$_in" && printf .) || return
    _text=${_text%.}
    _uinst_put "$_path" 0666
}

_uinst_do_line() {
    case $1 in *$'\n'*) _uinst_fail 'a line has no newline in it' || return ;; esac
    [[ '' =~ $_regex ]]
    [ $? -lt 2 ] || _uinst_fail "$_regex" 'is not a regular expression' || return
    _uinst_edit "$2" _text_line "$1" "$_regex" "$_drop"
}

_uinst_do_noline() { _drop=yes && _uinst_do_line "$@"; }

_uinst_do_block() {
    local _base
    if [ -n "$_from" ]; then
        [ $# -eq 2 ] || _uinst_usage || return
        _uinst_source "$_from" || return
        _file_is_text "$_src" && _text=$(_uinst_content && printf .) ||
            _uinst_fail "$_from" 'is not a text file' || return
        set -- "$@" "${_text%.}"
        _src=''
    fi
    [ $# -eq 3 ] || _uinst_usage || return
    _uinst_edit_block "$@"
}

_uinst_do_noblock() { _drop=yes && _uinst_edit_block "$@"; }

# _uinst_edit_block NAME FILE [TEXT]: set the block to TEXT; without TEXT, remove the block.
_uinst_edit_block() {
    local _begin _end _tail='' _block=${3-}
    case ${1:-$'\n'}$_comment in *$'\n'*) _uinst_fail 'a name is one line' || return ;; esac
    case $_comment in '<!--') _tail=' -->' ;; '/*') _tail=' */' ;; esac
    _begin="$_comment BEGIN $1$_tail" _end="$_comment END $1$_tail"
    _block=${_block:+${_block%$'\n'}$'\n'}
    case $'\n'$_block in
    *$'\n'"$_begin"$'\n'* | *$'\n'"$_end"$'\n'*) _uinst_fail "the text holds a marker of \`$1\`" || return ;;
    esac
    _uinst_edit "$2" _text_block "$2" "$_begin" "$_end" "$_block" "$_drop"
}

# _uinst_put_link TARGET LINK: make LINK a symbolic link to TARGET.
_uinst_put_link() {
    local _have
    _what=', new'
    if [ -L "$2" ]; then
        _have=$(command readlink -n "$2" && printf .) || _uinst_fail "$2" 'cannot be read' || return
        _what=", was a link to $(_file_show "${_have%.}")"
        [ "$_have" != "$1." ] || _what=''
    elif [ -e "$2" ]; then
        [ -n "$_backup" ] && [ ! -d "$2" ] || _uinst_fail "$2" 'is not a link (a file is replaced with -b)' || return
        _what=', was a file'
    fi
    [ -z "$_what" ] || { _uinst_keep "$2" && _file_link "$1" "$2"; } || _uinst_fail "$2" 'cannot be made' || return
    _uinst_say "$2"
}

_uinst_do_link() { _uinst_path "$2" && _uinst_put_link "$1" "$_path"; }

_uinst_do_dir() {
    local _d
    for _d in "$@"; do _uinst_path_nolink "$_d" && _uinst_put_dir "$_path" "$_mode" || return; done
}

# _uinst_put_dir DIR MODE: make DIR a directory, with MODE if it is not empty.
_uinst_put_dir() {
    local _mode=$2
    [ ! -L "$1" ] || _uinst_fail "$1" 'is a link, not a directory' || return
    if [ -d "$1" ]; then
        _uinst_meta "$1" || return
    else
        command mkdir -p "${1%/*}/" && command mkdir ${_mode:+-m "$_mode"} "$1" && _uinst_meta "$1" ||
            _uinst_fail "$1" 'cannot be made a directory' || return
        _what=', new'
    fi
    _uinst_say "$1"
}

_uinst_do_mode() { _file_set_mode _mode "$1" && _uinst_each_meta "${@:2}"; }
_uinst_do_owner() { _owner=$1 && _uinst_each_meta "${@:2}"; }

_uinst_each_meta() {
    local _p
    [ -n "$_mode$_owner" ] || _uinst_usage || return
    for _p in "$@"; do
        _uinst_path_nolink "$_p" || return
        [ -e "$_path" ] || _uinst_fail "$_p" 'does not exist' || return
        _uinst_meta "$_path" && _uinst_say "$_path" || return
    done
}

# Check all paths before the first one is removed.
_uinst_do_absent() {
    local _p
    for _p in "$@"; do
        _uinst_path "$_p" || return
        ! _file_is_home "$_path" || _uinst_fail "$_p" 'is never removed' || return
    done
    for _p in "$@"; do
        _uinst_path "$_p" || return
        if [ -e "$_path" ] || [ -L "$_path" ]; then
            command rm -rf "$_path" || _uinst_fail "$_path" 'cannot be removed' || return
            _what=', removed'
        fi
        _uinst_say "$_path"
    done
}

_uinst_do_tree() {
    local _root
    [ -d "$1" ] || _uinst_fail "$1" 'is not a directory' || return
    _uinst_path "$1" && _from=$_path && _uinst_path_nolink "$2" || return
    ! _file_is_in "$_path" "$_from" || _uinst_fail "$2" 'is in the source' || return
    _root=$_path _tree=0
    _uinst_walk "$_from" "$_path" || return
    [ "$_tree" = 0 ] || _what=", entries: $_tree"
    _tree=''
    _uinst_say "$_root"
}

# _uinst_walk SRCDIR DESTDIR: copy everything in SRCDIR to DESTDIR.
_uinst_walk() {
    local _e _to _base _have
    _uinst_put_dir "$2" "$_dirmode" || return
    for _e in "$1"/*; do
        _to=${2%/}/${_e##*/}
        if [ -L "$_e" ]; then
            _have=$(command readlink -n "$_e" && printf .) && _uinst_put_link "${_have%.}" "$_to"
        elif [ "$_e" -ef "$_root" ]; then
            _uinst_fail "$_root" 'is in the source'
        elif [ -d "$_e" ]; then
            _uinst_walk "$_e" "$_to"
        elif [ -f "$_e" ]; then
            _uinst_source "$_e" && _uinst_put "$_to" "$_base"
        else
            _uinst_fail "$_e" 'is neither a file, a directory nor a link'
        fi || return
    done
}
