# What a CONF section can call, and the variables that it makes.
#
# A variable has two values: RUNS_b_NAME is what runs.conf, sysinfos.conf and CONF made of it, NAME
# is the same with the operations of the recipe and of --set applied. Keeping both is what makes
# "replayed after each `var`" end exactly as "applied after CONF".
#
# shellcheck disable=SC2016 # backticks in messages are quotes of names
# shellcheck disable=SC2034,SC2154 # shared with conf.sh; RUNS_root and the like: the environment
# shellcheck disable=SC2004 # RUNS_kind has names for keys: conf.sh declares it so

RUNS_name='[A-Za-z_][A-Za-z0-9_]*'

# Set RUNS_file and RUNS_line to the operator's line that called us.
RUNS_here() {
    local RUNS_i
    for ((RUNS_i = 1; RUNS_i < ${#BASH_SOURCE[@]}; RUNS_i++)); do
        if [[ ${BASH_SOURCE[RUNS_i]} != "${RUNS_self%/*}/"* ]]; then
            RUNS_place "${BASH_SOURCE[RUNS_i]}" "${BASH_LINENO[RUNS_i - 1]}"
            return
        fi
    done
}

# RUNS_place FILE LINE: what a section sources is named from the script's directory.
RUNS_place() {
    RUNS_file=$1 RUNS_line=$2
    [[ $1 == /* ]] || RUNS_file=$RUNS_root/$RUNS_folder/${1#./}
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
    # Compared by `[`: the section may have set nocasematch, which `[[` obeys.
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
    local IFS=' '
    RUNS_say desc "$*"
}

conf() {
    local RUNS_each
    RUNS_here
    (($#)) || RUNS_problem '`conf` without a flag'
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
        RUNS_unnamed "$RUNS_each" && continue
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
        RUNS_unnamed "$RUNS_each" && continue
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

# RUNS_unnamed WORD: whether it is a file where `out` and `ref` take NAME or NAME=FILE; says so.
RUNS_unnamed() {
    [[ $1 != *=* && ! $1 =~ ^$RUNS_name$ ]] || return
    RUNS_problem "bad variable name \`$1\`, expected a name, or for a file \`NAME=$1\`"
}

# RUNS_find FILE: beside the script, in the shared space, in the host directories, in the trees.
RUNS_find() {
    local RUNS_place
    RUNS_how=tree
    RUNS_found=$RUNS_folder/$1
    [[ -e $RUNS_root/$RUNS_found || -L $RUNS_root/$RUNS_found ]] && return
    for RUNS_place in ${RUNS_shared[@]+"${RUNS_shared[@]}"}; do
        [ "$RUNS_place" = "$1" ] && RUNS_how=shared RUNS_found=shared/$1 && return
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
    for RUNS_each; do
        case $RUNS_each in
        -r) RUNS_need=yes ;;
        -s | -d | -v | -b)
            RUNS_key=$RUNS_each
            RUNS_given[$RUNS_key]=${RUNS_given[$RUNS_key]-none}
            ;;
        *)
            if [[ -z $RUNS_key || $RUNS_each == -* ]]; then
                RUNS_problem "bad argument \`$RUNS_each\` of \`sysinfos\`, expected \`-r\`, \`-s\`, \`-d\`, \`-v\` or \`-b\`"
            elif RUNS_fact "$RUNS_key" "$RUNS_each"; then
                RUNS_given[$RUNS_key]=yes
            elif [[ ${RUNS_given[$RUNS_key]} == none ]]; then
                RUNS_given[$RUNS_key]=no
            fi
            ;;
        esac
    done
    for RUNS_each in ${RUNS_given[@]+"${!RUNS_given[@]}"}; do
        [[ ${RUNS_given[$RUNS_each]} != none ]] || RUNS_problem "\`sysinfos $RUNS_each\` without a value"
        [[ ${RUNS_given[$RUNS_each]} == yes ]] || RUNS_match=no
    done
    # Only now: what is wrong with the call is wrong whatever the host is.
    if [[ -z ${RUNS_known[sysname]-}${RUNS_known[sysdist]-}${RUNS_known[sysver]-}${RUNS_known[bits]-} ]]; then
        [[ $RUNS_describing == no ]] || return 1
        RUNS_say facts "$RUNS_file" "$RUNS_line"
        RUNS_ended=yes
        builtin exit 0
    fi
    [[ $RUNS_match == no ]] || return 0
    [[ $RUNS_need == yes ]] || return 1
    RUNS_problem "\`$RUNS_script\` needs \`sysinfos $*\`, which host \`$RUNS_host\` does not match"
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
    elif [[ $1 == -v && $2 == [+=\<\>~!]* ]]; then
        RUNS_problem "bad version \`$2\` of \`sysinfos -v\`, expected it as the host has it, or a number before \`+\` or \`-\`"
        return 1
    fi
    for RUNS_have in ${RUNS_facts[@]+"${RUNS_facts[@]}"}; do
        [ "$RUNS_have" = "$RUNS_want" ] && return 0
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
