# shellcheck shell=sh
# Removes what a session leaves that is over. POSIX sh: part of bootstrap.sh and of runner.sh.

# sweep SESSION [KEPT]: remove files, values and programs of all its segments, but not the file KEPT. Records stay: they
# hold no values. Only root can remove what a step of root made.
sweep() {
    # A rendered plan has no globs.
    set +f
    for each in "$1/files" "$1/expected" "$1/expected.new" "$1"/segment*/run "$1"/segment*/payload* \
        "$1"/segment*/returned "$1"/segment*/ends "$1"/segment*/dropped.new "$1"/segment*/attached.*; do
        [ -e "$each" ] || [ -L "$each" ] || [ -p "$each" ] || continue
        case $each in
        "${2-}") continue ;;
        # One that is being sent again: the next lines of its bootstrap report that the segment was started.
        */payload*) ! is_locked "$each" || continue ;;
        */attached.*) ! kill -0 "${each##*.}" 2>/dev/null || continue ;;
        esac
        rm -rf "$each" 2>/dev/null || sudo -n rm -rf "$each" 2>/dev/null
    done
}

# is_locked FILE: whether a process that lives holds a lock on it.
is_locked() { command -v flock >/dev/null 2>&1 && ! flock -n "$1" true 2>/dev/null; }
