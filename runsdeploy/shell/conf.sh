# Evaluates CONF sections on the controller, each in a subshell of its own.
#
# Requests come from a file (fd 62), and declarations go to stdout (fd 63). Both are sequences of fields, and each field
# ends in NUL; a record of declarations begins with the number of its fields. Values are bytes: the controller runs this
# under LC_ALL=C. All names here start with RUNS_, which no operator's variable may, as both are in the same shell.

# shellcheck disable=SC2016 # backticks in messages are quotes of names
# shellcheck disable=SC2154 # RUNS_root, RUNS_host, RUNS_reserved: the environment; lists: RUNS_list

RUNS_self=${BASH_SOURCE[0]}

RUNS_emit() { printf '%s\0' "$#" "$@" >&63; }

# RUNS_lost PATH: a file of ours cannot be used. The controller says why, and nothing that was declared counts.
RUNS_lost() { RUNS_emit lost "$1"; }

# shellcheck source-path=SCRIPTDIR source=declarations.sh
. "${RUNS_self%/*}/declarations.sh"

# --- evaluation --------------------------------------------------------------------------------

exit() {
    local RUNS_status=${1-$?}
    RUNS_caller
    RUNS_exit_file=$RUNS_file RUNS_exit_line=$RUNS_line
    builtin exit "$RUNS_status"
}

# Runs whenever the subshell ends, except by SIGKILL. A section that ended neither regularly nor by `exit` failed under
# its own `set -e`, or was killed; the controller reports that.
RUNS_on_exit() {
    local RUNS_status=$1
    [[ $RUNS_ended == no ]] || return 0
    if [[ -n $RUNS_exit_line ]]; then
        RUNS_file=$RUNS_exit_file RUNS_line=$RUNS_exit_line
        if ((RUNS_status)); then
            RUNS_problem "the section ends with status $RUNS_status"
        elif [[ $RUNS_sourcing != "$RUNS_root/section/$RUNS_conf" ]]; then
            RUNS_problem '`exit` here would end the CONF sections of all scripts below, use `return`'
        fi
        RUNS_finish
    elif [[ -n $RUNS_failed_command ]]; then
        RUNS_file=$RUNS_sourcing RUNS_line=$RUNS_failed_line
        [[ $RUNS_failed_command == unknown ]] ||
            RUNS_problem "the section ends with a failure: \`$RUNS_failed_command\` has status $RUNS_status"
        RUNS_finish
    fi
}

# A failing command that nothing tests is an error if it is unknown or the last one. (A section is not run under
# `set -e`: `[ -n "$x" ] && var y=z` is a valid last line.)
RUNS_on_error() {
    local RUNS_file RUNS_line
    [[ $4 != "$RUNS_self" ]] || return 0
    RUNS_failed_command=$3 RUNS_failed_line=$2
    RUNS_locate "$4" "$2"
    if (($1 == 127)); then
        RUNS_emit unknown "$RUNS_file" "$RUNS_line" "$3"
        RUNS_failed_command=unknown
    elif [[ $3 =~ ^(\.|source)\ ([A-Za-z0-9_./-]+)$ && ! -e ${BASH_REMATCH[2]} ]]; then
        RUNS_problem "no file \`${BASH_REMATCH[2]}\` to source"
    fi
}

# bash calls this in a subshell, also for a command whose failure is tested; the controller decides whether that is an
# error. The message is that of bash, with the operator's file: a section can hide it with `2>/dev/null`.
command_not_found_handle() {
    RUNS_caller
    RUNS_emit not_found "$RUNS_file" "$RUNS_line" "$1"
    printf '%s: line %s: %s: command not found\n' "$RUNS_file" "$RUNS_line" "$1" >&2
    return 127
}

# RUNS_source SECTION: its first line says that bash has read it, and sets a trap that records its last command
# (workdir.py).
RUNS_source() {
    local RUNS_status
    RUNS_sourcing=$1 RUNS_failed_command='' RUNS_last='' RUNS_last_line=0 RUNS_opened=no
    RUNS_emit section "${1##*/}"
    trap 'RUNS_on_error "$?" "$LINENO" "$BASH_COMMAND" "${BASH_SOURCE[0]}"' ERR
    # shellcheck disable=SC1090
    . "$1"
    RUNS_status=$?
    trap - ERR DEBUG
    [[ $RUNS_opened == yes ]] || RUNS_emit unread "${RUNS_sourcing##*/}"
    if ((RUNS_status)) && [[ $RUNS_last == return* ||
        (-n $RUNS_failed_command && $RUNS_failed_command == "$RUNS_last") ]]; then
        # Not $1: the section may change it with `set -- a b`.
        RUNS_file=$RUNS_sourcing RUNS_line=$RUNS_last_line
        RUNS_problem "the section ends with a failure: \`$RUNS_last\` has status $RUNS_status"
    fi
}

RUNS_load_sysinfos() {
    local RUNS_each RUNS_i
    if [[ -n $RUNS_sysinfos ]]; then
        RUNS_source "$RUNS_root/section/$RUNS_sysinfos"
        RUNS_file=$RUNS_root/section/$RUNS_sysinfos RUNS_line=0
        for RUNS_each in sysname sysdist sysver; do
            [[ -z ${RUNS_known[$RUNS_each]-} ]] || continue
            if eval "((\${#${RUNS_each}[@]}))"; then
                eval "RUNS_change $RUNS_each '()' \"\${${RUNS_each}[@]}\""
            fi
        done
        if [[ -z ${RUNS_known[bits]-} && -n ${bits-} ]]; then RUNS_change bits '=' "$bits"; fi
    fi
    # A file of comments, as `init` makes it, sets no facts.
    [[ -z ${RUNS_known[sysname]-}${RUNS_known[sysdist]-}${RUNS_known[sysver]-}${RUNS_known[bits]-} ]] || return 0
    RUNS_file='' RUNS_line=0
    for ((RUNS_i = 0; RUNS_i < ${#RUNS_fact_name[@]}; RUNS_i++)); do
        RUNS_change "${RUNS_fact_name[RUNS_i]}" "${RUNS_fact_kind[RUNS_i]}" \
            "${RUNS_fact_values[@]:${RUNS_fact_start[RUNS_i]}:${RUNS_fact_count[RUNS_i]}}"
    done
}

RUNS_finish() {
    local RUNS_each
    local -a RUNS_copy
    RUNS_ended=yes
    RUNS_emit finish
    for RUNS_each in ${RUNS_order[@]+"${RUNS_order[@]}"}; do
        # As below, in half the time, for one value that is as it was.
        eval "RUNS_copy=(\${${RUNS_each}[@]+\"\${${RUNS_each}[@]}\"})"
        if ((${#RUNS_copy[@]} == 1)) && [ "1 ${RUNS_copy[0]}" = "${RUNS_snapshot[$RUNS_each]}" ]; then
            RUNS_emit value "$RUNS_each" "${RUNS_kind[$RUNS_each]}" "${RUNS_copy[0]}"
            continue
        fi
        RUNS_fingerprint "$RUNS_each"
        if [[ $RUNS_text != "${RUNS_snapshot[$RUNS_each]}" ]]; then
            RUNS_emit plain "$RUNS_each"
            RUNS_replay "$RUNS_each"
        fi
        eval "RUNS_copy=(\${${RUNS_each}[@]+\"\${${RUNS_each}[@]}\"})"
        RUNS_emit value "$RUNS_each" "${RUNS_kind[$RUNS_each]}" ${RUNS_copy[@]+"${RUNS_copy[@]}"}
    done
}

RUNS_evaluate() {
    local RUNS_each
    exec </dev/null >"$RUNS_output" 2>&1 62<&- || { RUNS_lost "$RUNS_output" && builtin exit; }
    cd -- "$RUNS_root/$RUNS_folder" || { RUNS_lost "$RUNS_root/$RUNS_folder" && builtin exit; }
    declare -A RUNS_kind=() RUNS_known=() RUNS_snapshot=() RUNS_operated=()
    RUNS_order=() RUNS_ended=no RUNS_exit_file='' RUNS_exit_line=''
    # shellcheck disable=SC2034 # for the section; SCRIPT sections have it too
    RUNS_HOST=$RUNS_host
    trap 'RUNS_on_exit "$?"' EXIT
    for RUNS_each in ${RUNS_op_name[@]+"${RUNS_op_name[@]}"}; do
        RUNS_operated[$RUNS_each]=yes
        RUNS_remember "$RUNS_each"
        RUNS_replay "$RUNS_each"
    done
    for RUNS_each in ${RUNS_cascade[@]+"${RUNS_cascade[@]}"}; do RUNS_source "$RUNS_root/section/$RUNS_each"; done
    RUNS_load_sysinfos
    RUNS_source "$RUNS_root/section/$RUNS_conf"
    RUNS_finish
    # After `set -r` no file can be opened: then RUNS_main parses in a shell of its own.
    [[ $- != *r* ]] || builtin exit 0
    # Here, not in a subshell of its own: nothing comes after it, and the status of this shell is that of the parser.
    RUNS_emit parse
    RUNS_parse "$RUNS_body"
}

# --- requests ----------------------------------------------------------------------------------

RUNS_field() { IFS= read -r -d '' "$1" <&62; }

# RUNS_list ARRAY: read a count and as many fields.
RUNS_list() {
    # shellcheck disable=SC2034 # used by eval
    local RUNS_count RUNS_value
    eval "$1=()"
    RUNS_field RUNS_count
    while ((RUNS_count-- > 0)); do
        RUNS_field RUNS_value
        eval "$1+=(\"\$RUNS_value\")"
    done
}

# RUNS_operations PREFIX: read operations into arrays of names, kinds and value counts, and one array of all values.
RUNS_operations() {
    # shellcheck disable=SC2034 # used by eval
    local RUNS_at=0 RUNS_each
    RUNS_list "$1_name"
    RUNS_list "$1_kind"
    RUNS_list "$1_count"
    RUNS_list "$1_values"
    eval "$1_start=()"
    eval "for RUNS_each in \${$1_count[@]+\"\${$1_count[@]}\"}; do
        $1_start+=(\"\$RUNS_at\")
        ((RUNS_at += RUNS_each))
    done"
    return 0
}

RUNS_request() {
    RUNS_field RUNS_key
    RUNS_field RUNS_script
    RUNS_field RUNS_host
    RUNS_field RUNS_folder
    RUNS_field RUNS_describing
    RUNS_field RUNS_conf
    RUNS_field RUNS_body
    RUNS_field RUNS_sysinfos
    RUNS_list RUNS_cascade
    RUNS_list RUNS_directories
    RUNS_list RUNS_shared
    RUNS_operations RUNS_fact
    RUNS_operations RUNS_op
}

# RUNS_parse NUMBER: parse a SCRIPT section without running it. Its file begins with `set -n`, which cannot be undone:
# this shell runs no further command.
RUNS_parse() {
    exec </dev/null >"$RUNS_root/syntax/$1.output" 2>&1 62<&- || { RUNS_lost "$RUNS_root/syntax/$1.output" && builtin exit; }
    exec 63>&-
    # A script may enable it itself, but that line is not run here.
    shopt -s extglob
    # shellcheck disable=SC1090
    . "$RUNS_root/syntax/$1"
}

RUNS_main() {
    exec 63>&1 1>&2
    exec 62<"$RUNS_root/requests" || { RUNS_lost "$RUNS_root/requests" && return; }
    ulimit -c 0
    # A section that prints without end is killed when its output file has 16 MiB (in blocks of 1 KiB).
    ulimit -f 16384
    while RUNS_field RUNS_number; do
        RUNS_request
        RUNS_output=$RUNS_root/output/$RUNS_number
        RUNS_emit begin
        (RUNS_evaluate)
        RUNS_status=$?
        if [[ ! -e $RUNS_root/syntax/$RUNS_body.output ]]; then
            (RUNS_parse "$RUNS_body")
            RUNS_emit parsed "$?"
        fi
        # The end of the output: on a full disk, what bash says of a section may not be there. With the signal ignored,
        # an output of its full size does not kill this shell.
        trap '' XFSZ
        printf '\0' >>"$RUNS_output" || RUNS_lost "$RUNS_output"
        trap - XFSZ
        RUNS_emit "done" "$RUNS_status"
    done
}

RUNS_main
