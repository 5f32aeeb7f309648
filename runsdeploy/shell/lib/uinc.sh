# shellcheck shell=bash
# uinc: expand include directives in a file.
#
# A directive is a line `#@include NAME`. Blanks may precede it; there is no blank between the comment sign and the `@`,
# at least one before NAME, and any number after NAME. The comment sign is # ; // -- % or `<!--` or `/*`; after the last
# two, `-->` or `*/` ends NAME. NAME is the rest of the line: it may contain blanks, and quotes are not special.
# Needs DEFAULTS for its messages.

# shellcheck disable=SC2030,SC2031 # _tmp: each subshell has its own, deliberately
# shellcheck disable=SC2094 # a file is read, and named in messages

# shellcheck source-path=SCRIPTDIR source=files.sh
. "${BASH_SOURCE[0]%/*}/files.sh"
#
# shellcheck disable=SC2030,SC2031,SC2094 # everything runs in a subshell, and only reads

# Directories that are searched for NAME if it is not beside the including file.
declare -p uinc_path >/dev/null 2>&1 || uinc_path=()

# uinc FILE [OUTPUT]: write FILE, with its includes expanded, to stdout or to OUTPUT. If anything is missing, nothing is
# written.
uinc() {
    local _ret=0
    (
        trap - ERR DEBUG RETURN
        trap '[ -z "$_tmp" ] || command rm -f "$_tmp"' EXIT
        set +efuC +o pipefail
        shopt -u failglob nocasematch extdebug
        # In UTF-8, `read` would take a stray byte and the newline after it for one character.
        IFS=$' \t\n' LC_ALL=C
        _tmp=''
        [ "${1-}" != -- ] || shift
        [ $# -eq 1 ] || [ $# -eq 2 ] || _uinc_fail 'usage: uinc FILE [OUTPUT]' || exit 2
        _uinc_main "$@"
    ) || _ret=$?
    return "$_ret"
}

_uinc_fail() {
    eerror "$*"
    return 1
}

_uinc_main() {
    local _text _path
    _file_path "$1" '' && [ -f "$_path" ] || _uinc_fail "uinc: $(_file_show "$1") is not a file" || return
    # Expand everything before anything is written. The dot keeps the newlines at the end.
    _text=$(_uinc_expand "$_path" && printf .) || return
    _text=${_text%.}
    if [ $# -eq 1 ]; then printf %s "$_text"; else _uinc_write "$2"; fi
}

_uinc_write() {
    _file_path "$1" '' || _uinc_fail 'uinc: OUTPUT is empty' || return
    [ ! -e "$_path" ] || [ -f "$_path" ] || _uinc_fail "uinc: $(_file_show "$_path") is not a regular file" || return
    if [ -f "$_path" ] && [ ! -L "$_path" ]; then
        ! printf %s "$_text" 2>/dev/null | command cmp -s - "$_path" || return 0
    fi
    { _file_temp "$_path" && printf %s "$_text" >|"$_tmp" && _file_dress "$_path" 0666 && _file_replace "$_path"; } ||
        _uinc_fail "uinc: $(_file_show "$_path") cannot be written"
}

# _uinc_expand FILE [INCLUDING FILES…]: the including files from the nearest to the outermost.
_uinc_expand() {
    local _l _eol=$'\n' _n=0 _name _where _content
    _file_is_text "$1" 2>/dev/null || _uinc_fail "$(_file_show "$1"): cannot be read, or holds a NUL" || return
    while IFS= read -r _l || { [ -n "$_l" ] && _eol=''; }; do
        _n=$((_n + 1))
        if ! _uinc_directive "$_l"; then
            printf '%s%s' "$_l" "$_eol"
            continue
        fi
        _where=$(_file_show "$1"):$_n
        [ -n "$_name" ] || _uinc_fail "$_where: no name, or no end of comment, after @include" || return
        _uinc_find "${1%/*}/" || _uinc_fail "$_where: \`$_name\` not found" || return
        _uinc_cycle "$_name" "$@" || return
        _content=$(_uinc_expand "$_name" "$@" && printf .) || return
        _content=${_content%.}
        printf %s "$_content"
        # After a last line without a newline, the next line must still be a line of its own.
        case $_content in '' | *$'\n') ;; *) printf %s "$_eol" ;; esac
    done <"$1"
}

# _uinc_directive LINE: true for a directive; set _name, which is empty if the directive is malformed.
_uinc_directive() {
    local _close='' _form=$'^[ \t]*(#|;|//|--|%|<!--|/[*])@include([ \t].*|\r)?$'
    [[ $1 =~ $_form ]] || return
    _name=${BASH_REMATCH[2]%$'\r'}
    case ${BASH_REMATCH[1]} in '<!--') _close='-->' ;; '/*') _close='*/' ;; esac
    _uinc_trim
    if [ -n "$_close" ]; then
        case $_name in *"$_close") _name=${_name%"$_close"} ;; *) _name='' ;; esac
        _uinc_trim
    fi
}

_uinc_trim() {
    local _blank=$' \t'
    _name=${_name#"${_name%%[!"$_blank"]*}"}
    _name=${_name%"${_name##*[!"$_blank"]}"}
}

# _uinc_find DIR: set _name to the path of the file: in DIR, that of the including file, or else in uinc_path.
_uinc_find() {
    local _dir
    case $_name in
    /*) [ -f "$_name" ] && return ;;
    *)
        for _dir in "$1" ${uinc_path[@]+"${uinc_path[@]}"}; do
            _file_path "${_dir%/}/$_name" ''
            [ -z "$_dir" ] || [ ! -f "$_path" ] || { _name=$_path && return; }
        done
        ;;
    esac
    return 1
}

# _uinc_cycle FILE [INCLUDING FILES…]: fail if FILE is one of the including files, under any name.
_uinc_cycle() {
    local _f _chain
    _chain=$(_file_show "$1")
    for _f in "${@:2}"; do
        _chain="$(_file_show "$_f") -> $_chain"
        [ ! "$1" -ef "$_f" ] || _uinc_fail "$_where: a cycle: $_chain" || return
    done
}
