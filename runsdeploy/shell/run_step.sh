# One step: its process group, its limits, its files for other steps, its outcome. Part of runner.sh.
#
# shellcheck disable=SC2154,SC2034 # RUNS_segment_*, RUNS_step_*: made by parameters.py; the rest: runner.sh, or for it

# launch FILE: run a bash file as the step's user, with the step's environment.
launch() {
    local state=$RUNS_state
    local -a become=()
    if [[ $RUNS_step_root == yes && $EUID -ne 0 ]]; then
        become=(sudo -n --)
        state=/var/lib/runsdeploy${RUNS_state#"$RUNS_base"}
    fi
    local -a environment=(
        "BASH_ENV=$RUNS_run/step.sh" "RUNS_HOST=$RUNS_segment_host" "RUNS_SCRIPT=$RUNS_step_script"
        "RUNS_SESSION=$RUNS_segment_session" "RUNS_FILES=$RUNS_session/files"
        "RUNS_SHARED=$RUNS_session/files/shared" "RUNS_DIGEST=$RUNS_digest" "RUNS_RUN=$RUNS_run"
        "RUNS_STEP=$RUNS_step" "RUNS_STATE=$state" "RUNS_OUTS=$RUNS_outs"
    )
    # Not the section's file, so not in its locale: bash would repeat its warning about a missing one.
    [[ $1 != "$RUNS_run/mark.sh" ]] || environment+=(LC_ALL=C)
    (
        cd "$RUNS_session/files/$RUNS_step_folder" || exit 1
        exec </dev/null 2>&1 7>&-
        [[ ${#become[@]} == 0 ]] || exec "${become[@]}" env "${environment[@]}" "$BASH" "$1"
        export "${environment[@]}"
        exec "$BASH" "$1"
    )
}

# run_file FILE: launch it in a process group of its own and wait for its end, but not for its background processes.
# Meanwhile obey requests, the time limit and the size of the spool. Sets RUNS_status and RUNS_cause.
run_file() {
    local began deadline='' status='' part=''
    RUNS_cause='' RUNS_hole='' RUNS_from=''
    set -m
    (
        # The TERM for the group must not end this shell before it has reported the status.
        trap : TERM
        # Before the locks are released here: a session that finds the runner dead must find its process group.
        printf '%s\n' "$BASHPID" >"$RUNS_here/group"
        exec 8>&- 9>&-
        launch "$1"
        set -- "$?"
        printf '%s\n' "$1" >&7
        exit "$1"
    ) &
    RUNS_group=$!
    set +m
    clock
    began=$RUNS_now
    spool_size
    listen
    while ! IFS= read -r -t 0.2 -u 7 part; do
        # The time limit of `read` may fall between the digits of a status.
        status+=$part
        if ! kill -0 "$RUNS_group" 2>/dev/null; then
            # It may have ended in between, and reported its status.
            IFS= read -r -t 1 -u 7 part || {
                part=''
                wait "$RUNS_group"
                status=$?
            }
            break
        fi
        clock
        if [[ -n $RUNS_cause ]]; then
            ((10#$RUNS_now < deadline)) || signal_group KILL
        elif [[ -e $RUNS_here/kill ]]; then
            RUNS_cause=interrupted deadline=$((10#$RUNS_now + 500))
            signal_group TERM
        elif ((RUNS_segment_timeout)) && ((10#$RUNS_now - 10#$began >= RUNS_segment_timeout)); then
            RUNS_cause=timeout deadline=$((10#$RUNS_now + 1000))
            signal_group TERM
        fi
        limit_spool
        note_silence
    done
    RUNS_status=$status$part
    wait "$RUNS_group"
    limit_spool
    if [[ -n $RUNS_cause ]]; then
        signal_group KILL
    elif kill -0 -- "-$RUNS_group" 2>/dev/null && ! pause && kill -0 -- "-$RUNS_group" 2>/dev/null; then
        emit_text note "\`$RUNS_step_script\` left processes in the background (process group $RUNS_group)"
    fi
    # A full disk must have space before the end is reported: bytes that the relay read and cannot write are lost.
    printf '%65536s' '' 2>/dev/null >>"$RUNS_here/group" || free_reserve
    # Emptied, not removed: this costs no process.
    : >"$RUNS_here/group"
}

# signal_group SIGNAL: a step that runs as root is signalled through sudo, which may have given it another group.
signal_group() {
    local inner=''
    kill -s "$1" -- "-$RUNS_group" 2>/dev/null
    [[ $RUNS_step_root == yes && $EUID -ne 0 ]] || return
    [[ ! -e $RUNS_step/pid ]] || read -r inner <"$RUNS_step/pid"
    sudo -n -- kill -s "$1" -- "-$RUNS_group" ${inner:+"-$inner" "$inner"} 2>/dev/null
}

# Set RUNS_digest, which includes the bytes of files of earlier steps: they are known only now.
set_digest() {
    local file
    RUNS_digest=$RUNS_step_digest
    ((${#RUNS_step_uses[@]})) || return 0
    RUNS_digest=$({
        printf '%s\n' "$RUNS_step_digest"
        for file in "${RUNS_step_uses[@]}"; do RUNS_sha256 <"$RUNS_session/files/shared/$file" || echo none; done
    } 2>/dev/null | RUNS_sha256)
}

# Make each `out` as a new, empty file.
make_outs() {
    local file
    [[ -d $RUNS_session/files/$RUNS_step_folder ]] || mkdir -p "$RUNS_session/files/$RUNS_step_folder"
    RUNS_name "$RUNS_step_script"
    RUNS_outs=$RUNS_state/outs/$RUNS_encoded
    for file in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        # Made here, so that copies by root lie in a directory of the login user.
        mkdir -p "$RUNS_outs/${file%"${file##*/}"}"
        file=$RUNS_session/files/shared/$file
        mkdir -p "${file%/*}"
        rm -rf "$file"
        : >"$file"
    done
}

# Keep the `out` files of a marked step, as `setdone` did before its end: when it declines next time, later steps must get
# these files, and not empty ones.
keep_outs() {
    RUNS_keep "$RUNS_outs" "$RUNS_session/files/shared" ||
        fail_step "cannot keep the files of \`$RUNS_step_script\`: $(free_space)"
}

# Let a step fail that left something else than a file as its `out`: others would wait for it, or read without end.
check_outs() {
    local file
    for file in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        RUNS_is_plain "$RUNS_session/files/shared" "$file" ||
            fail_step "\`$file\`, declared by \`out\`, is $RUNS_found, expected a file"
    done
}

# Let a step fail before it starts if a file is gone that it uses: without it the step would do something else.
check_files() {
    local file
    RUNS_outcome=''
    for file in "$RUNS_step_file" ${RUNS_step_refs[@]+"${RUNS_step_refs[@]}"}; do
        [[ -e $RUNS_session/files/$file || -L $RUNS_session/files/$file ]] ||
            { fail_step "\`$RUNS_session/files/$file\` is missing: something removed files of this session" && return; }
    done
    for file in ${RUNS_step_uses[@]+"${RUNS_step_uses[@]}"}; do
        RUNS_is_plain "$RUNS_session/files/shared" "$file" ||
            { fail_step "\`$file\`, which an earlier step made, is $RUNS_found, expected a file" && return; }
    done
}

# fail_step TEXT: a step whose declared file is missing has failed.
fail_step() {
    emit_text note "$1"
    RUNS_outcome=failed RUNS_status=1
}

# Copy the kept `out` files of a step that declined.
restore_outs() {
    local file
    for file in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        { RUNS_is_plain "$RUNS_outs" "$file" &&
            RUNS_copy "$RUNS_outs/$file" "$RUNS_session/files/shared/$file" "$RUNS_session/files/shared/$file.new"; } ||
            fail_step "\`$RUNS_step_script\` is done, but its file \`$file\` was not kept: reset its marker"
    done
}

# judge STATUS: set RUNS_outcome and RUNS_status from the status and from the uses of markers in `acts`.
judge() {
    local verb rest yes=0 no=0 wrong=0
    RUNS_status=$1
    [[ -e $RUNS_step/acts ]] || : >"$RUNS_step/acts"
    while IFS=' ' read -r verb rest; do
        case $verb in
        shouldrun) ((++yes)) ;;
        declined) ((++no)) ;;
        wrong) ((++wrong)) ;;
        setdone) RUNS_set=yes ;;
        esac
        [[ $verb == wrong ]] || emit "mark $RUNS_step_number $verb $rest"
    done <"$RUNS_step/acts"
    if ((RUNS_status == RUNS_DECLINED && no)); then RUNS_status=0; fi
    if ((wrong && RUNS_status == 0)); then RUNS_status=1; fi
    if [[ -n $RUNS_cause ]]; then
        RUNS_outcome=$RUNS_cause
        [[ $RUNS_cause == interrupted ]] || RUNS_status=124
    elif ((RUNS_status > 128 && RUNS_status <= 192)); then
        RUNS_outcome=killed
    elif ((RUNS_status)); then
        RUNS_outcome=failed
    elif ((no && yes == 0)); then
        RUNS_outcome=already-done
    else
        RUNS_outcome=ok
    fi
}

# read_step NUMBER: read what the step is; without that, the variables are those of the step before. The section's own
# files are looked at too: bash says nothing of a BASH_ENV that it cannot read, and runs the section without its values.
read_step() {
    local RUNS_end='' text=''
    # shellcheck source=/dev/null
    . "$RUNS_step/meta.sh"
    [[ ! -r $RUNS_run/step.sh ]] || IFS= read -r -d '' text <"$RUNS_run/step.sh"
    [[ $RUNS_end != meta.sh || $text != *"RUNS_end=\$'step.sh'"$'\n' ]] || return 0
    RUNS_step_number=$1
    emit "start $1 -"
    fail_step "cannot read the session's files below \`$RUNS_run\`: nothing of this step was run"
    RUNS_ended="end $1 failed 1"
    emit "end $1 failed 1 0 0 none"
    return 1
}

run_step() {
    local began turn
    RUNS_step=$RUNS_run/step/$1
    read_step "$1" || return
    RUNS_set=''
    RUNS_encode "$RUNS_step_script"
    spool_size
    RUNS_output=$RUNS_size
    emit "start $RUNS_step_number $RUNS_encoded"
    check_files
    if [[ -n $RUNS_outcome ]]; then
        emit "end $RUNS_step_number failed 1 0 0 none"
        return
    fi
    set_digest
    if ! write_journal ${RUNS_ended:+"$RUNS_ended"} "start $RUNS_step_number $RUNS_digest"; then
        fail_step "cannot write \`$RUNS_here/journal\`: $(free_space)"
        emit "end $RUNS_step_number failed 1 0 0 none"
        return
    fi
    write_holder "$RUNS_step_script"
    [[ ! -e $RUNS_here/dropped ]] || RUNS_holes=$(<"$RUNS_here/dropped")$'\n'
    make_outs
    # The event must be in the spool before the step, which may fill the disk.
    for ((turn = 0; turn < 25; turn++)); do
        spool_size
        ((RUNS_size == RUNS_output)) || break
        pause
    done
    RUNS_output=$RUNS_size
    clock
    began=$RUNS_now
    run_file "$RUNS_session/files/$RUNS_step_file"
    judge "$RUNS_status"
    if [[ $RUNS_outcome == ok && -n $RUNS_step_once ]]; then
        rm -f "$RUNS_step/acts"
        run_file "$RUNS_run/mark.sh"
        judge "$RUNS_status"
    fi
    clock
    case $RUNS_outcome in
    already-done) restore_outs ;;
    ok)
        check_outs
        [[ -z $RUNS_set || $RUNS_outcome == failed ]] || keep_outs
        ;;
    *) [[ -z $RUNS_set ]] || keep_outs ;;
    esac
    RUNS_line=0 RUNS_file='' RUNS_how=none
    case $RUNS_outcome in ok | already-done) ;; *) locate ;; esac
    # The form of bash's own messages, from which the controller takes the line.
    if [[ $RUNS_step_strict == yes && -n ${RUNS_command-} && $RUNS_outcome == failed ]]; then
        printf "%s: line %s: %s\`%s\` failed\n" "$RUNS_session/files/$RUNS_step_file" "$RUNS_caller" \
            "${RUNS_file:+"${RUNS_file#tree[0-9]*/}:$RUNS_line: "}" "$RUNS_command"
    fi
    RUNS_encode "$RUNS_file"
    RUNS_ended="end $RUNS_step_number $RUNS_outcome $RUNS_status"
    printf -v began '%03d' $((10#$RUNS_now - 10#$began))
    emit "end $RUNS_step_number $RUNS_outcome $RUNS_status ${began%??}.${began: -2} $RUNS_line $RUNS_how${RUNS_encoded:+ $RUNS_encoded}"
}
