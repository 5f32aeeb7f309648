# shellcheck shell=sh
# Where a session lies on this machine: the state directory and others that will do. POSIX sh: part of the bootstrap.
#
# shellcheck disable=SC2034,SC2154 # shared with bootstrap.sh; me, problem: trust.sh

find_state() {
    if [ -n "${RUNSDEPLOY_STATE_DIR:-}" ]; then
        base=$RUNSDEPLOY_STATE_DIR
    elif [ "$(id -u)" = 0 ]; then
        base=/var/lib/runsdeploy
    else
        base=${XDG_STATE_HOME:-${HOME:?}/.local/state}/runsdeploy
    fi
    set_paths "$base"
    # Before anything in it is opened: what others could have written there is neither read nor overwritten.
    find_problem "$base" "$state"
    [ -z "$problem" ] || refuse state "$problem"
}

# set_paths BASE: set state, directory (of the session) and here (the directory of the segment).
set_paths() {
    base=$1
    case $base in /*[!/]*) ;; *) refuse state "\`$base\` is not an absolute path" ;; esac
    base=${base%"${base##*[!/]}"}
    case $scope in .) state=$base ;; *) state=$base/$scope ;; esac
    directory=$state/sessions/$session
    here=$directory/$segment
}

# Make the segment's directory, if the markers are to be trusted. A segment that sets no marker may also run from another directory that is ours.
make_directory() {
    find_marker_problem "$state"
    [ -z "$problem" ] || refuse state "$problem"
    wanted=$here
    try_directory && return
    if [ "$marks" = no ] && try_elsewhere try_directory; then return; fi
    found=$({ mkdir -p "$wanted" && true >"$wanted/attached.$$"; } 2>&1)
    rm -f "$wanted/attached.$$"
    rmdir "$directory/files/shared" "$directory/files" "$here" "$directory" 2>/dev/null
    refuse state "cannot write \`$wanted\`: $found"
}

# try_elsewhere TEST: set the paths to the first other state directory for which TEST succeeds.
try_elsewhere() {
    for parent in "${XDG_RUNTIME_DIR:-/run}" /run /dev/shm /tmp; do
        set_paths "$parent/runsdeploy-$me"
        [ "$1" = has_spool ] || mkdir -m 700 "$base" 2>/dev/null
        is_private "$base" && find_problem "$base" "$state" && [ -z "$problem" ] &&
            { [ "$1" = has_spool ] || has_space; } && "$1" && return
    done
    return 1
}

# Whether the archive fits there, compressed and unpacked.
has_space() { [ "$(df -Pk "$base" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && echo "$free"; })" -gt $((length / 400 + 2048)) ]; }

has_spool() { [ -e "$here/spool" ]; }

# The files of a segment that was started may be removed by now, and must not be made again.
try_directory() { { [ -e "$here/started" ] || mkdir -p "$directory/files/shared" "$here"; } 2>/dev/null && [ -w "$here" ] && record_attached 2>/dev/null; }

# is_private DIRECTORY: whether it is one that we made. Its name is no secret.
is_private() {
    # shellcheck disable=SC2012 # no name is read
    [ -d "$1" ] && [ ! -L "$1" ] && case $(ls -ld "$1") in drwx------*) ;; *) false ;; esac
}

# no_space PATH: refuse, with the space that is needed and the space that is free.
no_space() {
    # shellcheck disable=SC2046 # words on purpose
    set -- "$1" $(df -Pk "$state" 2>/dev/null | tail -n 1) $(df -Pi "$state" 2>/dev/null | tail -n 1)
    rm -rf "$here" "$directory/files"
    rmdir "$directory" 2>/dev/null
    refuse space "cannot write \`$1\`: $length bytes and 1 MiB are needed, \`${7:-?}\` has ${5:-?} KiB and ${11:-?} inodes free"
}
