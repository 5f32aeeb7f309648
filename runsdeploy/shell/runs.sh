# The library `runs`: shouldrun, setdone, resetdone, urequire. Loaded into every SCRIPT section.
#
# A marker is a file RUNS_STATE/markers/SCRIPT/SUBSYSTEM, names percent-encoded. Each use of a marker is recorded in
# RUNS_STEP/acts, from which the runner derives the outcome of the step.

# Status of `shouldrun` for "no": `shouldrun || exit` passes it on, and programs do not use it.
RUNS_DECLINED=100

# RUNS_encode TEXT: set RUNS_encoded to a word that is also a file name, one to one. Without stderr: bash complains about
# a missing locale whenever LC_ALL is restored, which is not the fault of the script.
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

# RUNS_name TEXT: as RUNS_encode, but never longer than a name in a file system (255 bytes).
RUNS_name() {
    RUNS_encode "$1"
    if ((${#RUNS_encoded} > 200)); then
        # Encoding never makes `%+`, so a shortened name equals no full name.
        RUNS_encoded=${RUNS_encoded:0:100}%+$(printf %s "$1" | RUNS_sha256)
    fi
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
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded RUNS_subsystem RUNS_line RUNS_of RUNS_value=''
    RUNS_marker "${1-}"
    RUNS_encode "${1-}"
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
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded RUNS_value=''
    if (($# > 1)); then
        RUNS_encode "=$2"
        RUNS_value=$RUNS_encoded
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
    RUNS_encode "${1-}"
    RUNS_record "setdone $RUNS_encoded"
}

# RUNS_copy FROM TO: complete or not at all.
RUNS_copy() {
    [[ $2 != */* || -d ${2%/*} ]] || mkdir -p "${2%/*}" || return
    cp -p "$1" "$2.new" && chmod go= "$2.new" && mv -f "$2.new" "$2"
}

# RUNS_keep TO FROM: copy the step's `out` files; copies made by root belong to the owner of the state directory.
RUNS_keep() {
    local RUNS_each
    # shellcheck disable=SC2154 # meta.sh
    for RUNS_each in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        RUNS_copy "$2/$RUNS_each" "$1/$RUNS_each" || return
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
    local RUNS_folder RUNS_file RUNS_label RUNS_encoded
    RUNS_marker "${1-}"
    if (($#)); then rm -f "$RUNS_file"; else rm -rf "$RUNS_folder"; fi || {
        RUNS_wrong "cannot remove the marker \`$RUNS_file\`"
        return 1
    }
    # The directory that the removed name was in.
    (($#)) || RUNS_folder=${RUNS_folder%/*}
    [[ ! -d $RUNS_folder ]] || sync "$RUNS_folder"
    RUNS_encode "${1-}"
    RUNS_record "resetdone $RUNS_encoded"
}

# urequire LIB...: load libraries, of the trees' lib/ first, then the bundled ones; each only once.
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
