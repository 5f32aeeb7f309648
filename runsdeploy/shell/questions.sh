# shellcheck shell=sh
# What the bootstrap answers where nothing is to be run: it is sent with it only then. Header as in
# bootstrap.sh; SEGMENT is the question, OFFSET what it is about.
#
# shellcheck disable=SC2154 # nonce, state, directory …: bootstrap.sh

answer() {
    case $segment in
    facts) facts ;;
    promise) promise ;;
    markers) markers ;;
    reset) take_back ;;
    account) account ;;
    sweep) sweep ;;
    unheard) unheard ;;
    holder) holder ;;
    hold) hold ;;
    release) release ;;
    esac
    say finish ok
}

# The facts of this machine, see facts.sh.
facts() {
    find_facts
    for name in sysname sysdist sysver bits; do
        # shellcheck disable=SC2154 # by eval
        eval "found=\$$name"
        say facts "$name${found:+ $found}"
    done
}

# What of the promise OFFSET does not hold here.
promise() {
    found=$(contradictions "$offset")
    [ -z "$found" ] || say note "$(word "$found")"
}

# say_markers OWNER: each line of the input is about a marker, which it names.
say_markers() { sed "s/^/$(printf '\036')$nonce marker $1 /"; }

# list_markers OWNER DIRECTORY [COMMAND...]: names first, then lines that markers hold. `shouldrun` trusts no link.
list_markers() {
    owner=$1 markers=$2/markers
    shift 2
    # shellcheck disable=SC2016 # expanded by that shell
    "$@" sh -c 'cd "$1" 2>/dev/null && find . -type f && find . -type l | sed "s/$/:trusted no/" &&
        grep -rs "$2" .' sh "$markers" "$lines" | say_markers "$owner"
}

# Their values, which is what a session would go by; with an OFFSET of `all` all that they say.
markers() {
    case $offset in all) lines='^[a-z]* [^ ]*$' ;; *) lines='^value ' && check_markers ;; esac
    list_markers own "$state"
    if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
        list_markers root "/var/lib/runsdeploy${state#"$base"}" sudo -n
    fi
    account
}

# As the runner does before its first step.
check_markers() {
    [ -d "$state/markers" ] || return 0
    found=$(find "$state/markers" \( -perm -020 -o -perm -002 -o ! -user "$(id -u)" \) ! -type l 2>/dev/null | head -n 1)
    [ -z "$found" ] || refuse state "cannot trust \`$found\`: another user may write it"
}

# Take markers back, and say which: OFFSET is BY:OWNER/PATH,OWNER/PATH…, each a marker or all of a script's. Not while
# a session runs, which may have asked them, nor where an operator keeps the target for himself.
take_back() {
    by=${offset%%:*}
    if [ -e "$state/hold" ] && ! { read -r keeper _ <"$state/hold" && [ "$keeper" = "$by" ]; }; then
        holder
        return
    fi
    mkdir -p "$state" 2>/dev/null
    if command -v flock >/dev/null 2>&1; then
        { true >>"$state/lock"; } 2>/dev/null || refuse state "cannot write \`$state/lock\`"
        exec 9>>"$state/lock"
        tries=0
        until flock -n 9; do
            found=$(holder)
            # Between saying no more and giving the lock back there is a moment.
            if [ -n "$found" ] || [ $((tries += 1)) -gt 2 ]; then
                printf '%s\n' "${found:-$(say "locked session - - - -")}"
                return
            fi
            sleep 1
        done
    fi
    echo "$by $(date -u +%Y-%m-%dT%H:%M:%SZ) reset process%20$$" >"$state/holder"
    for each in $(printf %s "${offset#*:}" | tr , ' '); do
        case $each in
        root/*) remove root "/var/lib/runsdeploy${state#"$base"}" "${each#*/}" sudo -n ;;
        *) remove own "$state" "${each#*/}" ;;
        esac
    done
    : >"$state/holder"
}

# remove OWNER DIRECTORY PATH [COMMAND...]: durable once it is said.
remove() {
    owner=$1 markers=$2/markers path=$3
    shift 3
    # shellcheck disable=SC2016 # expanded by that shell
    removed=$("$@" sh -c 'cd "$1" 2>/dev/null && find "./$2" -type f 2>/dev/null || exit 0
        find "./$2" -type l | sed "s/$/:trusted no/"
        rm -rf "./$2" || exit
        case $2 in */*) cd "./${2%/*}" || exit ;; esac
        sync . 2>/dev/null || sync' sh "$markers" "$path" 2>&1) || refuse state "cannot remove \`$markers/$path\`: $removed"
    [ -z "$removed" ] || printf '%s\n' "$removed" | say_markers "$owner"
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
    say_hold
}

say_hold() {
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

# Whose it was is said first: it may have been somebody else's.
release() {
    say_hold
    rm -f "$state/hold" || refuse state "cannot remove \`$state/hold\`"
}
