# Runs the steps of one segment, one after the other, detached from whoever asked for it.
#
# Output of the steps and events (see events.py) go to the spool, which is our stdout; what was started
# and how it ended goes to the journal, before it is acted upon. Files beside it are the wishes of whoever
# listens: `stop` (no further step), `kill` (end the running one too); `heard.*` says that somebody does.
#
# shellcheck disable=SC2154 # RUNS_segment_* and RUNS_step_*: segment.sh and meta.sh, made by bundle.py

RUNS_base=$1 RUNS_state=$2 RUNS_session=$3 RUNS_here=$4
RUNS_run=$RUNS_here/run
# What bash says of a killed step (`line 135: 4711 Killed ( cd …`) is about our lines, not the operator's.
exec 2>>"$RUNS_here/errors"
IFS= read -r RUNS_nonce <"$RUNS_here/nonce"
# shellcheck source=/dev/null
. "$RUNS_run/segment.sh"
# shellcheck source-path=SCRIPTDIR source=runs.sh
. "$RUNS_run/runs.sh"
# shellcheck source-path=SCRIPTDIR source=lock.sh
. "$RUNS_run/lock.sh"

# Everything reaches the spool through a pipe, in the order written: a section that opens /dev/stderr would
# empty a file. Room that was put aside lets the truth be told on a full disk.
open_spool() {
    exec > >(relay)
    RUNS_relay=$!
    echo "$RUNS_relay" >"$RUNS_here/relay"
}

relay() {
    local copier status copying=yes
    exec 8>&- >>"$RUNS_here/spool"
    trap 'copying=; kill "$copier"' USR1
    while :; do
        cat <&0 &
        copier=$!
        wait "$copier"
        status=$?
        ((status)) || return
        # What daemons of the steps write when all is over is nobody's; without us they would die of it.
        [[ $copying == yes ]] || exec cat >/dev/null
        copying=''
        make_room
        say_text note "some output was lost: the spool could not be written"
    done
}

# end_spool EVENT: say the last word. Whoever still holds the pipe then is a daemon that a step left, but for a relay
# that a slow disk keeps: what it has to bring is waited for, for a minute.
end_spool() {
    local turn
    spool_size
    say "$@"
    : >"$RUNS_here/finished"
    # Whoever has the lock next finds us over, and waits for what is still in the pipe.
    exec 9>&- >&-
    for ((turn = 0; turn < 300; turn++)); do
        kill -0 "$RUNS_relay" 2>/dev/null || return
        ((turn < 5)) || ! tail -c "+$((RUNS_size + 1))" "$RUNS_here/spool" | grep -qF "$RUNS_nonce $*" || break
        pause
    done
    kill -USR1 "$RUNS_relay"
}

# Set RUNS_size to what the spool has; the kernel's word costs no process.
spool_size() {
    local key
    { read -r key RUNS_size </proc/"$RUNS_relay"/fdinfo/1 && [[ $key == pos: ]]; } 2>/dev/null ||
        RUNS_size=$(wc -c <"$RUNS_here/spool")
}

say() { printf '\036%s %s\n' "$RUNS_nonce" "$*"; }

make_room() { [[ -e $RUNS_state/reserve ]] && rm -f "$RUNS_state/reserve"; }

# Say what room there is.
room() {
    local free mount inodes
    read -r _ _ _ free _ mount < <(df -Pk "$RUNS_state" 2>/dev/null | tail -n 1)
    read -r _ _ _ inodes _ < <(df -Pi "$RUNS_state" 2>/dev/null | tail -n 1)
    printf '%s' "\`${mount:-?}\` has ${free:-?} KiB and ${inodes:-?} inodes free"
}

put_room_aside() {
    [[ -s $RUNS_state/reserve ]] && return
    # Not zeros: some file systems keep those in no room at all.
    dd if=/dev/urandom of="$RUNS_state/reserve" bs=65536 count=16 2>/dev/null && sync "$RUNS_state/reserve" && return
    rm -f "$RUNS_state/reserve"
    RUNS_encode "cannot put 1 MiB aside in \`$RUNS_state\` for markers and the journal: $(room)"
    leave refuse space "$RUNS_encoded"
}

say_text() {
    RUNS_encode "$2"
    say "$1 $RUNS_encoded"
}

# A power cut must not leave a step that ran without a trace that it began.
note() {
    printf '%s\n' "$@" >>"$RUNS_here/journal" && sync "$RUNS_here/journal" && return
    make_room && printf '%s\n' "$@" >>"$RUNS_here/journal" && sync "$RUNS_here/journal"
}

# Set RUNS_now to hundredths of a second of a clock that nobody steps, where there is one.
clock() {
    RUNS_now=$SECONDS.00
    [[ ! -r /proc/uptime ]] || read -r RUNS_now _ </proc/uptime
    RUNS_now=${RUNS_now/./}
}

# leave EVENT...: end without having run anything; what was shipped is gone before anybody hears of it.
leave() {
    rm -rf "$RUNS_session/files" "$RUNS_run"
    [[ -z ${RUNS_locked-} ]] || : >"$RUNS_state/holder"
    end_spool "$@"
    prune
    exit 0
}

# What a root step made here only root can remove.
sweep() {
    local -a remains=("$RUNS_session/files" "$RUNS_session"/segment*/{run,payload})
    rm -rf "${remains[@]}" 2>/dev/null && return
    [[ $RUNS_segment_root == no ]] || sudo -n -- rm -rf "${remains[@]}"
}

finish() {
    say_files "$1"
    # The controller may come back for the next segment as soon as it hears the end.
    if [[ $RUNS_segment_last == yes || $1 == interrupted || ($1 == failed && $RUNS_segment_keep_going == no) ]]; then
        sweep
    fi
    note ${RUNS_ended:+"$RUNS_ended"} "finish $1"
    # Not before: a slow disk may keep us long, and who holds the lock then has a name.
    : >"$RUNS_state/holder"
    end_spool "finish $1"
    prune
}

# Spools and journals are kept for a while; files that a controller which was killed between two segments left, a day.
prune() {
    local name
    cd "$RUNS_state/sessions" || return
    # shellcheck disable=SC2012 # the names are ours: hexadecimal
    {
        ls -1t | tail -n +21
        find . -maxdepth 1 -name '[0-9a-f]*' -mtime +7
    } | while read -r name; do is_over "${name#./}" && rm -rf "./${name#./}"; done
    find . -maxdepth 3 \( -name files -o -path './*/segment*/run' \) -mtime +0 -prune | while read -r name; do
        is_over "${name:2:32}" && rm -rf "$name"
    done
}

# is_over SESSION: whether no runner of it lives, ours included.
is_over() {
    local each
    [[ $PWD/$1 != "$RUNS_session" ]] || return
    for each in "$1"*/segment*/alive; do
        [[ ! -e $each ]] || ! command -v flock >/dev/null || flock -n "$each" true || return
    done
}

# --- before the first step -----------------------------------------------------------------------

# Markers that others could have made or taken away say nothing.
check_markers() {
    local found
    [[ -d $RUNS_state/markers ]] || return 0
    found=$(find "$RUNS_state/markers" \( -perm -020 -o -perm -002 -o ! -user "$EUID" \) ! -type l 2>/dev/null)
    [[ -n $found ]] || return 0
    RUNS_encode "cannot trust \`${found%%$'\n'*}\`: another user may write it"
    leave refuse state "$RUNS_encoded"
}

# The controller knows whose promise it is, and how to mend it.
check_promise() {
    local said
    [[ -n $RUNS_segment_expected_facts ]] || return 0
    # shellcheck source-path=SCRIPTDIR source=facts.sh
    said=$(. "$RUNS_run/facts.sh" && contradictions "$RUNS_segment_expected_facts" 9>&- 8>&-)
    [[ -n $said ]] || return 0
    RUNS_encode "$said"
    leave refuse promise "$RUNS_encoded"
}

# The folders that the steps' markers will need, by one process for all of them.
make_folders() {
    local name
    local -a folders=()
    for name in ${RUNS_segment_marking[@]+"${RUNS_segment_marking[@]}"}; do
        RUNS_name "$name"
        [[ -d $RUNS_state/markers/$RUNS_encoded ]] || folders+=("$RUNS_state/markers/$RUNS_encoded")
    done
    [[ ${#folders[@]} == 0 ]] || { mkdir -p "${folders[@]}" && sync "$RUNS_state/markers" "$RUNS_state"; } 2>/dev/null
}

# Whether root can be had is known before anything runs.
check_sudo() {
    local said
    [[ $RUNS_segment_root == yes && $EUID -ne 0 ]] || return 0
    if ! command -v sudo >/dev/null; then
        said="there is no \`sudo\`"
    elif said=$(sudo -n -- env true 2>&1 </dev/null 9>&- 8>&-); then
        return
    fi
    RUNS_encode "\`conf root\` needs root, which user \`$(id -un)\` cannot become by \`sudo -n\`: ${said//$'\n'/ }"
    leave refuse sudo "$RUNS_encoded"
}

# --- steps ---------------------------------------------------------------------------------------

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
    # Ours, not the section's: what bash has to say of the locale was said before.
    [[ $1 != "$RUNS_run/mark.sh" ]] || environment+=(LC_ALL=C)
    (
        cd "$RUNS_session/files/$RUNS_step_folder" || exit 1
        exec </dev/null 2>&1 7>&-
        [[ ${#become[@]} == 0 ]] || exec "${become[@]}" env "${environment[@]}" "$BASH" "$1"
        export "${environment[@]}"
        exec "$BASH" "$1"
    )
}

# perform FILE: launch it in a process group of its own and wait for its end, not for that of what it leaves in the
# background; meanwhile see to wishes, the time limit and the size of the spool. Sets RUNS_status and RUNS_cause.
perform() {
    local began deadline='' status='' part=''
    RUNS_cause='' RUNS_hole='' RUNS_from=''
    set -m
    (
        # A group that is told to end takes this shell with it before it could say how.
        trap : TERM
        # While we hold the locks too: whoever finds the runner dead finds what it was running.
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
    while ! IFS= read -r -t 0.2 -u 7 part; do
        # The time may be over between the digits of a status.
        status+=$part
        if ! kill -0 "$RUNS_group" 2>/dev/null; then
            # It may have ended in between, and said so.
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
    done
    RUNS_status=$status$part
    wait "$RUNS_group"
    limit_spool
    if [[ -n $RUNS_cause ]]; then
        signal_group KILL
    elif kill -0 -- "-$RUNS_group" 2>/dev/null && ! pause && kill -0 -- "-$RUNS_group" 2>/dev/null; then
        say_text note "\`$RUNS_step_script\` left processes in the background (process group $RUNS_group)"
    fi
    # What the relay read and cannot write is lost: on a full disk there must be room before the end is told.
    printf '%65536s' '' 2>/dev/null >>"$RUNS_here/group" || make_room
    # Emptied, not removed: a process less for each step.
    : >"$RUNS_here/group"
}

# What runs as root only root can end; sudo may have given it a group of its own.
signal_group() {
    local inner=''
    kill -s "$1" -- "-$RUNS_group" 2>/dev/null
    [[ $RUNS_step_root == yes && $EUID -ne 0 ]] || return
    [[ ! -e $RUNS_step/pid ]] || read -r inner <"$RUNS_step/pid"
    sudo -n -- kill -s "$1" -- "-$RUNS_group" ${inner:+"-$inner" "$inner"} 2>/dev/null
}

# Of a step's output the first and the last so many bytes are kept: a hole between them takes no room. Where no
# holes can be made, nothing is dropped.
limit_spool() {
    local hole seen=0 follower file
    spool_size
    ((RUNS_size - RUNS_output > 2 * RUNS_segment_output)) && [[ -z ${RUNS_no_holes-} ]] || return
    RUNS_from=$(((RUNS_output + RUNS_segment_output + 4095) / 4096 * 4096))
    hole=$(((RUNS_size - RUNS_segment_output) / 4096 * 4096))
    ((hole - ${RUNS_hole:-$RUNS_from} >= RUNS_segment_output / 8)) || return
    command -v fallocate >/dev/null || RUNS_no_holes=yes
    [[ -z ${RUNS_no_holes-} ]] || return
    {
        [[ -z $RUNS_holes ]] || printf '%s' "$RUNS_holes"
        printf '%s %s\n' "$RUNS_from" "$hole"
    } >"$RUNS_here/dropped.new" && mv -f "$RUNS_here/dropped.new" "$RUNS_here/dropped" || return
    # Whoever reads in what is now a hole would take it for zeros: it is sent away first, and comes back behind.
    [[ ! -e $RUNS_here/seen ]] || read -r seen <"$RUNS_here/seen"
    for file in "$RUNS_here"/heard.*; do
        ((seen < hole)) && read -r _ follower 2>/dev/null <"$file" && [[ $follower == [1-9]* ]] &&
            kill -KILL "$follower" 2>/dev/null
    done
    fallocate -p -o "${RUNS_hole:-$RUNS_from}" -l $((hole - ${RUNS_hole:-$RUNS_from})) "$RUNS_here/spool" ||
        RUNS_no_holes=yes
    [[ -z ${RUNS_no_holes-} ]] || printf '%s' "$RUNS_holes" >"$RUNS_here/dropped"
    RUNS_hole=$hole
}

# Files that earlier steps made are part of what the step is: their bytes are known only now.
digest() {
    local file
    RUNS_digest=$RUNS_step_digest
    ((${#RUNS_step_uses[@]})) || return 0
    RUNS_digest=$({
        printf '%s\n' "$RUNS_step_digest"
        for file in "${RUNS_step_uses[@]}"; do RUNS_sha256 <"$RUNS_session/files/shared/$file" || echo none; done
    } 2>/dev/null | RUNS_sha256)
}

# Each `out` is a new, empty file.
prepare() {
    local file
    [[ -d $RUNS_session/files/$RUNS_step_folder ]] || mkdir -p "$RUNS_session/files/$RUNS_step_folder"
    RUNS_name "$RUNS_step_script"
    RUNS_outs=$RUNS_state/outs/$RUNS_encoded
    for file in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        # Here already, so that what root keeps there lies in a directory of ours.
        mkdir -p "$RUNS_outs/${file%"${file##*/}"}"
        file=$RUNS_session/files/shared/$file
        mkdir -p "${file%/*}"
        rm -rf "$file"
        : >"$file"
    done
}

# What a step that is marked made is kept, by `setdone` already, and again at its end: when it declines next time, its `out`
# files are those it made then, and not empty ones that a later step would install.
keep_outs() {
    RUNS_keep "$RUNS_outs" "$RUNS_session/files/shared" ||
        lose "cannot keep what \`$RUNS_step_script\` made: $(room)"
}

# lose TEXT: a step without the file that it promised did not do what it should.
lose() {
    say_text note "$1"
    RUNS_outcome=failed RUNS_status=1
}

bring_outs() {
    local file
    for file in ${RUNS_step_outs[@]+"${RUNS_step_outs[@]}"}; do
        RUNS_copy "$RUNS_outs/$file" "$RUNS_session/files/shared/$file" ||
            lose "\`$RUNS_step_script\` is done, but \`$file\`, which it made then, is not kept: take its marker back"
    done
}

# judge STATUS: set RUNS_outcome and RUNS_status from the status and from what the step asked and marked.
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
        [[ $verb == wrong ]] || say "mark $RUNS_step_number $verb $rest"
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

run_step() {
    local began turn line=0 how=none
    RUNS_step=$RUNS_run/step/$1
    # shellcheck source=/dev/null
    . "$RUNS_step/meta.sh"
    digest
    RUNS_set=''
    RUNS_encode "$RUNS_step_script"
    spool_size
    RUNS_output=$RUNS_size
    say "start $RUNS_step_number $RUNS_encoded"
    if ! note ${RUNS_ended:+"$RUNS_ended"} "start $RUNS_step_number $RUNS_digest"; then
        lose "cannot write \`$RUNS_here/journal\`: $(room)"
        say "end $RUNS_step_number failed 1 0 0 none"
        return
    fi
    hold_lock "$RUNS_step_script"
    [[ ! -e $RUNS_here/dropped ]] || RUNS_holes=$(<"$RUNS_here/dropped")$'\n'
    prepare
    # Before the step, which may fill the disk, gets it lost.
    for ((turn = 0; turn < 25; turn++)); do
        spool_size
        ((RUNS_size == RUNS_output)) || break
        pause
    done
    RUNS_output=$RUNS_size
    clock
    began=$RUNS_now
    perform "$RUNS_session/files/$RUNS_step_file"
    judge "$RUNS_status"
    if [[ $RUNS_outcome == ok && -n $RUNS_step_once ]]; then
        rm -f "$RUNS_step/acts"
        perform "$RUNS_run/mark.sh"
        judge "$RUNS_status"
    fi
    clock
    case $RUNS_outcome in
    already-done) bring_outs ;;
    *) [[ -z $RUNS_set ]] || keep_outs ;;
    esac
    if [[ $RUNS_outcome == failed && -e $RUNS_step/failed ]]; then read -r line how <"$RUNS_step/failed"; fi
    # On a full disk it is empty.
    : "${line:=0}" "${how:=none}"
    RUNS_ended="end $RUNS_step_number $RUNS_outcome $RUNS_status"
    printf -v began '%03d' $((10#$RUNS_now - 10#$began))
    say "end $RUNS_step_number $RUNS_outcome $RUNS_status ${began%??}.${began: -2} $line $how"
}

# Files that the other side will need, each in one piece behind its head.
say_files() {
    local file path mode
    [[ $1 != interrupted ]] || return 0
    for file in ${RUNS_segment_returns[@]+"${RUNS_segment_returns[@]}"}; do
        path=$RUNS_session/files/shared/$file
        [[ -f $path && ! -L $path ]] || continue
        if [[ -x $path ]]; then mode=0755; else mode=0644; fi
        RUNS_encode "$file"
        say "file $RUNS_encoded $mode $(($(wc -c <"$path"))) $(RUNS_sha256 <"$path")"
        cat "$path"
    done
}

run_segment() {
    local number outcome=ok
    # A byte in it is an end; without a writer of our own, reading would not wait.
    if ! { mkfifo -m 600 "$RUNS_here/ends" && exec 7<>"$RUNS_here/ends" && rm -f "$RUNS_here/ends"; }; then
        RUNS_encode "cannot make \`$RUNS_here/ends\`: $(room)"
        leave refuse space "$RUNS_encoded"
    fi
    printf '%s\n' "$RUNS_boot" >"$RUNS_here/boot"
    printf '%s %s\n' "$RUNS_segment_by" "$RUNS_since" >"$RUNS_here/about"
    # What tells of us if the power goes.
    sync "$RUNS_here/nonce" "$RUNS_here/boot" "$RUNS_here/about"
    [[ $RUNS_segment_detach == no ]] || : >"$RUNS_here/detached"
    lock
    put_room_aside
    tell_earlier
    check_markers
    check_sudo
    check_promise
    make_folders
    for number in "${RUNS_segment_steps[@]}"; do
        await_listener
        if [[ -e $RUNS_here/stop || -e $RUNS_here/kill ]] || ! attended "$RUNS_here"; then
            outcome=interrupted
            break
        fi
        run_step "$number"
        case $RUNS_outcome in
        interrupted) outcome=interrupted && break ;;
        failed | killed | timeout) outcome=failed && [[ $RUNS_segment_keep_going == yes ]] || break ;;
        esac
    done
    finish "$outcome"
}

RUNS_ended='' RUNS_holes='' RUNS_boot=-
[[ ! -r /proc/sys/kernel/random/boot_id ]] || read -r RUNS_boot </proc/sys/kernel/random/boot_id
TZ=UTC0 printf -v RUNS_since '%(%Y-%m-%dT%H:%M:%SZ)T' -1
open_spool
run_segment
