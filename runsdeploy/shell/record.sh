# Records of where a SCRIPT section fails, for locate.sh. Part of step.sh.
#
# The records are made in the section's own shell, which must behave as without them. So no command is run: under `set -x`
# it would be traced, and it would change `$_`. Instead bash itself writes the record, as its message about a redirection
# from a path that cannot exist: neither redirections nor definitions of functions are traced. The message has the call
# stack: lines, files, the innermost function, and the command.
#
# Files in RUNS_STEP: `failed.DEPTH.SUBSHELL.OPTION`, the last failure at each depth of calls and of subshells, OPTION is
# `e` under `set -e`; `exited.SUBSHELL.NUMBER`, calls of `exit`; `ended`, the end of the section's shell.

# shellcheck disable=SC2016,SC2154 # expanded when the trap runs; RUNS_step_*: meta.sh
# shellcheck disable=SC2329,SC2261,SC2034,SC2064 # the trick; the second stderr is only opened if the first one was

RUNS_count=0 RUNS_exits=0
RUNS_stack='${BASH_LINENO[*]/%/ }</>${BASH_SOURCE[*]/%/</>}<<>>${FUNCNAME[0]-main}<<>>$BASH_COMMAND<<<>>>" || RUNS_nothing() { :; }'
RUNS_failed='{ RUNS_nothing() { :; }; } 2>/dev/null 2>|"$RUNS_STEP/failed.${#BASH_SOURCE[@]}.$((RUNS_count += 1, BASH_SUBSHELL)).${-//[^e]/}" <"/dev/null/RUNS $RUNS_count '
# Not if a section sets an ERR trap of its own: bash runs that after a function that set it only if there was one before,
# and with errtrace, without which functions do not inherit our trap, it would run in functions.
if [[ $RUNS_step_errtrace == yes ]]; then
    trap "$RUNS_failed\$? \$BASH_SUBSHELL \$LINENO $RUNS_stack" ERR
    set -E
fi
trap '{ RUNS_nothing() { :; }; } 2>/dev/null 2>|"$RUNS_STEP/ended" <"/dev/null/RUNS $RUNS_count $? $BASH_SUBSHELL 0 '"$RUNS_stack" EXIT

# A section's own ERR trap, where functions inherit it, is followed by our record; status and line are kept by the
# redirection before it, for its action must find `$?`.
RUNS_trap() {
    local RUNS_each RUNS_lines RUNS_action=${1-}
    local -a RUNS_others=()
    for RUNS_each in "${@:2}"; do
        case $RUNS_each in [Ee][Rr][Rr]) ;; *) RUNS_others+=("$RUNS_each") ;; esac
    done
    if (($# == ${#RUNS_others[@]} + 1)) || [[ -z $RUNS_action || $RUNS_action == -* ]]; then
        builtin trap "$@"
        # In a trap, `return` alone returns the status from before it.
        return "$?"
    fi
    # bash counts the lines of the action too.
    RUNS_each=${RUNS_action//[!$'\n']/}
    RUNS_lines=$((${#RUNS_each} + 1))
    builtin trap "{ $RUNS_action
} {RUNS_fd}<\"/dev/null\${RUNS_empty:0:(RUNS_error_line=LINENO-$RUNS_lines,RUNS_error=\$?)*0}\" {RUNS_fd}>&-; $RUNS_failed\$RUNS_error \$BASH_SUBSHELL \$RUNS_error_line $RUNS_stack" ERR
    ((${#RUNS_others[@]} == 0)) || builtin trap "$RUNS_action" "${RUNS_others[@]}"
}
if [[ $RUNS_step_errtrace == own ]]; then
    trap() {
        { local RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
            2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
        if RUNS_trap "$@"; then RUNS_retrace 0; else RUNS_retrace "$?"; fi
    }
fi

# bash resets LINENO before it runs an EXIT trap, so the line of an `exit` is recorded here.
exit() {
    { RUNS_nothing() { :; }; } 2>/dev/null 2>|"$RUNS_STEP/exited.$((RUNS_code = $?, RUNS_exits += 1, BASH_SUBSHELL)).$RUNS_exits" \
        <"/dev/null/RUNS $RUNS_count $RUNS_code $BASH_SUBSHELL ${BASH_LINENO[*]/%/ }</>${BASH_SOURCE[*]/%/</>}<<>>${FUNCNAME[1]-main}<<>>$BASH_COMMAND<<<>>>" || RUNS_nothing() { :; }
    { local RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
        2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    # The messages of bash would name this file.
    if [[ -n ${1+set} && ! ${1-} =~ ^(--|--help|[[:space:]]*[+-]?[0-9]+[[:space:]]*)$ ]]; then
        printf '%s: line %s: exit: %s: numeric argument required\n' "${BASH_SOURCE[1]}" "${BASH_LINENO[0]}" "$1" >&2
        (builtin exit "$1") 2>/dev/null || set -- "$?"
    elif (($# > 1)) && [[ $1 != -- ]]; then
        printf '%s: line %s: exit: too many arguments\n' "${BASH_SOURCE[1]}" "${BASH_LINENO[0]}" >&2
        # Once more, without bash's message: it ends the command of the top level.
        [[ $RUNS_options != *x* ]] || eval "{ set -x && builtin exit \"\$@\"; } 2>/dev/null ${BASH_XTRACEFD:-2}>/dev/null"
        builtin exit "$@" 2>/dev/null
    fi
    [[ $RUNS_options == *x* ]] || builtin exit "${@-$RUNS_code}"
    # `builtin exit` is traced before its own redirections bring back stderr and the trace, which an EXIT trap needs.
    eval "RUNS_leave() {
        { set -x && builtin exit \"\$@\" 2>&\"\$RUNS_stderr\" ${BASH_XTRACEFD:-2}>&\"\$RUNS_tracing\"; } \\
            {RUNS_stderr}>&2 {RUNS_tracing}>&${BASH_XTRACEFD:-2} 2>/dev/null ${BASH_XTRACEFD:-2}>/dev/null || builtin exit \"\$@\"
    }"
    RUNS_leave "${@-$RUNS_code}"
}
