# shellcheck shell=sh
# What the bootstrap answers where nothing is to be run: it is sent with it only then. Header as in
# bootstrap.sh; SEGMENT is the question, OFFSET what it is about.
#
# shellcheck disable=SC2154 # nonce, state, directory …: bootstrap.sh

answer() {
    case $segment in
    facts) facts ;;
    markers) markers ;;
    account) account ;;
    sweep) sweep ;;
    unheard) unheard ;;
    holder) holder ;;
    hold) hold ;;
    release) release ;;
    esac
    say finish ok
}

of_release() { sed -n "s/^$1=//p" "$os_release" | tr -d "\"'"; }

# The facts of this machine, each from the specific to the general.
facts() {
    kernel=$(uname -s | tr '[:upper:]' '[:lower:]')
    case $(uname -m) in *64* | s390x) bits=64 ;; *) bits=32 ;; esac
    os_release=/etc/os-release
    [ -r "$os_release" ] || os_release=/dev/null
    say facts sysname "$kernel"
    # shellcheck disable=SC2046 # words on purpose
    say facts sysdist $(of_release ID) $(of_release ID_LIKE) "$kernel"
    # shellcheck disable=SC2046
    set -- $(of_release VERSION_ID) $(of_release VERSION_CODENAME)
    [ $# -gt 0 ] || set -- "$(uname -r)"
    say facts sysver "$@"
    say facts bits "$bits"
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
}

# Remove what a session that ended elsewhere left here.
sweep() {
    set -- "$directory/files" "$directory"/segment*/run "$directory"/segment*/payload*
    rm -rf "$@" 2>/dev/null || sudo -n rm -rf "$@" 2>/dev/null
}

# The newest session that nobody heard to its end.
unheard() {
    # shellcheck disable=SC2012,SC2045 # the names are ours: hexadecimal
    for session in $(ls -1t "$state/sessions" 2>/dev/null); do
        for here in "$state/sessions/$session"/segment*; do
            if [ -e "$here/about" ] && [ ! -e "$here/told" ]; then
                seen=0
                { [ ! -e "$here/seen" ] || read -r seen <"$here/seen"; } && read -r spoken <"$here/nonce" &&
                    read -r by since <"$here/about" && say "unheard $session ${here##*/} $spoken $seen $by $since"
                return
            fi
        done
    done
}

# Who has the target: a session that holds its lock, and the operator who holds it for himself.
holder() {
    if [ -s "$state/holder" ] && command -v flock >/dev/null 2>&1 && ! flock -n "$state/lock" true 2>/dev/null; then
        read -r by since doing which <"$state/holder" && say "locked session $by $since $doing $which"
    fi
    if [ -e "$state/hold" ]; then read -r by since doing <"$state/hold" && say "locked operator $by $since $doing -"; fi
}

# OFFSET is BY:REASON, each encoded.
hold() {
    mkdir -p "$state" 2>/dev/null
    if (set -C && echo "${offset%%:*} $(date -u +%Y-%m-%dT%H:%M:%SZ) ${offset#*:}" >"$state/hold") 2>/dev/null; then
        sync "$state/hold" 2>/dev/null || sync
    else
        [ -e "$state/hold" ] || refuse state "cannot write \`$state/hold\`"
        holder
    fi
}

release() { rm -f "$state/hold" || refuse state "cannot remove \`$state/hold\`"; }
