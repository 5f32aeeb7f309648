# shellcheck shell=sh
# Adds a public key to an account's authorized_keys. POSIX sh; nothing runs until the channel has brought the whole
# program (program.COMMAND).
#
# Header: NONCE PROMPT MODE USER PASSWORD. MODE is `hello`, `look` or `add`; USER owns the file, `-` for the login;
# PASSWORD is whether the controller has one for sudo. After the frame `ready` the controller sends the key, one line.
# The password comes before that, and only after sudo has printed our prompt: nothing else can read it. A program that
# su or sudo starts asks for the header again, by PROMPT: everybody may read its arguments, and the nonce is in none.
#
# Everything runs as the account itself: a user's symbolic link cannot make root write to another place.
#
# shellcheck disable=SC2154 # p: program.COMMAND

# The system's directories come first: a `sudo` in the account's own directories must not get the password.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
LC_ALL=C
export LC_ALL

# bash imports functions from the environment, also as `sh`: remove them, or they would replace commands.
if [ -n "${BASH_VERSION-}" ]; then
    unset -f env sed
    # shellcheck disable=SC2046 # words on purpose
    unset -f $(env | sed -n 's/^BASH_FUNC_\([^=]*\)%%=.*/\1/p')
fi

# say TEXT: print a line by a builtin, because everybody may read the arguments of a program: `printf` is one for mksh.
case $(command -v print) in
print) say() { print -r -- "$1"; } ;;
*) say() { printf '%s\n' "$1"; } ;;
esac

# frame RESULT [TEXT]
frame() { say "$mark$nonce $*"; }

# refuse MESSAGE [REPAIR]
refuse() {
    frame refuse "$(printf '%s\t%s' "$1" "${2-}" | tr '\n' ' ')"
    exit 0
}

# Read the header. An exported variable of that name would take the nonce to every program.
read_header() {
    set +a
    unset nonce
    mark=$(printf '\036')
    read -r nonce prompt mode user password || exit 1
}

main() {
    read_header
    case $user in
    - | "$(id -un)") install ;;
    *) as_user ;;
    esac
}

# Runs `install` as another account, by su or sudo.
as_user() {
    id -u "$user" >/dev/null 2>&1 || refuse "the host has no user \`$user\`"
    rest="$p
say '$mark$prompt header'
read_header
install"
    [ "$(id -u)" != 0 ] || exec su -s /bin/sh "$user" -c "$rest"
    command -v sudo >/dev/null 2>&1 || refuse "the host has no \`sudo\`, which \`$(id -un)\` needs to become \`$user\`"
    if output=$(sudo -n -u "$user" /bin/sh -c : 2>&1 </dev/null); then
        exec sudo -n -u "$user" /bin/sh -c "$rest"
    fi
    case $output in
    *"must have a tty"*)
        refuse "\`sudo\` on the host requires a terminal (\`requiretty\`)" "allow it in sudoers: \`Defaults:$(id -un) !requiretty\`"
        ;;
    esac
    [ "$password" = yes ] || {
        frame password
        exit 0
    }
    frame sudo
    # -k: sudo must not remember the password. Its own messages go to stdout, for the controller.
    exec sudo -k -S -p "$prompt?" -u "$user" /bin/sh -c "$rest" 2>&1
}

# sshd ignores keys in a place that other users may write; nor does this program write there.
require_safe() {
    # shellcheck disable=SC2046 # words on purpose, and no globs: set -f
    set -- "$1" $(ls -ldLn -- "$1" 2>/dev/null)
    [ $# -ge 4 ] || refuse "cannot read the permissions of \`$1\`"
    case $2 in
    ?????w* | ????????w*) refuse "other users may write \`$1\`, so sshd accepts no key there" "on the host: \`chmod go-w $1\`" ;;
    esac
    owner=$4
    [ "$owner" = "$uid" ] || [ "$owner" = 0 ] || refuse "\`$1\` belongs to user $owner, expected \`$me\` or root"
}

# try COMMAND...: runs it; refuses with its error message if it fails.
try() {
    output=$("$@" 2>&1) && return
    refuse "cannot write \`$file\`: $(printf %s "${output##*: }" | tr '[:upper:]' '[:lower:]')"
}

# Whether a line has the key. It may have options before the key, and another comment after it.
present() {
    while IFS= read -r each || [ -n "$each" ]; do
        case $each in *"$blob"*) ;; *) continue ;; esac
        # shellcheck disable=SC2086 # words on purpose
        set -- $each
        case $1 in '#'*) continue ;; esac
        while [ $# -gt 1 ]; do
            [ "$1" = "$kind" ] && [ "${2%"$cr"}" = "$blob" ] && return 0
            shift
        done
    done <"$file"
    return 1
}

append() {
    # The last line may lack its newline.
    [ ! -s "$1" ] || [ -z "$(tail -c 1 "$1")" ] || echo >>"$1" || return
    printf '%s\n' "$line" >>"$1"
}

install() {
    set -f
    umask 077
    cr=$(printf '\r')
    me=$(id -un) uid=$(id -u)
    [ "$mode" != hello ] || {
        frame hello
        exit 0
    }
    # The home of passwd, which sshd uses, and not HOME.
    case $me in *[!A-Za-z0-9._@+-]*) home=${HOME-} ;; *) eval "home=~$me" ;; esac
    case $home in /*) ;; *) home=${HOME-} ;; esac
    [ -d "$home" ] || refuse "\`$me\` has no home directory: \`$home\`"
    folder=$home/.ssh file=$home/.ssh/authorized_keys
    require_safe "$home"
    if [ -e "$folder" ] || [ -L "$folder" ]; then
        [ -d "$folder" ] || refuse "\`$folder\` is not a directory"
        require_safe "$folder"
    fi
    if [ -L "$file" ]; then # the link stays, its target changes
        link=$file
        file=$(readlink -f "$link") && [ -d "${file%/*}" ] || refuse "\`$link\` is a broken symbolic link"
        folder=${file%/*}
        require_safe "$folder"
    fi
    owner=$uid
    if [ -e "$file" ]; then
        [ -f "$file" ] || refuse "\`$file\` is not a file"
        require_safe "$file"
        [ -r "$file" ] || refuse "\`$me\` may not read \`$file\`"
    fi
    frame ready
    IFS= read -r line || exit 1
    kind=${line%% *} blob=${line#* }
    blob=${blob%% *}
    if [ -e "$file" ] && present; then
        frame present "$file"
        exit 0
    fi
    [ "$owner" = "$uid" ] || refuse "\`$file\` belongs to user $owner, \`$me\` may not change it"
    place=$folder
    [ -d "$place" ] || place=$home
    [ -w "$place" ] || refuse "\`$me\` may not write in \`$place\`"
    [ "$mode" = add ] || {
        frame absent "$file"
        exit 0
    }
    add
    frame added "$file"
}

# Replaces the file at once, or leaves it: writes a new file with the owner and mode of the old one, then renames it.
add() {
    try mkdir -p "$folder"
    # Another process may add a key at the same time: neither key may get lost.
    if command -v flock >/dev/null 2>&1 && [ -r "$folder" ]; then
        exec 9<"$folder"
        flock -w 20 9
    fi
    if [ -e "$file" ] && present; then return; fi
    new=$folder/.authorized_keys.$nonce
    trap 'rm -f "$new"' EXIT
    trap 'exit 1' HUP INT TERM PIPE
    try create "$new"
    [ ! -e "$file" ] || try cp -p "$file" "$new"
    try append "$new"
    try flush "$new"
    try mv -f "$new" "$file"
    flush "$folder"
    if command -v restorecon >/dev/null 2>&1; then restorecon -F "$folder" "$file" >/dev/null 2>&1; fi
}

create() { (set -C && : >"$1"); }

flush() { sync "$1" 2>/dev/null || sync; }
