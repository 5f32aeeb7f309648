# The BASH_ENV of a SCRIPT section, read by bash before it: libraries, values, and a record of failed lines.
#
# The section itself is run as `bash FILE`, so $0, $LINENO and bash's messages are those of its file.

# shellcheck disable=SC2154 # RUNS_step_*: meta.sh, made by parameters.py

unset BASH_ENV ENV CDPATH GREP_OPTIONS POSIXLY_CORRECT
export -n RUNS_RUN RUNS_STEP RUNS_STATE RUNS_OUTS
umask 022

# RUNS_source FILE: with variables that are unset for want of the file, the section would do something else.
RUNS_source() {
    # shellcheck disable=SC2034 # the last line of the file sets it (parameters.py)
    RUNS_end=''
    # shellcheck source=/dev/null
    . "$1"
    [[ $RUNS_end != "${1##*/}" ]] || return 0
    # shellcheck disable=SC2016 # quotes of a name
    printf 'cannot read `%s`: nothing of this step was run\n' "$1" >&2
    builtin exit 1
}

RUNS_source "$RUNS_RUN/runs.sh"
# shellcheck disable=SC2034 # urequire
RUNS_loaded=' runs '
urequire DEFAULTS
RUNS_source "$RUNS_STEP/values.sh"

# RUNS_failed HOW [COMMAND]: record the line of the section that failed last or called `exit`: the innermost line in the
# section's own file, not one of a library. A COMMAND is printed, with its line in a library of the trees.
RUNS_failed() {
    local RUNS_i RUNS_inside=''
    for ((RUNS_i = 1; RUNS_i < ${#BASH_SOURCE[@]}; RUNS_i++)); do
        if [[ ${BASH_SOURCE[RUNS_i]} == "$0" ]]; then
            printf '%s %s\n' "${BASH_LINENO[RUNS_i - 1]}" "$1" 2>/dev/null >|"$RUNS_STEP/failed"
            # The form of bash's own messages, from which the controller takes the line.
            (($# == 1)) || printf "%s: line %s: %s\`%s\` failed\n" "$0" "${BASH_LINENO[RUNS_i - 1]}" "$RUNS_inside" "$2" >&2
            return
        elif [[ -z $RUNS_inside && ${BASH_SOURCE[RUNS_i]} == "$RUNS_RUN/tree/"* ]]; then
            RUNS_inside="lib/${BASH_SOURCE[RUNS_i]#"$RUNS_RUN/tree/"}:${BASH_LINENO[RUNS_i - 1]}: "
        fi
    done
}
trap 'RUNS_failed last' ERR

exit() {
    local RUNS_code=${1-$?}
    # The `exit` of a subshell need not end the section.
    if ((BASH_SUBSHELL)); then RUNS_failed last; else RUNS_failed exit; fi
    builtin exit "$RUNS_code"
}

RUNS_source "$RUNS_STEP/meta.sh"
[[ $RUNS_step_root == no ]] || printf '%s\n' "$$" >|"$RUNS_STEP/pid"
if [[ $0 != "$RUNS_RUN/mark.sh" ]]; then
    case $RUNS_step_once in
    once) shouldrun || builtin exit ;;
    onchange) shouldrun onchange "$RUNS_DIGEST" || builtin exit ;;
    esac
    if [[ $RUNS_step_strict == yes ]]; then
        set -eE -o pipefail
        # Before 4.4 an empty array counts as unset.
        if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)); then set -u; fi
        trap 'RUNS_failed last "$BASH_COMMAND"' ERR
    fi
fi
