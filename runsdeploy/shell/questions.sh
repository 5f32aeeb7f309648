# shellcheck shell=sh
# The bootstrap's answers to questions about a machine; sent with the bootstrap only for a question. The header is that of
# bootstrap.sh; SEGMENT is the question, OFFSET its argument.
#
# shellcheck disable=SC2154 # nonce, state, directory …: bootstrap.sh; me, problem: trust.sh

answer() {
    case $segment in
    facts) facts ;;
    facts-check) check_facts ;;
    markers) markers ;;
    reset) reset_markers ;;
    account) account ;;
    ready) ready ;;
    cleanup) clean_up ;;
    stay) stay ;;
    unacknowledged) unacknowledged ;;
    holder) holder ;;
    hold) hold ;;
    release) release ;;
    esac
    emit finish ok
}

# The facts of this machine, see facts.sh.
facts() {
    find_facts || refuse tools "\`uname\` says nothing on the target, so its facts cannot be found"
    for name in sysname sysdist sysver bits; do
        # shellcheck disable=SC2154 # by eval
        eval "found=\$$name"
        emit facts "$name${found:+ $found}"
    done
}

# The expected facts in OFFSET that this machine does not have.
check_facts() {
    found=$(contradictions "$offset") || refuse tools "\`uname\` says nothing on the target, so its facts cannot be found"
    [ -z "$found" ] || emit note "$(encode "$found")"
}

# emit_markers OWNER: an event for each line of the input, which begins with the path of a marker. The first line that
# `sed` reads is what it puts before the others: everybody may read its arguments.
emit_markers() { { say "$mark$nonce marker $1 " && cat; } | LC_ALL=C sed '1{h;d;};G;s/^\(.*\)\n\(.*\)$/\2\1/'; }

# list_markers OWNER DIRECTORY [COMMAND...]: names first, then lines of the markers. `shouldrun` trusts no link.
list_markers() {
    owner=$1 markers=$2/markers
    shift 2
    # A directory that cannot be read is not one without markers. (One marker may vanish meanwhile.)
    # shellcheck disable=SC2016 # expanded by that shell
    found=$("$@" sh -c '[ -e "$1" ] || exit 0
        cd "$1" 2>/dev/null && [ -r . ] || exit
        find . -type f; find . -type l | sed "s/$/:trusted no/"
        grep -rs "$2" . || :' sh "$markers" "$lines") || refuse state "cannot read \`$markers\`"
    [ -z "$found" ] || printf '%s\n' "$found" | emit_markers "$owner"
}

# The lines of all markers by which `shouldrun` answers; with an OFFSET of `all` all their lines. The same checks as the
# runner's before its first step.
markers() {
    case $offset in
    all) lines='^[a-z]* [^ ]*$' ;;
    *)
        lines='^\(value\|of\) '
        find_marker_problem "$state"
        [ -z "$problem" ] || refuse state "$problem"
        ;;
    esac
    list_markers own "$state"
    if [ "$me" != 0 ] && check_root; then
        list_markers root "/var/lib/runsdeploy${state#"$base"}" sudo -n
    fi
    account
}

# Refuse a directory of root's markers that others could have written. Fails if we cannot become root. Root judges for
# itself, by this very program, which `p` holds.
check_root() {
    # shellcheck disable=SC2016 # expanded by that shell
    problem=$({
        printf '%s\n' "$p" "find_problem /var/lib/runsdeploy /var/lib/runsdeploy${state#"$base"}"
        [ "$offset" = all ] || printf '%s\n' "find_marker_problem /var/lib/runsdeploy${state#"$base"}"
        printf '%s\n' 'printf %s "$problem"'
    } | sudo -n sh 2>/dev/null) || return
    [ -z "$problem" ] || refuse state "$problem"
}

# Remove markers and list the removed ones: OFFSET is BY:OWNER/PATH,OWNER/PATH…, each a marker or all of a script's. Not
# while a session runs, whose steps may have read them, nor while another operator holds the target.
reset_markers() {
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
            # A runner empties `holder` a moment before it releases the lock.
            if [ -n "$found" ] || [ $((tries += 1)) -gt 2 ]; then
                printf '%s\n' "${found:-$(emit "locked session - - - -")}"
                return
            fi
            sleep 1
        done
    fi
    echo "$by $(date -u +%Y-%m-%dT%H:%M:%SZ) reset process%20$$" >"$state/holder"
    for each in $(printf %s "${offset#*:}" | tr , ' '); do
        case $each in
        root/*) check_root && remove root "/var/lib/runsdeploy${state#"$base"}" "${each#*/}" sudo -n ;;
        *) remove own "$state" "${each#*/}" ;;
        esac
    done
    : >"$state/holder"
}

# remove OWNER DIRECTORY PATH [COMMAND...]: the events come after the removal is on the disk.
remove() {
    owner=$1 markers=$2/markers path=$3
    shift 3
    # shellcheck disable=SC2016 # expanded by that shell
    removed=$("$@" sh -c 'cd "$1" 2>/dev/null && find "./$2" -type f 2>/dev/null || exit 0
        find "./$2" -type l | sed "s/$/:trusted no/"
        rm -rf "./$2" || exit
        case $2 in */*) cd "./${2%/*}" || exit ;; esac
        sync . 2>/dev/null || sync' sh "$markers" "$path" 2>&1) || refuse state "cannot remove \`$markers/$path\`: $removed"
    [ -z "$removed" ] || printf '%s\n' "$removed" | emit_markers "$owner"
}

# The kind of login user: root, one that can become root, or neither.
account() {
    kind=user
    if [ "$(id -u)" = 0 ]; then
        kind=root
    elif sudo -n true 2>/dev/null; then
        kind=sudo
    fi
    emit account "$kind"
}

# Whether a later segment of this session will have a place for its files, and a way to become root if it needs one:
# steps of the other side run before, and would be of no use. OFFSET says whether a step may set a marker.
ready() {
    # shellcheck disable=SC2034 # make_directory
    marks=$offset
    make_directory
    rm -f "$here/attached.$$"
    rmdir "$directory/files/shared" "$directory/files" "$here" "$directory" 2>/dev/null
    account
}

# Remove the files of a session that ended on the other side. A runner that still runs a step removes them itself.
clean_up() {
    for each in "$directory"/segment*/alive; do ! is_locked "$each" || return 0; done
    sweep "$directory"
}

# Record that the controller lives, as long as it sends lines, see attachment.py.
stay() {
    record_expected
    while read -r _; do record_expected; done
}

# The newest segment without a final acknowledgement.
unacknowledged() {
    # shellcheck disable=SC2012,SC2045 # the names are ours: hexadecimal
    for session in $(ls -1t "$state/sessions" 2>/dev/null); do
        for here in "$state/sessions/$session"/segment*; do
            if [ -e "$here/owner" ] && [ ! -e "$here/end_acknowledged" ] && is_readable; then
                acknowledged=0
                { [ ! -e "$here/acknowledged" ] || read -r acknowledged <"$here/acknowledged"; } &&
                    read -r spool_nonce <"$here/nonce" && read -r by since <"$here/owner" &&
                    emit "unacknowledged $session ${here##*/} $spool_nonce $acknowledged $by $since"
                return
            fi
        done
    done
}

# Whether the segment was started by a runsdeploy of this protocol.
is_readable() { read -r found <"$here/started" && [ "$found" = "$protocol" ]; }

# The holders of the target: a session that holds its lock, and an operator who holds it by `lock add`.
holder() {
    if [ -s "$state/holder" ] && command -v flock >/dev/null 2>&1 && ! flock -n "$state/lock" true 2>/dev/null; then
        read -r by since doing which <"$state/holder" && emit "locked session $by $since $doing $which"
    fi
    operator
}

operator() {
    if [ -e "$state/hold" ]; then read -r by since doing <"$state/hold" && emit "locked operator $by $since $doing -"; fi
}

# Hold the target for an operator: OFFSET is BY:REASON, each encoded.
hold() {
    mkdir -p "$state" 2>/dev/null
    if (set -C && echo "${offset%%:*} $(date -u +%Y-%m-%dT%H:%M:%SZ) ${offset#*:}" >"$state/hold") 2>/dev/null; then
        sync "$state/hold" 2>/dev/null || sync
    else
        [ -e "$state/hold" ] || refuse state "cannot write \`$state/hold\`"
        holder
    fi
}

# Release the target. The operator who held it comes first: it may have been another one.
release() {
    operator
    rm -f "$state/hold" || refuse state "cannot remove \`$state/hold\`"
}
