# The BASH_ENV of a SCRIPT section, read by bash before it: libraries, values, and records of where it failed.
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

RUNS_source "$RUNS_STEP/meta.sh"
[[ $RUNS_step_root == no ]] || printf '%s\n' "$$" >|"$RUNS_STEP/pid"
if [[ $0 != "$RUNS_RUN/mark.sh" ]]; then
    case $RUNS_step_once in
    once) shouldrun || builtin exit ;;
    onchange) shouldrun onchange "$RUNS_DIGEST" || builtin exit ;;
    esac
    # shellcheck source-path=SCRIPTDIR source=record.sh
    . "$RUNS_RUN/record.sh"
    if [[ $RUNS_step_strict == yes ]]; then
        set -e -o pipefail
        # Before 4.4 an empty array counts as unset.
        if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)); then set -u; fi
    fi
fi
