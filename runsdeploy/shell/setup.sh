# shellcheck shell=sh
# Puts a public key into the authorized_keys of an account: POSIX sh, read whole from the channel before any
# of it runs (bundle.COMMAND).
#
# Header: NONCE MODE USER PASSWORD. MODE is `hello`, `look` or `add`; USER is whose file it is, `-` for the
# login's own; PASSWORD is whether there is one for sudo. Then the key comes as a line, when we say `ready`;
# before it the password, when sudo asks for it with our prompt and not earlier: nothing else can read it.
#
# All is done as the account itself: no link of a user's can make root write elsewhere.
#
# shellcheck disable=SC2154 # p: bundle.COMMAND; nonce, mode: also the header of `other`

# The system's sudo before one that lies in the account's own directories: it gets a password.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
LC_ALL=C
export LC_ALL

# Functions that come with the environment, which bash takes over as `sh` too, shadow nothing of ours.
if [ -n "${BASH_VERSION-}" ]; then
    unset -f env sed
    # shellcheck disable=SC2046 # words on purpose
    unset -f $(env | sed -n 's/^BASH_FUNC_\([^=]*\)%%=.*/\1/p')
fi

say() { printf '\036%s %s\n' "$nonce" "$*"; }

# refuse MESSAGE [REPAIR]
refuse() {
    say refuse "$(printf '%s\t%s' "$1" "${2-}" | tr '\n' ' ')"
    exit 0
}

main() {
    read -r nonce mode user password || exit 1
    case $user in
    - | "$(id -un)") install ;;
    *) other ;;
    esac
}

# The same for an account that is not the login.
other() {
    id -u "$user" >/dev/null 2>&1 || refuse "the host has no user \`$user\`"
    rest="nonce=$nonce mode=$mode
$p
install"
    [ "$(id -u)" != 0 ] || exec su -s /bin/sh "$user" -c "$rest"
    command -v sudo >/dev/null 2>&1 || refuse "the host has no \`sudo\`, which \`$(id -un)\` needs to become \`$user\`"
    if said=$(sudo -n -u "$user" /bin/sh -c : 2>&1 </dev/null); then
        exec sudo -n -u "$user" /bin/sh -c "$rest"
    fi
    case $said in
    *"must have a tty"*)
        refuse "\`sudo\` there wants a terminal (\`requiretty\`)" "allow it in sudoers: \`Defaults:$(id -un) !requiretty\`"
        ;;
    esac
    [ "$password" = yes ] || {
        say password
        exit 0
    }
    say sudo
    # -k: what this password opens is not kept open. Whatever sudo says in place of us is said on stdout.
    exec sudo -k -S -p "$nonce?" -u "$user" /bin/sh -c "$rest" 2>&1
}

# sshd reads no keys where somebody else could have written; nor do we write there.
guard() {
    # shellcheck disable=SC2046 # words on purpose, and no globs: set -f
    set -- "$1" $(ls -ldLn -- "$1" 2>/dev/null)
    [ $# -ge 4 ] || refuse "cannot look at \`$1\`"
    case $2 in
    ?????w* | ????????w*) refuse "others may write \`$1\`, so sshd would not believe it" "on the host: \`chmod go-w $1\`" ;;
    esac
    owner=$4
    [ "$owner" = "$uid" ] || [ "$owner" = 0 ] || refuse "\`$1\` does not belong to \`$me\` but to user $owner"
}

# try COMMAND...: or the reason why not.
try() {
    said=$("$@" 2>&1) && return
    refuse "cannot write \`$file\`: $(printf %s "${said##*: }" | tr '[:upper:]' '[:lower:]')"
}

# Whether a line has the key, with options before it or another comment behind it.
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
    # The last line may have no end.
    [ ! -s "$1" ] || [ -z "$(tail -c 1 "$1")" ] || echo >>"$1" || return
    printf '%s\n' "$line" >>"$1"
}

install() {
    set -f
    umask 077
    cr=$(printf '\r')
    me=$(id -un) uid=$(id -u)
    [ "$mode" != hello ] || {
        say hello
        exit 0
    }
    # The home that sshd knows, whatever HOME says.
    case $me in *[!A-Za-z0-9._@+-]*) home=${HOME-} ;; *) eval "home=~$me" ;; esac
    case $home in /*) ;; *) home=${HOME-} ;; esac
    [ -d "$home" ] || refuse "\`$me\` has no home directory: \`$home\`"
    folder=$home/.ssh file=$home/.ssh/authorized_keys
    guard "$home"
    if [ -e "$folder" ] || [ -L "$folder" ]; then
        [ -d "$folder" ] || refuse "\`$folder\` is not a directory"
        guard "$folder"
    fi
    if [ -L "$file" ]; then # stays one: what it leads to is changed
        link=$file
        file=$(readlink -f "$link") && [ -d "${file%/*}" ] || refuse "\`$link\` is a link that leads nowhere"
        folder=${file%/*}
        guard "$folder"
    fi
    owner=$uid
    if [ -e "$file" ]; then
        [ -f "$file" ] || refuse "\`$file\` is not a file"
        guard "$file"
        [ -r "$file" ] || refuse "\`$me\` may not read \`$file\`"
    fi
    say ready
    IFS= read -r line || exit 1
    kind=${line%% *} blob=${line#* }
    blob=${blob%% *}
    if [ -e "$file" ] && present; then
        say present "$file"
        exit 0
    fi
    [ "$owner" = "$uid" ] || refuse "\`$file\` belongs to user $owner, \`$me\` may not change it"
    place=$folder
    [ -d "$place" ] || place=$home
    [ -w "$place" ] || refuse "\`$me\` may not write in \`$place\`"
    [ "$mode" = add ] || {
        say absent "$file"
        exit 0
    }
    add
    say added "$file"
}

# The whole file or nothing: a new one takes the place of the old one, with its owner, mode and times before that.
add() {
    try mkdir -p "$folder"
    # Somebody else may be adding a key: his is not to be lost.
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
    try durable "$new"
    try mv -f "$new" "$file"
    durable "$folder"
    if command -v restorecon >/dev/null 2>&1; then restorecon -F "$folder" "$file" >/dev/null 2>&1; fi
}

create() { (set -C && : >"$1"); }

durable() { sync "$1" 2>/dev/null || sync; }
