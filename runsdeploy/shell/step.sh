# What bash reads before a SCRIPT section (its BASH_ENV): libraries, values, and where failures are.
#
# The section itself is run as `bash FILE`, so $0, $LINENO and bash's messages are those of its file.

# shellcheck disable=SC2154 # RUNS_step_*: meta.sh, made by bundle.py

unset BASH_ENV ENV CDPATH GREP_OPTIONS POSIXLY_CORRECT
export -n RUNS_RUN RUNS_STEP RUNS_STATE
umask 022

# shellcheck source-path=SCRIPTDIR source=runs.sh
. "$RUNS_RUN/runs.sh"
# shellcheck disable=SC2034 # urequire
RUNS_loaded=' runs '
urequire DEFAULTS
# shellcheck source=/dev/null
. "$RUNS_STEP/values.sh"

# The last untested failure, or the `exit` that ended the section: the runner tells its line.
RUNS_failed() { printf '%s\n' "$1" 2>/dev/null >"$RUNS_STEP/failed"; }
trap 'RUNS_failed "$LINENO"' ERR

exit() {
    local RUNS_code=${1-$?}
    [[ ${BASH_LINENO[0]} == 0 ]] || RUNS_failed "${BASH_LINENO[0]}"
    builtin exit "$RUNS_code"
}

# shellcheck source=/dev/null
. "$RUNS_STEP/meta.sh"
if [[ $0 != "$RUNS_RUN/mark.sh" ]]; then
    case $RUNS_step_once in
    once) shouldrun || builtin exit ;;
    onchange) shouldrun onchange "$RUNS_DIGEST" || builtin exit ;;
    esac
    if [[ $RUNS_step_strict == yes ]]; then
        set -eE -o pipefail
        # Before 4.4 an empty array counts as unset.
        if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)); then set -u; fi
        trap 'RUNS_failed "$LINENO"; printf "%s: line %s: \`%s\` failed\n" "$0" "$LINENO" "$BASH_COMMAND" >&2' ERR
    fi
fi
