# shellcheck shell=sh
# Facts of this machine, and their comparison with the expected facts of a `sysinfos.conf`. POSIX sh: the queries of the
# bootstrap (questions.sh) and the runner source it. os-release(5) is parsed as that page says, never sourced.

# find_facts [ROOT]: set sysname, sysdist, sysver, each from the specific to the general, and bits. Their words hold
# only [A-Za-z0-9._+-], as os-release(5) requires; any other byte becomes `_`. Fails if `uname` says nothing.
find_facts() {
    LC_ALL=C
    # No word of a file may expand to file names.
    set -f
    # shellcheck disable=SC2046 # words on purpose
    set -- "${1-}" $(uname -srm)
    [ -n "${2-}" ] || return 1
    case $2 in
    Linux) kernel=linux ;;
    *) kernel=$(printf %s "$2" | tr '[:upper:]' '[:lower:]') ;;
    esac
    # The machine is the last word, even if the release has several.
    eval "machine=\${$#}"
    # shellcheck disable=SC2154 # by eval
    case $machine in *64* | s390x | alpha) bits=64 ;; *) bits=32 ;; esac
    release_id='' release_like='' version='' codename='' build=''
    for file in "$1/etc/os-release" "$1/usr/lib/os-release"; do
        if [ -r "$file" ]; then
            read_release <"$file"
            break
        fi
    done
    case $kernel in
    darwin) : "${release_id:=macos}" "${version:=$(sw_vers -productVersion 2>/dev/null)}" ;;
    freebsd) : "${version:=$(freebsd-version 2>/dev/null)}" ;;
    esac
    case $kernel in freebsd) version=${version%%-*} ;; esac
    list='' && add "$kernel" && sysname=$list
    # shellcheck disable=SC2086 # words on purpose
    list='' && add $release_id $release_like "$kernel" && sysdist=$list
    list='' && add_version "$version" && add "$codename" && sysver=$list
    # A rolling release has no version; a system without os-release has the kernel's.
    [ -n "$sysver" ] || [ "$build" != rolling ] || sysver=rolling
    [ -n "$sysver$release_id" ] || { add_version "${3%%-*}" && sysver=$list; }
}

# add WORD...: add words to the list, each once.
add() {
    for word in "$@"; do
        case $word in *[!A-Za-z0-9._+-]*) word=$(printf %s "$word" | tr -c 'A-Za-z0-9._+-' _) ;; esac
        [ "${#word}" -le 64 ] || word=$(printf %.64s "$word")
        case " $list " in *" $word "*) ;; *) list=$list${word:+${list:+ }$word} ;; esac
    done
}

# add_version VERSION: 12.4, then 12.
add_version() {
    while add "$1" && case $1 in [0-9]*.*) true ;; *) false ;; esac do
        set -- "${1%.*}"
    done
}

read_release() {
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        ID=*) unquote "${line#*=}" && release_id=$value ;;
        ID_LIKE=*) unquote "${line#*=}" && release_like=$value ;;
        VERSION_ID=*) unquote "${line#*=}" && version=$value ;;
        VERSION_CODENAME=*) unquote "${line#*=}" && codename=$value ;;
        BUILD_ID=*) unquote "${line#*=}" && build=$value ;;
        esac
    done
}

# unquote TEXT: set value to the text without its shell quotes.
unquote() {
    value='' rest=${1%"${1##*[![:space:]]}"}
    case $rest in
    \'*\')
        value=${rest#?} value=${value%?}
        return
        ;;
    \"*\") rest=${rest#?} rest=${rest%?} ;;
    esac
    while case $rest in *\\?*) true ;; *) false ;; esac do
        value=$value${rest%%\\*} rest=${rest#*\\}
        value=$value${rest%"${rest#?}"} rest=${rest#?}
    done
    value=$value$rest
}

# contradictions EXPECTED [ROOT]: print, in one line, the expected facts that this machine does not have. EXPECTED is
# words NAME:VALUE:VALUE... with `/` between them. A fact that cannot be found is not compared. Run it in a subshell.
contradictions() {
    find_facts "${2-}" || return
    different='' expected=$1
    while [ -n "$expected" ]; do
        each=${expected%%/*}
        case $expected in */*) expected=${expected#*/} ;; *) expected='' ;; esac
        IFS=:
        # shellcheck disable=SC2086 # words on purpose
        set -- $each
        IFS=' '
        case $1 in
        sysname) found=$sysname ;;
        sysdist) found=$sysdist ;;
        sysver) found=$sysver ;;
        bits) found=$bits ;;
        *) continue ;;
        esac
        name=$1
        shift
        [ -z "$found" ] || matches "$@" ||
            different="$different${different:+, }\`$name\` is \`$found\` where \`$*\` is expected"
    done
    printf %s "$different"
}

# matches VALUE...: true if the fact `name` has one of the expected values; of a distribution, the most specific one.
matches() {
    [ "$name" != sysdist ] || set -- "$1"
    for one in "$@"; do
        if [ "$name" = sysver ]; then
            # An expected version may be shorter or longer than the host's: 12 and 12.4 match.
            for has in "${found%% *}" "$codename"; do
                case $has. in "$one".*) return 0 ;; esac
                case $has in ?*) case $one. in "$has".*) return 0 ;; esac ;; esac
            done
        else
            case " $found " in *" $one "*) return 0 ;; esac
        fi
    done
    return 1
}
