# The library `runs`: shouldrun, setdone, resetdone, urequire. Loaded into every SCRIPT section.
#
# A marker is a file RUNS_STATE/markers/SCRIPT/SUBSYSTEM, names percent-encoded. Each use of a marker is recorded in
# RUNS_STEP/acts, from which the runner derives the outcome of the step.

# Status of `shouldrun` for "no": `shouldrun || exit` passes it on, and programs do not use it.
RUNS_DECLINED=100

# Under `set -x` a call of one of our functions is one line of the trace. So each begins with
#
#     { local RUNS_options=$- && RUNS_untrace; } REDIRECTIONS || RUNS_options=''
#
# which turns the trace off, while BASH_XTRACEFD leads to /dev/null (its value is kept in RUNS_trace_fd, its file in
# RUNS_tracing: bash closes it), and ends with RUNS_retrace. The expansion in the redirection is an assignment that is not
# traced. (The redirections fail if stderr is closed.)
#
# shellcheck disable=SC2034 # used in redirections
RUNS_empty=''

RUNS_untrace() {
    set +x
    # bash 4.2 does not close it.
    exec {BASH_XTRACEFD}>&-
    # shellcheck disable=SC2154 # assigned in a redirection
    if ((RUNS_trace_fd != 2)); then
        eval "exec $RUNS_trace_fd>&$RUNS_tracing"
        BASH_XTRACEFD=$RUNS_trace_fd
    else
        unset BASH_XTRACEFD
    fi
    exec {RUNS_tracing}>&-
}

# RUNS_retrace STATUS: turn the trace on again if RUNS_options has it, and return the status.
RUNS_retrace() {
    [[ $RUNS_options == *x* ]] || return "$1"
    eval "RUNS_return() { set -x && return \"\$1\"; } 2>/dev/null ${BASH_XTRACEFD:-2}>/dev/null"
    RUNS_return "$1"
}

# Bytes that the value of a marker may have, percent-encoded: the event that reports it to the controller holds no more
# (decoder.py).
RUNS_LONGEST=4000000

# RUNS_encode TEXT: set RUNS_encoded to a word that is also a file name, one to one. Without stderr: bash complains about
# a missing locale whenever LC_ALL is restored, which is not the fault of the script.
RUNS_encode() { RUNS_encode_bytes "$1"; } 2>/dev/null

RUNS_encode_bytes() {
    local LC_ALL=C IFS='' RUNS_block
    local -a RUNS_pieces=()
    # Not in the same command as LC_ALL: lengths are those of bytes.
    local RUNS_i RUNS_j RUNS_length=${#1}
    # Pieces of blocks, joined once: bash copies the whole text to get at a character of it or to append one.
    for ((RUNS_i = 0; RUNS_i < RUNS_length; RUNS_i += 16384)); do
        RUNS_block=${1:RUNS_i:16384}
        for ((RUNS_j = 0; RUNS_j < ${#RUNS_block}; RUNS_j += 512)); do
            RUNS_encode_piece "${RUNS_block:RUNS_j:512}"
        done
    done
    RUNS_encoded="${RUNS_pieces[*]-}"
    [ "${RUNS_encoded:0:1}" != . ] || RUNS_encoded=%2E${RUNS_encoded:1}
}

# RUNS_encode_piece TEXT: replace each special character everywhere at once, and append the result to RUNS_pieces.
RUNS_encode_piece() {
    local RUNS_piece=$1 RUNS_special RUNS_char RUNS_code
    case $1 in
    *[!A-Za-z0-9._-]*)
        RUNS_piece=${RUNS_piece//[%]/%25}
        RUNS_special=${RUNS_piece//[A-Za-z0-9._%-]/}
        while [ -n "$RUNS_special" ]; do
            RUNS_char=${RUNS_special:0:1}
            # A byte above 127 may be a negative number: its last two digits are right.
            printf -v RUNS_code '%02X' "'$RUNS_char"
            RUNS_piece=${RUNS_piece//"$RUNS_char"/%${RUNS_code: -2}}
            RUNS_special=${RUNS_special//"$RUNS_char"/}
        done
        ;;
    esac
    RUNS_pieces+=("$RUNS_piece")
}

RUNS_sha256() {
    local RUNS_sum
    if command -v sha256sum >/dev/null; then
        sha256sum
    elif command -v shasum >/dev/null; then
        shasum -a 256
    else
        openssl dgst -sha256 -r
    fi | while IFS=' ' read -r RUNS_sum _; do printf '%s' "$RUNS_sum"; done
}

# RUNS_name TEXT: as RUNS_encode, but never longer than a name in a file system (255 bytes).
RUNS_name() {
    RUNS_encode "$1"
    if ((${#RUNS_encoded} > 200)); then
        # Encoding never makes `%+`, so a shortened name equals no full name.
        RUNS_encoded=${RUNS_encoded:0:100}%+$(printf %s "$1" | RUNS_sha256)
    fi
}

# RUNS_word TEXT: set RUNS_encoded to a word for RUNS_record: an event holds no longer one.
RUNS_word() {
    RUNS_encode "$1"
    ((${#RUNS_encoded} <= 4000)) || RUNS_name "$1"
}

# RUNS_record ACT: a step whose acts cannot be recorded must not count as a success. On a full disk it uses the reserve.
RUNS_record() {
    printf '%s\n' "$1" >>"$RUNS_STEP/acts" && return
    rm -f "$RUNS_STATE/reserve"
    if ! printf '%s\n' "$1" >>"$RUNS_STEP/acts"; then
        printf "cannot write \`%s\`: no space left\n" "$RUNS_STEP/acts" >&2
        builtin exit 1
    fi
}

# RUNS_wrong MESSAGE: print it, and let the step fail whatever its status is.
RUNS_wrong() {
    printf '%s\n' "$1" >&2
    RUNS_record wrong
}

# RUNS_marker [SUBSYSTEM]: set RUNS_folder, RUNS_file, and RUNS_label, its path among the markers.
RUNS_marker() {
    RUNS_name "$RUNS_SCRIPT"
    RUNS_label=$RUNS_encoded
    RUNS_folder=$RUNS_STATE/markers/$RUNS_encoded
    RUNS_name "${1-}"
    RUNS_label+=/${1:+subsystem=}${RUNS_encoded:-script}
    RUNS_file=$RUNS_STATE/markers/$RUNS_label
}

shouldrun() {
    { local RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
        2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    if RUNS_shouldrun "$@"; then RUNS_retrace 0; else RUNS_retrace "$?"; fi
}

RUNS_shouldrun() {
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded RUNS_subsystem RUNS_line RUNS_of RUNS_value=''
    RUNS_marker "${1-}"
    RUNS_word "${1-}"
    RUNS_subsystem=$RUNS_encoded
    if [[ ! -e $RUNS_file && ! -L $RUNS_file ]]; then
        RUNS_record "shouldrun $RUNS_subsystem"
        return 0
    fi
    # Neither yes nor no: a guess would skip work or do it twice. (The runner has checked all markers at once for write
    # permissions of others.)
    if [[ ! -f $RUNS_file || -L $RUNS_file || ! -O $RUNS_file || ! -r $RUNS_file || -L $RUNS_folder ]]; then
        printf -v RUNS_value %q "$RUNS_SCRIPT"
        RUNS_wrong "cannot trust the marker \`$RUNS_file\`: not a file of this user; \`runsdeploy reset --host ${RUNS_HOST-} --script $RUNS_value\` removes it"
        builtin exit 1
    fi
    # A marker made by hand may lack its last newline.
    while IFS= read -r RUNS_line || [[ -n $RUNS_line ]]; do
        case $RUNS_line in
        'value '*) RUNS_value=${RUNS_line#value } ;;
        'of '*) RUNS_of=${RUNS_line#of } ;;
        esac
    done <"$RUNS_file"
    # A renamed marker would say that a script is done which never ran. (Those of older versions do not say whose they are.)
    if [ "${RUNS_of=$RUNS_label}" != "$RUNS_label" ]; then
        printf -v RUNS_value %q "$RUNS_SCRIPT"
        RUNS_wrong "cannot trust the marker \`$RUNS_file\`: it was made as \`$RUNS_of\`; \`runsdeploy reset --host ${RUNS_HOST-} --script $RUNS_value\` removes it"
        builtin exit 1
    fi
    if (($# > 1)); then
        RUNS_encode "=$2"
        # Not [[: the section may have set nocasematch.
        if [ "$RUNS_value" != "$RUNS_encoded" ]; then
            RUNS_record "shouldrun $RUNS_subsystem"
            return 0
        fi
    fi
    RUNS_record "declined $RUNS_subsystem"
    return "$RUNS_DECLINED"
}

setdone() {
    { local RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
        2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    if RUNS_setdone "$@"; then RUNS_retrace 0; else RUNS_retrace "$?"; fi
}

RUNS_setdone() {
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded RUNS_value=''
    if (($# > 1)); then
        RUNS_encode "=$2"
        RUNS_value=$RUNS_encoded
        if ((${#RUNS_value} > RUNS_LONGEST)); then
            RUNS_wrong "the value of \`setdone\` has ${#RUNS_value} bytes, percent-encoded, expected at most $RUNS_LONGEST: give its digest, e.g. by \`sha256sum\`"
            return 1
        fi
    fi
    RUNS_marker "${1-}"
    # Before the marker: a step that is marked as done must have its files, which others may need.
    if ! (umask 077 && RUNS_keep "${RUNS_OUTS-}" "${RUNS_SHARED-}"); then
        RUNS_wrong "cannot keep the files of \`$RUNS_SCRIPT\` in \`$RUNS_OUTS\`"
        return 1
    fi
    if ! RUNS_write "$RUNS_value" && { rm -f "$RUNS_STATE/reserve" && ! RUNS_write "$RUNS_value"; }; then
        RUNS_wrong "cannot write the marker \`$RUNS_file\`"
        return 1
    fi
    RUNS_word "${1-}"
    RUNS_record "setdone $RUNS_encoded"
}

# RUNS_is_plain DIRECTORY FILE: whether a file below a directory is a regular file, without following links; if not, set
# RUNS_found to what is there. A copy of a fifo waits for ever, one of a link to /dev/zero never ends.
RUNS_is_plain() {
    local RUNS_path=$1 RUNS_rest=$2
    RUNS_found=''
    while [[ $RUNS_rest == */* ]]; do
        RUNS_path+=/${RUNS_rest%%/*} RUNS_rest=${RUNS_rest#*/}
        [[ ! -L $RUNS_path ]] || RUNS_found='in a directory that is a link'
    done
    RUNS_path+=/$RUNS_rest
    if [[ -L $RUNS_path ]]; then
        RUNS_found='a link'
    elif [[ -d $RUNS_path ]]; then
        RUNS_found='a directory'
    elif [[ -p $RUNS_path ]]; then
        RUNS_found='a fifo'
    elif [[ ! -e $RUNS_path ]]; then
        RUNS_found=missing
    elif [[ ! -f $RUNS_path ]]; then
        RUNS_found='a device or a socket'
    fi
    [[ -z $RUNS_found ]]
}

# RUNS_copy FROM TO NEW: complete or not at all; NEW is a name in the same file system.
RUNS_copy() {
    [[ $2 != */* || -d ${2%/*} ]] || mkdir -p "${2%/*}" || return
    # Into a directory `mv` would move it.
    [[ ! -d $2 || -L $2 ]] || rm -rf "$2"
    cp -p "$1" "$3" && chmod go= "$3" && mv -f "$3" "$2"
}

# RUNS_keep TO FROM: copy the step's `out` files; copies made by root belong to the owner of the state directory.
RUNS_keep() {
    local RUNS_each RUNS_found
    # shellcheck disable=SC2154 # meta.sh
    for RUNS_each in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        if ! RUNS_is_plain "$2" "$RUNS_each"; then
            printf "\`%s\`, declared by \`out\`, is %s, expected a file\n" "$RUNS_each" "$RUNS_found" >&2
            return 1
        fi
        # No directory of a script has this name: they never begin with a dot.
        RUNS_copy "$2/$RUNS_each" "$1/$RUNS_each" "${1%/*}/.new.$BASHPID" || return
        [[ $EUID != 0 || -z ${SUDO_UID-} ]] || chown "$SUDO_UID:${SUDO_GID-}" "$1/$RUNS_each" || return
    done
}

# RUNS_write VALUE: write the marker. On the disk once it returns: the bytes, then the name, then the directory. A
# subshell, because the umask belongs to the script; only one, because each process takes time.
RUNS_write() (
    umask 077
    set +e
    trap - ERR
    # A name that no marker can have: a file that a crash leaves must not count as one.
    RUNS_new=$RUNS_folder/.new.$BASHPID
    # The name of the directory must be on the disk too.
    [[ -d $RUNS_folder ]] || { mkdir -p "$RUNS_folder" && sync "${RUNS_folder%/*}" "${RUNS_folder%/*/*}"; } || exit
    {
        printf 'runsdeploy marker 1\nof %s\n' "$RUNS_label" &&
            { [[ -z $1 ]] || printf 'value %s\n' "$1"; } &&
            TZ=UTC0 printf 'time %(%Y-%m-%dT%H:%M:%SZ)T\n' -1 &&
            printf 'session %s\ndigest %s\n%s' "$RUNS_SESSION" "$RUNS_DIGEST" "${RUNS_step_origin-}"
    } >|"$RUNS_new" && [[ ! -d $RUNS_file ]] && sync "$RUNS_new" && mv -f "$RUNS_new" "$RUNS_file" && exec sync "$RUNS_folder"
    rm -f "$RUNS_new"
    builtin exit 1
)

resetdone() {
    { local RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
        2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    if RUNS_resetdone "$@"; then RUNS_retrace 0; else RUNS_retrace "$?"; fi
}

RUNS_resetdone() {
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded
    RUNS_marker "${1-}"
    if (($#)); then rm -f "$RUNS_file"; else rm -rf "$RUNS_folder"; fi || {
        RUNS_wrong "cannot remove the marker \`$RUNS_file\`"
        return 1
    }
    # The directory that the removed name was in.
    (($#)) || RUNS_folder=${RUNS_folder%/*}
    [[ ! -d $RUNS_folder ]] || sync "$RUNS_folder"
    RUNS_word "${1-}"
    RUNS_record "resetdone $RUNS_encoded"
}

# urequire LIB...: load libraries, of the trees' lib/ first, then the bundled ones; each only once.
urequire() {
    { local RUNS_options=$- RUNS_each RUNS_file RUNS_status=0 && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
        2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    for RUNS_each; do
        [[ $RUNS_loaded != *" $RUNS_each "* ]] || continue
        RUNS_loaded+="$RUNS_each "
        if [[ -f $RUNS_RUN/tree/$RUNS_each ]]; then
            RUNS_file=$RUNS_RUN/tree/$RUNS_each
        elif [[ -f $RUNS_RUN/lib/$RUNS_each.sh && $RUNS_each != */* ]]; then
            RUNS_file=$RUNS_RUN/lib/$RUNS_each.sh
        else
            printf "unknown library \`%s\`\n" "$RUNS_each" >&2
            exit 1
        fi
        # A library is traced as any sourced file.
        [[ $RUNS_options != *x* ]] || set -x
        # shellcheck source=/dev/null
        . "$RUNS_file"
        RUNS_status=$?
        { RUNS_options=$- && RUNS_untrace; } {RUNS_tracing}>&"${BASH_XTRACEFD:-2}" \
            2>"/dev/null${RUNS_empty:0:RUNS_trace_fd=${BASH_XTRACEFD:-2}}" {BASH_XTRACEFD}>/dev/null || RUNS_options=''
    done
    # Not in a function, which would hide the line of the library from the records of failures.
    [[ $RUNS_options == *x* ]] || return "$RUNS_status"
    RUNS_retrace "$RUNS_status"
}
