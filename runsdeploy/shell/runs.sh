# The library `runs`: shouldrun, setdone, resetdone, urequire. Loaded into every SCRIPT section.
#
# A marker is a file RUNS_STATE/markers/SCRIPT/SUBSYSTEM, names percent-encoded. What a step asks and
# marks is written to RUNS_STEP/acts, from which the runner judges how the step ended.

# What `shouldrun` returns for "no": `shouldrun || exit` hands it on, and no program uses it by itself.
RUNS_DECLINED=100

# RUNS_encode TEXT: set RUNS_encoded to a word that is also a file name, one to one.
# Of a locale that is not there bash complains whenever LC_ALL is put back, which is not the script's fault.
RUNS_encode() { RUNS_encode_bytes "$1"; } 2>/dev/null

RUNS_encode_bytes() {
    local LC_ALL=C RUNS_i RUNS_char RUNS_code
    RUNS_encoded=''
    for ((RUNS_i = 0; RUNS_i < ${#1}; RUNS_i++)); do
        RUNS_char=${1:RUNS_i:1}
        case $RUNS_char in
        [A-Za-z0-9_-]) ;;
        .) ((RUNS_i)) || RUNS_char=%2E ;;
        *)
            printf -v RUNS_code '%d' "'$RUNS_char"
            printf -v RUNS_char '%%%02X' $((RUNS_code & 255))
            ;;
        esac
        RUNS_encoded+=$RUNS_char
    done
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

# RUNS_name TEXT: as RUNS_encode, but never longer than a file system takes (255 bytes).
RUNS_name() {
    RUNS_encode "$1"
    if ((${#RUNS_encoded} > 200)); then
        # `%+` is never made by encoding, so a shortened name is no other's full name.
        RUNS_encoded=${RUNS_encoded:0:100}%+$(printf %s "$1" | RUNS_sha256)
    fi
}

# What cannot be told must not pass for success: on a full disk there is room put aside for it.
RUNS_act() {
    printf '%s\n' "$1" >>"$RUNS_STEP/acts" && return
    rm -f "$RUNS_STATE/reserve"
    if ! printf '%s\n' "$1" >>"$RUNS_STEP/acts"; then
        printf "cannot write \`%s\`: no space left\n" "$RUNS_STEP/acts" >&2
        builtin exit 1
    fi
}

RUNS_wrong() {
    printf '%s\n' "$1" >&2
    RUNS_act wrong
}

# RUNS_marker [SUBSYSTEM]: set RUNS_folder and RUNS_file.
RUNS_marker() {
    RUNS_name "$RUNS_SCRIPT"
    RUNS_folder=$RUNS_STATE/markers/$RUNS_encoded
    RUNS_name "${1-}"
    RUNS_file=$RUNS_folder/${1:+subsystem=}${RUNS_encoded:-script}
}

shouldrun() {
    local RUNS_folder RUNS_file RUNS_encoded RUNS_subsystem RUNS_line RUNS_value=''
    RUNS_marker "${1-}"
    RUNS_encode "${1-}"
    RUNS_subsystem=$RUNS_encoded
    if [[ ! -e $RUNS_file && ! -L $RUNS_file ]]; then
        RUNS_act "shouldrun $RUNS_subsystem"
        return 0
    fi
    # Neither true nor false: guessing would lose work or do it twice. (Whether others may write
    # there the runner has seen for all markers at once.)
    if [[ ! -f $RUNS_file || -L $RUNS_file || ! -O $RUNS_file || ! -r $RUNS_file || -L $RUNS_folder ]]; then
        printf -v RUNS_value %q "$RUNS_SCRIPT"
        RUNS_wrong "cannot trust the marker \`$RUNS_file\`: not a file of this user; \`runsdeploy reset --host ${RUNS_HOST-} --script $RUNS_value\` takes it away"
        builtin exit 1
    fi
    # A marker made by hand may lack its last newline.
    while IFS= read -r RUNS_line || [[ -n $RUNS_line ]]; do
        case $RUNS_line in 'value '*) RUNS_value=${RUNS_line#value } ;; esac
    done <"$RUNS_file"
    if (($# > 1)); then
        RUNS_encode "=$2"
        # Not [[: the section may have set nocasematch.
        if [ "$RUNS_value" != "$RUNS_encoded" ]; then
            RUNS_act "shouldrun $RUNS_subsystem"
            return 0
        fi
    fi
    RUNS_act "declined $RUNS_subsystem"
    return "$RUNS_DECLINED"
}

setdone() {
    local RUNS_folder RUNS_file RUNS_encoded RUNS_value=''
    if (($# > 1)); then
        RUNS_encode "=$2"
        RUNS_value=$RUNS_encoded
    fi
    RUNS_marker "${1-}"
    # Before the marker: done must not mean that what others need of it is gone.
    if ! (umask 077 && RUNS_keep "${RUNS_OUTS-}" "${RUNS_SHARED-}"); then
        RUNS_wrong "cannot keep what \`$RUNS_SCRIPT\` made in \`$RUNS_OUTS\`"
        return 1
    fi
    if ! RUNS_write "$RUNS_value" && { rm -f "$RUNS_STATE/reserve" && ! RUNS_write "$RUNS_value"; }; then
        RUNS_wrong "cannot write the marker \`$RUNS_file\`"
        return 1
    fi
    RUNS_encode "${1-}"
    RUNS_act "setdone $RUNS_encoded"
}

# RUNS_copy FROM TO: whole or not at all.
RUNS_copy() {
    [[ $2 != */* || -d ${2%/*} ]] || mkdir -p "${2%/*}" || return
    cp -p "$1" "$2.new" && chmod go= "$2.new" && mv -f "$2.new" "$2"
}

# RUNS_keep TO FROM: the step's `out` files; those that root keeps belong to the user whose state it is.
RUNS_keep() {
    local RUNS_each
    # shellcheck disable=SC2154 # meta.sh
    for RUNS_each in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        RUNS_copy "$2/$RUNS_each" "$1/$RUNS_each" || return
        [[ $EUID != 0 || -z ${SUDO_UID-} ]] || chown "$SUDO_UID:${SUDO_GID-}" "$1/$RUNS_each" || return
    done
}

# Durable once it returns: the bytes, then the name, then the directory. One subshell: the umask is the
# script's, and every process counts.
RUNS_write() (
    umask 077
    set +e
    trap - ERR
    # A name that no marker can have: what a crash leaves is not taken for one.
    RUNS_new=$RUNS_folder/.new.$BASHPID
    # The directory's own name too must be on the disk.
    [[ -d $RUNS_folder ]] || { mkdir -p "$RUNS_folder" && sync "${RUNS_folder%/*}" "${RUNS_folder%/*/*}"; } || exit
    {
        printf 'runsdeploy marker 1\n' &&
            { [[ -z $1 ]] || printf 'value %s\n' "$1"; } &&
            TZ=UTC0 printf 'time %(%Y-%m-%dT%H:%M:%SZ)T\n' -1 &&
            printf 'session %s\ndigest %s\n%s' "$RUNS_SESSION" "$RUNS_DIGEST" "${RUNS_step_origin-}"
    } >|"$RUNS_new" && [[ ! -d $RUNS_file ]] && sync "$RUNS_new" && mv -f "$RUNS_new" "$RUNS_file" && exec sync "$RUNS_folder"
    rm -f "$RUNS_new"
    builtin exit 1
)

resetdone() {
    local RUNS_folder RUNS_file RUNS_encoded
    RUNS_marker "${1-}"
    if (($#)); then rm -f "$RUNS_file"; else rm -rf "$RUNS_folder"; fi || {
        RUNS_wrong "cannot take back the marker \`$RUNS_file\`"
        return 1
    }
    # The directory that held the name.
    (($#)) || RUNS_folder=${RUNS_folder%/*}
    [[ ! -d $RUNS_folder ]] || sync "$RUNS_folder"
    RUNS_encode "${1-}"
    RUNS_act "resetdone $RUNS_encoded"
}

# urequire LIB...: from the trees' lib/, then the bundled ones; loading twice is free.
urequire() {
    local RUNS_each
    for RUNS_each; do
        [[ $RUNS_loaded != *" $RUNS_each "* ]] || continue
        RUNS_loaded+="$RUNS_each "
        if [[ -f $RUNS_RUN/tree/$RUNS_each ]]; then
            # shellcheck source=/dev/null
            . "$RUNS_RUN/tree/$RUNS_each"
        elif [[ -f $RUNS_RUN/lib/$RUNS_each.sh && $RUNS_each != */* ]]; then
            # shellcheck source=/dev/null
            . "$RUNS_RUN/lib/$RUNS_each.sh"
        else
            printf "unknown library \`%s\`\n" "$RUNS_each" >&2
            exit 1
        fi
    done
}
