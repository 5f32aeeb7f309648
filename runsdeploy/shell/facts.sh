# shellcheck shell=sh
# What this machine is, and whether that is what a `sysinfos.conf` promises. POSIX sh: part of what the bootstrap
# answers (questions.sh) and of the runner. os-release(5) is parsed as that page says, never sourced.

# find_facts [ROOT]: set sysname, sysdist, sysver, each from the specific to the general, and bits. What they are made of
# is words of [A-Za-z0-9._+-], as os-release(5) wants them; another byte becomes `_`.
find_facts() {
    LC_ALL=C
    # No word of a file may become names of files.
    set -f
    # shellcheck disable=SC2046 # words on purpose
    set -- "${1-}" $(uname -srm)
    case $2 in
    Linux) kernel=linux ;;
    *) kernel=$(printf %s "$2" | tr '[:upper:]' '[:lower:]') ;;
    esac
    # The machine comes last, whatever the release is like.
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
    # What rolls has no version; what has no os-release has the kernel's.
    [ -n "$sysver" ] || [ "$build" != rolling ] || sysver=rolling
    [ -n "$sysver$release_id" ] || { add_version "${3%%-*}" && sysver=$list; }
}

# add WORD...: to the list, each once.
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

# unquote TEXT: set value to what a shell would make of it.
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

# contradictions PROMISE [ROOT]: print, in one line, what of it does not hold for this machine. PROMISE is words
# NAME:VALUE:VALUE... with `/` between them; of what nothing is found here nothing is contradicted. For a subshell.
contradictions() {
    find_facts "${2-}"
    said='' promise=$1
    while [ -n "$promise" ]; do
        each=${promise%%/*}
        case $promise in */*) promise=${promise#*/} ;; *) promise='' ;; esac
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
        [ -z "$found" ] || holds "$@" || said="$said${said:+, }\`$name\` is \`$found\` where \`$*\` is promised"
    done
    printf %s "$said"
}

# holds VALUE...: of a distribution the most specific that is promised must be true, of the others any.
holds() {
    [ "$name" != sysdist ] || set -- "$1"
    for one in "$@"; do
        if [ "$name" = sysver ]; then
            # Whoever promises less than the host says, or more, does not contradict it: 12 and 12.4.
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
