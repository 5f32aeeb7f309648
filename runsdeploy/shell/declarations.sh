# The functions that a CONF section can call, and the variables that they set.
#
# A variable has two values: RUNS_b_NAME is the value that runs.conf, sysinfos.conf and CONF set; NAME is that value
# with the operations of the recipe and of --set applied. With both, applying the operations after each `var` gives
# exactly the same value as applying them once after CONF.
#
# shellcheck disable=SC2016 # backticks in messages are quotes of names
# shellcheck disable=SC2034,SC2154 # shared with conf.sh; RUNS_root and the like: the environment
# shellcheck disable=SC2004 # RUNS_kind has names for keys: conf.sh declares it so

RUNS_name='[A-Za-z_][A-Za-z0-9_]*'

# Set RUNS_file and RUNS_line to the operator's line of the current call.
RUNS_caller() {
    local RUNS_i
    for ((RUNS_i = 1; RUNS_i < ${#BASH_SOURCE[@]}; RUNS_i++)); do
        if [[ ${BASH_SOURCE[RUNS_i]} != "${RUNS_self%/*}/"* ]]; then
            RUNS_locate "${BASH_SOURCE[RUNS_i]}" "${BASH_LINENO[RUNS_i - 1]}"
            return
        fi
    done
}

# RUNS_locate FILE LINE: set RUNS_file and RUNS_line; a relative file was sourced from the script's directory.
RUNS_locate() {
    RUNS_file=$1 RUNS_line=$2
    [[ $1 == /* ]] || RUNS_file=$RUNS_root/$RUNS_folder/${1#./}
}

RUNS_problem() { RUNS_emit problem "$RUNS_file" "$RUNS_line" "$1"; }

# --- variables ---------------------------------------------------------------------------------

# RUNS_apply VARIABLE KIND VALUE...: apply one operation to one shell variable.
RUNS_apply() {
    if [[ $2 == '=' ]]; then
        # First, and without a copy of the old value: a section may have thousands of `ref`.
        unset -v "$1"
        printf -v "$1" %s "$3"
        RUNS_kind[$1]=scalar
        return
    fi
    local RUNS_to=$1 RUNS_by=$2 RUNS_each
    local -a RUNS_kept=() RUNS_old=()
    shift 2
    eval "RUNS_old=(\${${RUNS_to}[@]+\"\${${RUNS_to}[@]}\"})"
    unset -v "$RUNS_to"
    # Compared with `[`: the section may have set nocasematch, which affects `[[`.
    case $RUNS_by in
    '()') RUNS_kept=("$@") ;;
    '+=')
        RUNS_kept=(${RUNS_old[@]+"${RUNS_old[@]}"} "$1")
        for RUNS_each in ${RUNS_old[@]+"${RUNS_old[@]}"}; do
            [ "$RUNS_each" != "$1" ] || RUNS_kept=("${RUNS_old[@]}")
        done
        ;;
    '-=')
        for RUNS_each in ${RUNS_old[@]+"${RUNS_old[@]}"}; do
            [ "$RUNS_each" = "$1" ] || RUNS_kept+=("$RUNS_each")
        done
        ;;
    esac
    eval "$RUNS_to=(\${RUNS_kept[@]+\"\${RUNS_kept[@]}\"})"
    RUNS_kind[$RUNS_to]=array
}

# RUNS_replay NAME: set NAME to its base value with the operator's operations applied.
RUNS_replay() {
    local RUNS_base=RUNS_b_$1 RUNS_i
    local -a RUNS_copy=()
    unset -v "$1"
    case ${RUNS_kind[$RUNS_base]-} in
    scalar) printf -v "$1" %s "${!RUNS_base}" ;;
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
    RUNS_fingerprint "$1"
    RUNS_snapshot[$1]=$RUNS_text
}

# RUNS_fingerprint NAME: set RUNS_text to a text that changes with the variable. No subshell: this runs often.
RUNS_fingerprint() {
    local -a RUNS_copy=()
    eval "RUNS_copy=(\${${1}[@]+\"\${${1}[@]}\"})"
    RUNS_text=${#RUNS_copy[@]}
    # One value needs no quotes, which cost most.
    case $RUNS_text in
    0) ;;
    1) RUNS_text="1 ${RUNS_copy[*]}" ;;
    *) printf -v RUNS_text '%q ' "$RUNS_text" "${RUNS_copy[@]}" ;;
    esac
}

# RUNS_change NAME KIND VALUE...: the change of a variable by `var`, `out` or `ref`.
RUNS_change() {
    if ! [[ $1 =~ ^$RUNS_name$ ]]; then
        RUNS_problem "bad variable name \`$1\`, expected letters, digits and underscores"
        return 0
    # No reserved name begins with a small letter. (Compared with `[`, as in RUNS_apply; bash compiles the expression
    # again for each name, which takes as long as all the rest.)
    elif [ "${1#[abcdefghijklmnopqrstuvwxyz]}" = "$1" ] && [[ $1 =~ ^$RUNS_reserved$ ]]; then
        RUNS_problem "variable \`$1\` is reserved: a script needs it as bash sets it"
        return 0
    fi
    if [ "$2" = = ] && [[ -z ${RUNS_operated[$1]-} ]]; then
        # As below, in a third of the time: a section may have thousands of `ref`.
        unset -v "RUNS_b_$1" "$1"
        printf -v "RUNS_b_$1" %s "$3"
        printf -v "$1" %s "$3"
        RUNS_kind[RUNS_b_$1]=scalar RUNS_kind[$1]=scalar RUNS_snapshot[$1]="1 $3"
    else
        RUNS_apply "RUNS_b_$1" "${@:2}"
        RUNS_replay "$1"
    fi
    RUNS_remember "$1"
    RUNS_emit set "$1" "$RUNS_file" "$RUNS_line" "$2" "${@:3}"
}

RUNS_remember() {
    [[ -n ${RUNS_known[$1]-} ]] || RUNS_order+=("$1")
    RUNS_known[$1]=yes
}

# --- functions for CONF sections ---------------------------------------------------------------

desc() {
    local IFS=' '
    RUNS_emit desc "$*"
}

conf() {
    local RUNS_each
    RUNS_caller
    (($#)) || RUNS_problem '`conf` without a flag'
    for RUNS_each; do RUNS_emit flag "$RUNS_file" "$RUNS_line" "$RUNS_each"; done
}

after() {
    local RUNS_each RUNS_mode=order
    RUNS_caller
    case ${1-} in
    -r) RUNS_mode=once ;;
    -rr) RUNS_mode=always ;;
    -*) RUNS_problem "bad option \`$1\` of \`after\`, expected \`-r\` or \`-rr\`" && return 0 ;;
    esac
    [[ $RUNS_mode == order ]] || shift
    if (($# == 0)); then
        RUNS_problem '`after` without a script'
    elif [[ $RUNS_mode == order ]]; then
        for RUNS_each; do RUNS_emit after order "$RUNS_file" "$RUNS_line" "$RUNS_each"; done
    else
        RUNS_emit after "$RUNS_mode" "$RUNS_file" "$RUNS_line" "$@"
    fi
}

var() {
    local RUNS_word
    RUNS_caller
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
    RUNS_caller
    (($#)) || RUNS_problem '`out` without a name'
    for RUNS_each; do
        RUNS_lacks_name "$RUNS_each" && continue
        RUNS_emit out "$RUNS_file" "$RUNS_line" "${RUNS_each%%=*}" "${RUNS_each#*=}"
        RUNS_change "${RUNS_each%%=*}" '=' "$RUNS_root/shared/${RUNS_each#*=}"
    done
}

ref() {
    local RUNS_each RUNS_required=no RUNS_template=no
    RUNS_caller
    while [[ ${1-} == -* ]]; do
        case $1 in
        -r) RUNS_required=yes ;;
        -t) RUNS_template=yes ;;
        -rt | -tr) RUNS_required=yes RUNS_template=yes ;;
        *) RUNS_problem "bad option \`$1\` of \`ref\`, expected \`-r\` or \`-t\`" ;;
        esac
        shift
    done
    (($#)) || RUNS_problem '`ref` without a name'
    for RUNS_each; do
        RUNS_lacks_name "$RUNS_each" && continue
        RUNS_find "${RUNS_each#*=}"
        RUNS_emit ref "$RUNS_file" "$RUNS_line" "${RUNS_each%%=*}" "${RUNS_each#*=}" \
            "$RUNS_where" "$RUNS_found" "$RUNS_required" "$RUNS_template"
        if [[ $RUNS_template == yes && $RUNS_where == tree ]]; then
            RUNS_found=${RUNS_found##*/}
            RUNS_found=rendered/$RUNS_key/${RUNS_found%.j2}
        fi
        RUNS_change "${RUNS_each%%=*}" '=' "$RUNS_root/$RUNS_found"
    done
}

# RUNS_lacks_name WORD: true, with a problem, if WORD is a file, where `out` and `ref` expect NAME or NAME=FILE.
RUNS_lacks_name() {
    [[ $1 != *=* && ! $1 =~ ^$RUNS_name$ ]] || return
    RUNS_problem "bad variable name \`$1\`, expected a name, or for a file \`NAME=$1\`"
}

# RUNS_find FILE: look beside the script, in the shared space, in the host directories, in the trees, in this order.
RUNS_find() {
    local RUNS_each
    RUNS_where=tree
    RUNS_found=$RUNS_folder/$1
    [[ -e $RUNS_root/$RUNS_found || -L $RUNS_root/$RUNS_found ]] && return
    for RUNS_each in ${RUNS_shared[@]+"${RUNS_shared[@]}"}; do
        [ "$RUNS_each" = "$1" ] && RUNS_where=shared RUNS_found=shared/$1 && return
    done
    for RUNS_each in ${RUNS_directories[@]+"${RUNS_directories[@]}"}; do
        RUNS_found=$RUNS_each/$1
        [[ -e $RUNS_root/$RUNS_found || -L $RUNS_root/$RUNS_found ]] && return
    done
    RUNS_where=missing RUNS_found=shared/$1
}

# --- facts -------------------------------------------------------------------------------------

sysinfos() {
    local RUNS_required=no RUNS_key='' RUNS_each RUNS_match=yes
    local -A RUNS_matched=()
    RUNS_caller
    for RUNS_each; do
        case $RUNS_each in
        -r) RUNS_required=yes ;;
        -s | -d | -v | -b)
            RUNS_key=$RUNS_each
            RUNS_matched[$RUNS_key]=${RUNS_matched[$RUNS_key]-none}
            ;;
        *)
            if [[ -z $RUNS_key || $RUNS_each == -* ]]; then
                RUNS_problem "bad argument \`$RUNS_each\` of \`sysinfos\`, expected \`-r\`, \`-s\`, \`-d\`, \`-v\` or \`-b\`"
            elif RUNS_fact "$RUNS_key" "$RUNS_each"; then
                RUNS_matched[$RUNS_key]=yes
            elif [[ ${RUNS_matched[$RUNS_key]} == none ]]; then
                RUNS_matched[$RUNS_key]=no
            fi
            ;;
        esac
    done
    for RUNS_each in ${RUNS_matched[@]+"${!RUNS_matched[@]}"}; do
        [[ ${RUNS_matched[$RUNS_each]} != none ]] || RUNS_problem "\`sysinfos $RUNS_each\` without a value"
        [[ ${RUNS_matched[$RUNS_each]} == yes ]] || RUNS_match=no
    done
    # Only now: problems of the call are independent of the facts.
    if [[ -z ${RUNS_known[sysname]-}${RUNS_known[sysdist]-}${RUNS_known[sysver]-}${RUNS_known[bits]-} ]]; then
        [[ $RUNS_describing == no ]] || return 1
        RUNS_emit facts "$RUNS_file" "$RUNS_line"
        RUNS_ended=yes
        builtin exit 0
    fi
    [[ $RUNS_match == no ]] || return 0
    [[ $RUNS_required == yes ]] || return 1
    RUNS_problem "\`$RUNS_script\` needs \`sysinfos $*\`, which host \`$RUNS_host\` does not match"
}

# RUNS_fact OPTION VALUE: true if the host has this fact.
RUNS_fact() {
    local RUNS_actual RUNS_expected=$2
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
    elif [[ $1 == -v && $2 == [+=\<\>~!]* ]]; then
        RUNS_problem "bad version \`$2\` of \`sysinfos -v\`, expected it as the host has it, or a number before \`+\` or \`-\`"
        return 1
    fi
    for RUNS_actual in ${RUNS_facts[@]+"${RUNS_facts[@]}"}; do
        [ "$RUNS_actual" = "$RUNS_expected" ] && return 0
        if [[ $1 == -v && $2 == *[+-] && $RUNS_actual =~ ^[0-9]+(\.[0-9]+)*$ ]]; then
            RUNS_version "$RUNS_actual" "${RUNS_expected:0:${#RUNS_expected}-1}" "${RUNS_expected: -1}" && return 0
        fi
    done
    return 1
}

# RUNS_version ACTUAL EXPECTED +|-: compare as many components as EXPECTED has, so 11.7 matches 11-.
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
