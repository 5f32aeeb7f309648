# shellcheck shell=sh
# Whether a state directory may be used: no other user could have written it, or can replace it. POSIX sh: a part of the
# bootstrap and of the runner, and run by root about the directory of its own markers.

# find_problem BASE STATE: set `problem` to why a state directory must not be used, with what repairs it; empty if it may.
# Each component of the path counts, from `/` down and through each link. From BASE on, which is made by us, nothing may be
# a link or writable for others, nor may what we read and write there. One `ls` for all of it: each process takes time.
find_problem() {
    me=$(id -u) problem=''
    case $2 in
    *'
'*)
        problem="the path of the state directory \`$2\` holds a newline"
        return
        ;;
    esac
    problem=$(
        set +f
        inspect "$1" 40 "$2" "$2/hold" "$2/holder" "$2/lock" "$2/reserve" "$2/markers" "$2/outs" "$2/sessions" \
            "$2"/outs/* "$2"/sessions/*
    )
    problem=${problem%; }
}

# inspect BASE LINKS PATH ENTRY...: print the problems of a path's components, and of entries below it; at most so many
# links are followed.
inspect() {
    set -f
    trusted=$1 links=$2 rest=${3#/} part=''
    shift 3
    set -- "$@" /
    while [ -n "$rest" ]; do
        part=$part/${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
        set -- "$@" "$part"
    done
    # The order of the answers does not matter: nobody can replace what lies below directories that pass.
    # shellcheck disable=SC2012 # names are matched, not split
    LC_ALL=C ls -ldn "$@" 2>/dev/null | while IFS= read -r line; do judge "$line"; done
}

# judge LINE: print the problem of one line of `ls -ldn`.
judge() {
    name=/${1#* /} target=''
    # shellcheck disable=SC2086 # words on purpose
    set -- ${1%% /*}
    case $1 in l*) target=${name#* -> } name=${name%% -> *} ;; esac
    case $name in "$trusted" | "$trusted"/*) judge_own "$@" ;; *) judge_above "$@" ;; esac
}

# judge_own MODE NAMES OWNER GROUP...: of the state directory, or of something in it.
judge_own() {
    case $name in "$trusted") away="mv $(quoted "$name") $(quoted "$name.untrusted")" ;; *) away="rm -rf $(quoted "$name")" ;; esac
    case $1 in
    l*)
        case $target in /*) ;; *) target=${name%/*}/$target ;; esac
        [ "$name" != "$trusted" ] || away="rm $(quoted "$name")\`, and \`RUNSDEPLOY_STATE_DIR=$(quoted "$target")"
        distrust "is a symbolic link" "$away"
        return
        ;;
    esac
    case $3 in 0 | "$me") ;; *) distrust "belongs to user $3" "$away" && return ;; esac
    case $1 in
    [d-]????-??-*) ;;
    [d-]*) distrust "others may write it ($1)" "chmod go-w $(quoted "$name")" ;;
    *) distrust "is neither a file nor a directory ($1)" "$away" ;;
    esac
}

# judge_above MODE NAMES OWNER GROUP...: of a component above the state directory. In a directory like /tmp nobody can
# replace what belongs to others, which is the next component's question.
judge_above() {
    case $3 in
    0 | "$me") ;;
    *)
        distrust "belongs to user $3, who can replace what is below it" "chown -h $me $(quoted "$name")"
        return
        ;;
    esac
    case $1 in
    l*)
        case $target in /*) ;; *) target=${name%/*}/$target ;; esac
        # A subshell: the variables of this walk stay as they are.
        [ "$links" = 0 ] || (inspect "$trusted" $((links - 1)) "$target")
        ;;
    d????????[tT]*) ;;
    d???????w*) distrust "others may write it ($1), and so replace what is below it" "chmod o-w $(quoted "$name")" ;;
    d????w*)
        # Where each user has a group of their own, `umask 002` is usual.
        [ "$4" = 0 ] || { [ "$4" = "$(id -g)" ] && [ "$(id -gn)" = "$(id -un)" ]; } ||
            distrust "group $4 may write it ($1), and so replace what is below it" "chmod g-w $(quoted "$name")"
        ;;
    esac
}

# distrust WHAT REPAIR
distrust() { printf '%s' "cannot trust \`$name\`: $1: \`$2\`; "; }

# quoted PATH: as a shell reads it.
quoted() {
    case $1 in
    *[!A-Za-z0-9/._-]*) printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
    *) printf %s "$1" ;;
    esac
}

# find_marker_problem STATE: the same for the markers in it, after `find_problem`. Links of ours are left to `shouldrun`.
find_marker_problem() {
    [ -z "$problem" ] && [ -d "$1/markers" ] || return 0
    found=$(find "$1/markers" \( ! -user "$me" -o ! -type l \( -perm -020 -o -perm -002 \) \) 2>/dev/null | head -n 1)
    [ -z "$found" ] || problem="cannot trust \`$found\`: another user may write it: \`rm -rf $(quoted "$found")\`"
}
