# Evaluates CONF sections on the controller, each in a subshell of its own.
#
# Requests come from a file (fd 62), what the sections declare goes to our stdout (fd 63); both are
# sequences of fields that end in NUL, a record of the latter preceded by the number of its fields. Values are bytes: the
# caller runs this under LC_ALL=C. Everything here starts with RUNS_, a prefix no operator variable
# may have, because the operator's variables live in the same shell.
#
# A variable has two values: RUNS_b_NAME is what runs.conf, sysinfos.conf and CONF made of it, NAME
# is the same with the operations of the recipe and of --set applied. Keeping both is what makes
# "replayed after each `var`" end exactly as "applied after CONF".

# shellcheck disable=SC2016 # backticks in messages are quotes of names
# shellcheck disable=SC2154 # RUNS_root, RUNS_host, RUNS_reserved: the environment; lists: RUNS_list

RUNS_self=${BASH_SOURCE[0]}
RUNS_name='[A-Za-z_][A-Za-z0-9_]*'

RUNS_say() { printf '%s\0' "$#" "$@" >&63; }

# Set RUNS_file and RUNS_line to the operator's line that called us.
RUNS_here() {
    local RUNS_i
    for ((RUNS_i = 1; RUNS_i < ${#BASH_SOURCE[@]}; RUNS_i++)); do
        if [[ ${BASH_SOURCE[RUNS_i]} != "$RUNS_self" ]]; then
            RUNS_file=${BASH_SOURCE[RUNS_i]} RUNS_line=${BASH_LINENO[RUNS_i - 1]}
            return
        fi
    done
}

RUNS_problem() { RUNS_say problem "$RUNS_file" "$RUNS_line" "$1"; }

# --- variables ---------------------------------------------------------------------------------

# RUNS_apply VARIABLE KIND VALUE...: one operation on one shell variable.
RUNS_apply() {
    local RUNS_to=$1 RUNS_by=$2 RUNS_each
    local -a RUNS_kept=() RUNS_old=()
    shift 2
    eval "RUNS_old=(\${${RUNS_to}[@]+\"\${${RUNS_to}[@]}\"})"
    unset -v "$RUNS_to"
    if [[ $RUNS_by == '=' ]]; then
        eval "$RUNS_to=\$1"
        RUNS_kind[$RUNS_to]=scalar
        return
    fi
    [[ $RUNS_by == '()' ]] && RUNS_kept=("$@") && RUNS_old=()
    for RUNS_each in ${RUNS_old[@]+"${RUNS_old[@]}"}; do
        if [[ $RUNS_each == "$1" ]]; then
            [[ $RUNS_by == '+=' ]] || continue
            RUNS_by=there
        fi
        RUNS_kept+=("$RUNS_each")
    done
    [[ $RUNS_by != '+=' ]] || RUNS_kept+=("$1")
    eval "$RUNS_to=(\${RUNS_kept[@]+\"\${RUNS_kept[@]}\"})"
    RUNS_kind[$RUNS_to]=array
}

# RUNS_replay NAME: NAME = its base value with the operator's operations applied.
RUNS_replay() {
    local RUNS_base=RUNS_b_$1 RUNS_i
    local -a RUNS_copy=()
    unset -v "$1"
    case ${RUNS_kind[$RUNS_base]-} in
    scalar) eval "$1=\$$RUNS_base" ;;
    array)
        eval "RUNS_copy=(\${${RUNS_base}[@]+\"\${${RUNS_base}[@]}\"})"
        eval "$1=(\${RUNS_copy[@]+\"\${RUNS_copy[@]}\"})"
        ;;
    esac
    RUNS_kind[$1]=${RUNS_kind[$RUNS_base]-}
    for ((RUNS_i = 0; RUNS_i < ${#RUNS_op_name[@]}; RUNS_i++)); do
        [[ ${RUNS_op_name[RUNS_i]} == "$1" ]] || continue
        RUNS_apply "$1" "${RUNS_op_kind[RUNS_i]}" \
            "${RUNS_op_values[@]:${RUNS_op_start[RUNS_i]}:${RUNS_op_count[RUNS_i]}}"
    done
    RUNS_print "$1"
    RUNS_shape[$1]=$RUNS_text
}

# Set RUNS_text to something that differs when the variable does; no subshell, this runs often.
RUNS_print() {
    local -a RUNS_copy=()
    eval "RUNS_copy=(\${${1}[@]+\"\${${1}[@]}\"})"
    printf -v RUNS_text '%q ' "${#RUNS_copy[@]}" ${RUNS_copy[@]+"${RUNS_copy[@]}"}
}

# RUNS_change NAME KIND VALUE...: what `var`, `out` and `ref` do to a variable.
RUNS_change() {
    if ! [[ $1 =~ ^$RUNS_name$ ]]; then
        RUNS_problem "bad variable name \`$1\`, expected letters, digits and underscores"
        return 0
    elif [[ $1 =~ ^$RUNS_reserved$ ]]; then
        RUNS_problem "variable \`$1\` is reserved: a script needs it as bash sets it"
        return 0
    fi
    RUNS_apply "RUNS_b_$1" "${@:2}"
    RUNS_replay "$1"
    RUNS_remember "$1"
    RUNS_say set "$1" "$RUNS_file" "$RUNS_line" "$2" "${@:3}"
}

RUNS_remember() {
    [[ -n ${RUNS_known[$1]-} ]] || RUNS_order+=("$1")
    RUNS_known[$1]=yes
}

# --- what a CONF section calls -----------------------------------------------------------------

desc() {
    RUNS_here
    RUNS_say desc "$*"
}

conf() {
    local RUNS_each
    RUNS_here
    for RUNS_each; do RUNS_say flag "$RUNS_file" "$RUNS_line" "$RUNS_each"; done
}

after() {
    local RUNS_each RUNS_mode=order
    RUNS_here
    case ${1-} in
    -r) RUNS_mode=once ;;
    -rr) RUNS_mode=always ;;
    -*) RUNS_problem "bad option \`$1\` of \`after\`, expected \`-r\` or \`-rr\`" && return 0 ;;
    esac
    [[ $RUNS_mode == order ]] || shift
    if (($# == 0)); then
        RUNS_problem '`after` without a script'
    elif [[ $RUNS_mode == order ]]; then
        for RUNS_each; do RUNS_say after order "$RUNS_file" "$RUNS_line" "$RUNS_each"; done
    else
        RUNS_say after "$RUNS_mode" "$RUNS_file" "$RUNS_line" "$@"
    fi
}

var() {
    local RUNS_word
    RUNS_here
    if (($# == 0)); then
        RUNS_problem '`var` without a name'
    elif [[ $1 =~ ^$RUNS_name$ ]]; then
        RUNS_change "$1" '()' "${@:2}"
    else
        for RUNS_word; do
            if [[ $RUNS_word =~ ^($RUNS_name)(\+=|-=|=) ]]; then
                RUNS_change "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${RUNS_word:${#BASH_REMATCH[0]}}"
            elif [[ $RUNS_word =~ ^$RUNS_name$ ]]; then
                RUNS_change "$RUNS_word" '()'
            else
                RUNS_problem "bad operation \`$RUNS_word\`, expected \`name=value\`, \`name+=value\`, \`name-=value\` or \`name values...\`"
            fi
        done
    fi
}

out() {
    local RUNS_each
    RUNS_here
    (($#)) || RUNS_problem '`out` without a name'
    for RUNS_each; do
        RUNS_say out "$RUNS_file" "$RUNS_line" "${RUNS_each%%=*}" "${RUNS_each#*=}"
        RUNS_change "${RUNS_each%%=*}" '=' "$RUNS_root/shared/${RUNS_each#*=}"
    done
}

ref() {
    local RUNS_each RUNS_need=no RUNS_template=no
    RUNS_here
    while [[ ${1-} == -* ]]; do
        case $1 in
        -r) RUNS_need=yes ;;
        -t) RUNS_template=yes ;;
        -rt | -tr) RUNS_need=yes RUNS_template=yes ;;
        *) RUNS_problem "bad option \`$1\` of \`ref\`, expected \`-r\` or \`-t\`" ;;
        esac
        shift
    done
    (($#)) || RUNS_problem '`ref` without a name'
    for RUNS_each; do
        RUNS_find "${RUNS_each#*=}"
        RUNS_say ref "$RUNS_file" "$RUNS_line" "${RUNS_each%%=*}" "${RUNS_each#*=}" \
            "$RUNS_how" "$RUNS_found" "$RUNS_need" "$RUNS_template"
        if [[ $RUNS_template == yes && $RUNS_how == tree ]]; then
            RUNS_found=${RUNS_found##*/}
            RUNS_found=rendered/$RUNS_key/${RUNS_found%.j2}
        fi
        RUNS_change "${RUNS_each%%=*}" '=' "$RUNS_root/$RUNS_found"
    done
}

# RUNS_find FILE: beside the script, in the shared space, in the host directories, in the trees.
RUNS_find() {
    local RUNS_place
    RUNS_how=tree
    RUNS_found=$RUNS_folder/$1
    [[ -e $RUNS_root/$RUNS_found || -L $RUNS_root/$RUNS_found ]] && return
    for RUNS_place in ${RUNS_shared[@]+"${RUNS_shared[@]}"}; do
        [[ $RUNS_place == "$1" ]] && RUNS_how=shared RUNS_found=shared/$1 && return
    done
    for RUNS_place in ${RUNS_places[@]+"${RUNS_places[@]}"}; do
        RUNS_found=$RUNS_place/$1
        [[ -e $RUNS_root/$RUNS_found || -L $RUNS_root/$RUNS_found ]] && return
    done
    RUNS_how=missing RUNS_found=shared/$1
}

# --- facts -------------------------------------------------------------------------------------

sysinfos() {
    local RUNS_need=no RUNS_key='' RUNS_each RUNS_match=yes
    local -A RUNS_given=()
    RUNS_here
    if [[ -z ${RUNS_known[sysname]-}${RUNS_known[sysdist]-}${RUNS_known[sysver]-}${RUNS_known[bits]-} ]]; then
        [[ $RUNS_describing == no ]] || return 1
        RUNS_say facts "$RUNS_file" "$RUNS_line"
        RUNS_ended=yes
        builtin exit 0
    fi
    for RUNS_each; do
        case $RUNS_each in
        -r) RUNS_need=yes ;;
        -s | -d | -v | -b)
            RUNS_key=$RUNS_each
            RUNS_given[$RUNS_key]=${RUNS_given[$RUNS_key]-no}
            ;;
        *)
            if [[ -z $RUNS_key ]]; then
                RUNS_problem "bad argument \`$RUNS_each\` of \`sysinfos\`, expected \`-r\`, \`-s\`, \`-d\`, \`-v\` or \`-b\`"
            elif RUNS_fact "$RUNS_key" "$RUNS_each"; then
                RUNS_given[$RUNS_key]=yes
            fi
            ;;
        esac
    done
    for RUNS_each in ${RUNS_given[@]+"${RUNS_given[@]}"}; do
        [[ $RUNS_each == yes ]] || RUNS_match=no
    done
    [[ $RUNS_match == no ]] || return 0
    [[ $RUNS_need == yes ]] && RUNS_problem "\`$RUNS_script\` needs \`sysinfos $*\`, which host \`$RUNS_host\` does not match"
    return 1
}

# RUNS_fact OPTION VALUE: whether the host has it.
RUNS_fact() {
    local RUNS_have RUNS_want=$2
    local -a RUNS_facts=()
    case $1 in
    -s) RUNS_facts=(${sysname[@]+"${sysname[@]}"}) ;;
    -d) RUNS_facts=(${sysdist[@]+"${sysdist[@]}"}) ;;
    -v) RUNS_facts=(${sysver[@]+"${sysver[@]}"}) ;;
    -b) RUNS_facts=("${bits-}") ;;
    esac
    if [[ $1 == -v && $2 == *[+-] ]] && ! [[ $2 =~ ^[0-9]+(\.[0-9]+)*[+-]$ ]]; then
        RUNS_problem "bad version \`$2\` of \`sysinfos -v\`, expected a number before \`${2: -1}\`"
        return 1
    fi
    for RUNS_have in ${RUNS_facts[@]+"${RUNS_facts[@]}"}; do
        [[ $RUNS_have == "$RUNS_want" ]] && return 0
        if [[ $1 == -v && $2 == *[+-] && $RUNS_have =~ ^[0-9]+(\.[0-9]+)*$ ]]; then
            RUNS_version "$RUNS_have" "${RUNS_want:0:${#RUNS_want}-1}" "${RUNS_want: -1}" && return 0
        fi
    done
    return 1
}

# RUNS_version HAVE WANT +|-: as many components as WANT has are compared, so 11.7 matches 11-.
RUNS_version() {
    local RUNS_i
    local -a RUNS_a RUNS_b
    IFS=. read -r -a RUNS_a <<<"$1"
    IFS=. read -r -a RUNS_b <<<"$2"
    for ((RUNS_i = 0; RUNS_i < ${#RUNS_b[@]}; RUNS_i++)); do
        ((10#${RUNS_a[RUNS_i]:-0} == 10#${RUNS_b[RUNS_i]})) && continue
        if [[ $3 == + ]]; then
            ((10#${RUNS_a[RUNS_i]:-0} > 10#${RUNS_b[RUNS_i]}))
        else
            ((10#${RUNS_a[RUNS_i]:-0} < 10#${RUNS_b[RUNS_i]}))
        fi
        return
    done
    return 0
}

# --- evaluation --------------------------------------------------------------------------------

exit() {
    local RUNS_status=${1-$?}
    RUNS_here
    RUNS_exit_file=$RUNS_file RUNS_exit_line=$RUNS_line
    builtin exit "$RUNS_status"
}

# Runs however the subshell ends, killing it apart.
RUNS_leave() {
    local RUNS_status=$1
    [[ $RUNS_ended == no ]] || return 0
    RUNS_file=${RUNS_exit_file:-$RUNS_sourcing} RUNS_line=${RUNS_exit_line:-0}
    if ((RUNS_status)); then
        RUNS_problem "the section ends with status $RUNS_status"
    elif [[ $RUNS_sourcing != "$RUNS_root/section/$RUNS_conf" ]]; then
        RUNS_problem '`exit` here would end the CONF sections of all scripts below, use `return`'
    fi
    RUNS_finish
}

# A failing command is an error when nothing tests it and it is unknown, or comes last. (A section is
# not run under `set -e`: `[ -n "$x" ] && var y=z` may well be its last line.)
RUNS_failed() {
    [[ $4 != "$RUNS_self" ]] || return 0
    RUNS_bad=$3
    if (($1 == 127)); then
        RUNS_say unknown "$RUNS_sourcing" "$2" "$3"
        RUNS_bad=''
    fi
}

# RUNS_source SECTION: its first line is preceded by the trap that notes its last command.
RUNS_source() {
    local RUNS_status
    RUNS_sourcing=$1 RUNS_bad='' RUNS_last='' RUNS_last_line=0
    trap 'RUNS_failed "$?" "$LINENO" "$BASH_COMMAND" "${BASH_SOURCE[0]}"' ERR
    # shellcheck disable=SC1090
    . "$1"
    RUNS_status=$?
    trap - ERR DEBUG
    if ((RUNS_status)) && [[ $RUNS_last == return* || (-n $RUNS_bad && $RUNS_bad == "$RUNS_last") ]]; then
        RUNS_file=$1 RUNS_line=$RUNS_last_line
        RUNS_problem "the section ends with a failure: \`$RUNS_last\` has status $RUNS_status"
    fi
}

RUNS_load_sysinfos() {
    local RUNS_each RUNS_i
    RUNS_file='' RUNS_line=0
    for ((RUNS_i = 0; RUNS_i < ${#RUNS_fact_name[@]}; RUNS_i++)); do
        RUNS_change "${RUNS_fact_name[RUNS_i]}" "${RUNS_fact_kind[RUNS_i]}" \
            "${RUNS_fact_values[@]:${RUNS_fact_start[RUNS_i]}:${RUNS_fact_count[RUNS_i]}}"
    done
    [[ -n $RUNS_sysinfos ]] || return 0
    RUNS_source "$RUNS_root/section/$RUNS_sysinfos"
    RUNS_file=$RUNS_root/section/$RUNS_sysinfos RUNS_line=0
    for RUNS_each in sysname sysdist sysver; do
        [[ -z ${RUNS_known[$RUNS_each]-} ]] || continue
        if eval "((\${#${RUNS_each}[@]}))"; then
            eval "RUNS_change $RUNS_each '()' \"\${${RUNS_each}[@]}\""
        fi
    done
    if [[ -z ${RUNS_known[bits]-} && -n ${bits-} ]]; then RUNS_change bits '=' "$bits"; fi
}

RUNS_finish() {
    local RUNS_each
    local -a RUNS_copy
    RUNS_ended=yes
    RUNS_say finish
    for RUNS_each in ${RUNS_order[@]+"${RUNS_order[@]}"}; do
        RUNS_print "$RUNS_each"
        if [[ $RUNS_text != "${RUNS_shape[$RUNS_each]}" ]]; then
            RUNS_say stray "$RUNS_each"
            RUNS_replay "$RUNS_each"
        fi
        eval "RUNS_copy=(\${${RUNS_each}[@]+\"\${${RUNS_each}[@]}\"})"
        RUNS_say value "$RUNS_each" "${RUNS_kind[$RUNS_each]}" ${RUNS_copy[@]+"${RUNS_copy[@]}"}
    done
}

RUNS_evaluate() {
    local RUNS_each
    exec </dev/null >"$RUNS_talk" 2>&1 62<&-
    cd -- "$RUNS_root/$RUNS_folder" || builtin exit 1
    declare -A RUNS_kind=() RUNS_known=() RUNS_shape=()
    RUNS_order=() RUNS_ended=no RUNS_exit_file='' RUNS_exit_line=''
    trap 'RUNS_leave "$?"' EXIT
    for RUNS_each in ${RUNS_op_name[@]+"${RUNS_op_name[@]}"}; do
        RUNS_remember "$RUNS_each"
        RUNS_replay "$RUNS_each"
    done
    for RUNS_each in ${RUNS_cascade[@]+"${RUNS_cascade[@]}"}; do RUNS_source "$RUNS_root/section/$RUNS_each"; done
    RUNS_load_sysinfos
    RUNS_source "$RUNS_root/section/$RUNS_conf"
    RUNS_finish
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

# RUNS_operations PREFIX: names, kinds and counts of values run parallel; the values lie end to end.
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
    RUNS_field RUNS_sysinfos
    RUNS_list RUNS_cascade
    RUNS_list RUNS_places
    RUNS_list RUNS_shared
    RUNS_operations RUNS_fact
    RUNS_operations RUNS_op
}

# RUNS_syntax NUMBER: parse without running; the file's first line begins with `set -n`.
RUNS_syntax() (
    exec </dev/null >"$RUNS_root/syntax/$1.talk" 2>&1 62<&- 63>&-
    # Scripts may turn it on themselves, and that line is not run here.
    shopt -s extglob
    # shellcheck disable=SC1090
    . "$RUNS_root/syntax/$1"
)

RUNS_main() {
    exec 62<"$RUNS_root/requests" 63>&1 1>&2
    if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 402)); then
        RUNS_say old "$BASH_VERSION"
        return
    fi
    ulimit -c 0
    # A section that prints without end is stopped by the file it prints to (1 KiB blocks).
    ulimit -f 16384
    RUNS_list RUNS_sections
    for RUNS_each in "${RUNS_sections[@]}"; do RUNS_syntax "$RUNS_each"; done
    while RUNS_field RUNS_number; do
        RUNS_request
        RUNS_talk=$RUNS_root/talk/$RUNS_number
        RUNS_say begin
        if RUNS_sound; then (RUNS_evaluate); else RUNS_say syntax; fi
        RUNS_say "done" "$?"
    done
}

# Whether all sections of the request parse.
RUNS_sound() {
    local RUNS_each
    for RUNS_each in ${RUNS_cascade[@]+"${RUNS_cascade[@]}"} $RUNS_sysinfos "$RUNS_conf"; do
        [[ ! -s $RUNS_root/syntax/$RUNS_each.talk ]] || return
    done
}

RUNS_main
