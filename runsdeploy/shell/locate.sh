# Where a step failed: the operator's innermost line, from the records that record.sh made. Part of runner.sh.
#
# A record has numbers (its count, the status, the level of subshells, then the line in each frame of the call stack,
# innermost first), the file of each frame, the innermost function, and the command.
#
# shellcheck disable=SC2154,SC2034,SC2015 # RUNS_step_*: made by parameters.py; the rest: runner.sh, or for run_step.sh

# locate: set RUNS_file and RUNS_line; RUNS_how (`exit`: that line ended the step, `last`: it may have, `none`: unknown);
# RUNS_caller, the line of the section; RUNS_command, if a failing command ended the step.
locate() {
    local file last='' option='' first=0 highest=-1 command='' chain='' ended=''
    RUNS_line=0 RUNS_file='' RUNS_how=none RUNS_caller=0 RUNS_command=''
    for file in "$RUNS_step"/failed.*.0.*; do
        read_record "$file" || continue
        # bash runs an ERR trap under the conditions of `set -e`: this failure ended the shell.
        if [[ $file == *.e ]] && { [[ -z $option ]] || ((record_count < first)); }; then
            option=$file first=$record_count
        fi
        if ((record_count > highest)); then last=$file highest=$record_count; fi
    done
    if [[ $RUNS_outcome == failed && -n $option ]]; then
        innermost "$option" && RUNS_how='exit' RUNS_command=$record_command && return
    fi
    if [[ $RUNS_outcome == failed ]] && read_record "$RUNS_step/exited.0.1" && ! in_exit_trap; then
        take && RUNS_how='exit' && return
    fi
    if read_record "$RUNS_step/ended"; then ended=yes command=$record_command chain=$record_chain; fi
    if [[ -n $last ]] && read_record "$last" && { ((record_status == RUNS_status)) || [[ $RUNS_outcome != failed ]]; }; then
        if [[ -n $ended && $record_command == "$command" && $record_chain == "$chain" ]]; then
            innermost "$last" && RUNS_how='exit' && return
        elif [[ -z $ended ]]; then
            innermost "$last" && RUNS_how=last && return
        fi
    fi
    if [[ -n $ended ]]; then
        if read_record "$RUNS_step/ended" && take; then RUNS_how=last; fi
    elif [[ $RUNS_outcome == failed ]]; then
        # Its own EXIT trap, or another program in its place.
        record_function=main record_command='exec ' RUNS_line=$(find_command "$RUNS_session/files/$RUNS_step_file")
        ((RUNS_line == 0)) || RUNS_how=last
    fi
    if [[ $RUNS_how == none ]] && read_record "$RUNS_step/exited.0.1" && take; then RUNS_how=last; fi
}

# read_record FILE: set the record_ variables. The files of a step that ran as root may be readable for root only.
read_record() {
    local text numbers
    [[ -e $1 ]] || return
    if [[ -r $1 ]]; then text=$(<"$1"); else text=$(sudo -n -- cat "$1" 2>/dev/null); fi
    [[ $text == *'/dev/null/RUNS '*'<<>>'*'<<>>'*'<<<>>>'* ]] || return
    text=${text#*/dev/null/RUNS } text=${text%'<<<>>>'*}
    record_files=${text%%'<<>>'*} text=${text#*'<<>>'}
    record_function=${text%%'<<>>'*} record_command=${text#*'<<>>'}
    numbers=${record_files%%'</>'*} record_files=${record_files#*'</>'}
    # The section's IFS may stand between them.
    IFS=' ' read -r record_count record_status record_subshell numbers <<<"${numbers//[!0-9]/ }"
    IFS=' ' read -r -a record_lines <<<"$numbers"
    # The frame of our function `exit`.
    if [[ $record_files == "$RUNS_run/record.sh</>"* ]]; then record_files=${record_files#*'</>'}; fi
    record_chain=" ${record_lines[*]:1} "
}

# Whether the record was made in an EXIT trap: bash counts its lines from 1, and a section's first line is empty.
in_exit_trap() { [[ "${record_lines[*]} " =~ (^|\ )1\ (0\ )?$ ]]; }

# innermost FILE: take the record that caused this one. bash reports a failure in a function or in a subshell again in each
# caller.
innermost() {
    local found=$1 count status subshell depth lines line chain file source more=yes
    while [[ -n $more ]]; do
        more=''
        read_record "$found" || return
        count=$record_count status=$record_status subshell=$record_subshell depth=${#record_lines[@]}
        lines=" ${record_lines[*]} " line=${record_lines[0]} chain=$record_chain source=${record_files%%'</>'*}
        for file in "$RUNS_step"/failed.*."$subshell".* "$RUNS_step"/failed.*."$((subshell + 1))".* "$RUNS_step/exited.$((subshell + 1))".*; do
            read_record "$file" || continue
            [[ $file != */exited.* ]] || record_status=$status
            ((record_status == status)) || continue
            if ((record_subshell == subshell)); then
                ((record_count == count - 1)) && [[ $record_chain == "$lines" ]] || continue
            else
                ((${#record_lines[@]} >= depth)) && [[ $record_chain == *"$chain" ]] || continue
                is_one_command "$source" "${record_lines[${#record_lines[@]} - depth]}" "$line" || continue
            fi
            found=$file more=yes
            break
        done
    done
    read_record "$found" && take
}

# is_one_command FILE FROM TO: whether a failure of a subshell at line FROM may be that of the command at line TO, the last
# one of a subshell or a pipeline. Otherwise it was a failure of an earlier subshell, which ended nothing. (bash counts
# the same for both: a subshell's counter is a copy.)
is_one_command() {
    local at last text
    (($2 != $3)) || return 0
    (($2 < $3)) && own "$1" || return
    # Each line of a pipeline but the last ends in `|`.
    text=$(sed -n "$2,$(($3 - 1))p" "$RUNS_path")
    [[ $'\n'$text$'\n' == *[!\|\\\&[:blank:]]*([[:blank:]])$'\n'* ]] || return 0
    # What opens a subshell stands before its failure, so its end is one too many for the lines behind.
    last=$(sed -n "$3p" "$RUNS_path")
    at=$(sed -n "$(($2 + 1)),$3p" "$RUNS_path" | LC_ALL=C "$BASH" --norc -O extglob -n 2>&1)
    [[ $at == *" line $(($3 - $2)): syntax error near unexpected token "* ]] || return
    case $at in
    *" token \`)'"*) [[ $last =~ (^|[[:blank:];])\) ]] ;;
    *" token \`"'}'* | *" token \`"done* | *" token \`"fi* | *" token \`"esac*) [[ $last =~ [^|]\|([^|]|$) ]] ;;
    *) false ;;
    esac
}

# take: set RUNS_line and RUNS_file to the innermost own frame of the record, and RUNS_caller to the innermost line of the
# section. The frame of the command itself has no line in an EXIT trap.
take() {
    local i files=$record_files file line found=''
    for ((i = 0; i < ${#record_lines[@]}; i++)); do
        [[ $files == *'</>'* ]] || break
        file=${files%%'</>'*} files=${files#*'</>'} line=${record_lines[i]}
        own "$file" || continue
        # The lines of a trap begin with 1, and a section's first line is empty.
        if ((line == 0)) || { ((line == 1)) && [[ -z $RUNS_own ]]; }; then line=$(find_command "$RUNS_path"); fi
        ((line > 0)) || continue
        if [[ -z $found ]]; then found=yes RUNS_line=$line RUNS_file=$RUNS_own; fi
        if [[ -z $RUNS_own ]]; then RUNS_caller=$line && break; fi
    done
    [[ -n $found ]]
}

# own FILE: set RUNS_own to a file of the operator's: empty for the section, else a path below the directory of shipped
# files, or `lib/NAME`; and RUNS_path. A name may be relative to the step's directory, and have a character of IFS before it.
own() {
    for RUNS_path in "$1" "${1:1}"; do
        [[ $RUNS_path == /* ]] || RUNS_path=$RUNS_session/files/$RUNS_step_folder/$RUNS_path
        RUNS_path=${RUNS_path//\/.\//\/}
        while [[ $RUNS_path =~ ^(.*)/[^/]+/\.\./(.*)$ ]]; do RUNS_path=${BASH_REMATCH[1]}/${BASH_REMATCH[2]}; done
        [[ -f $RUNS_path ]] || continue
        case $RUNS_path in
        "$RUNS_session/files/$RUNS_step_file") RUNS_own='' ;;
        "$RUNS_session/files/shared/"*) continue ;;
        "$RUNS_session/files/"*) RUNS_own=${RUNS_path#"$RUNS_session/files/"} ;;
        "$RUNS_run/tree/"*) RUNS_own=lib/${RUNS_path#"$RUNS_run/tree/"} ;;
        *) continue ;;
        esac
        return
    done
    return 1
}

# find_command FILE: print the line of FILE that has the record's command, in the record's function; 0 unless there is
# exactly one. A section that fails outside functions has most likely come to its end: the last one counts.
find_command() {
    local line number=0 found=0 inside='' indent='' wanted=${record_command%%$'\n'*}
    # bash prints redirections in another way than they are written.
    if [[ $wanted == *[\<\>]* ]]; then wanted=${wanted%%[<>]*} wanted=${wanted%[0-9&]}; fi
    wanted=${wanted//[[:space:]]/}
    case $record_function in main | source) inside=yes ;; esac
    while IFS= read -r line || [[ -n $line ]]; do
        ((++number))
        if [[ $line =~ ^([[:space:]]*)(function[[:space:]]+)?([^[:space:]\(\)]+)[[:space:]]*(\(|\{|$) && ${BASH_REMATCH[3]} == "$record_function" ]]; then
            inside=yes indent=${BASH_REMATCH[1]}
        fi
        [[ -n $inside ]] || continue
        if [[ -n $wanted && ${line//[[:space:]]/} == *"$wanted"* && $line != *([[:space:]])'#'* ]]; then
            if ((found)) && [[ $record_function != main || $RUNS_outcome != failed ]]; then printf 0 && return; fi
            found=$number
        fi
        case $record_function in main | source) ;; *) [[ $line != "$indent}"* ]] || break ;; esac
    done <"$1"
    printf '%s' "$found"
}
