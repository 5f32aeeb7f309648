"""Symbols of bash texts: variables that they read and set, commands that they call."""

from __future__ import annotations

import pytest

from runsdeploy.bash.treesitter import collect_symbols


def reads(text, *, required=None):
    return {each.name for each in collect_symbols(text.encode()).reads if required is None or each.required is required}


READS = [
    ('echo $a "${b}" pre$c', "a b c"),
    ("echo '$no' \"\\$no\" $'$no' # $no", ""),
    ("cat <<END\n$a ${b}\nEND", "a b"),
    ("cat <<'END'\n$no\nEND", ""),
    ("cat <<-END | sed s/x/y/\n\t${a}\n\tEND", "a"),
    ('echo "$(cmd "$a" `other $b`)" <(sort "$c")', "a b c"),
    ('echo "${a:-$b}" "${c#"$d"}" "${e/$f/g}" "${h:i:${#j}}"', "a b c d e f h i j"),
    ('echo "${a[@]}" "${#b[@]}" "${!c}" "${d[i]}"', "a b c d i"),
    ("echo $((a + b[c])) $(( d ? e : 2 ))", "a b c d e"),
    ("((a < b)) && [[ $c -eq d && $e =~ ^$f ]]", "a b c d e f"),
    ('case $a in $b) ;; esac >"$c"', "a b c"),
    ("trap 'rm -f \"$a\"' EXIT", "a"),
    ("export a; [ -v b ]; [[ -v c ]]", "a b c"),
]


@pytest.mark.parametrize(("text", "names"), READS, ids=[text for text, _ in READS])
def test_what_is_read_is_found_in_every_place(text, names):
    assert reads(text) == set(names.split())


SETS = [
    ("a=1 b+=2; c=(1 2); d[1]=x", "a b c d"),
    ("read -r a b; IFS= read -ra c <<<x; read -t 5 -p no d", "a b c d IFS"),
    ("mapfile -t a <f; readarray -d x b; printf -v c %s x; getopts ab: d", "a b c d"),
    ("for a in 1 2; do :; done; select b in x; do :; done; for ((c = 0; c < 3; c++)); do :; done", "a b c"),
    ("f() { local a b=1; declare -r c=2; }", "a b c"),
    ("((a = 1, b++, c += 2)); let d=1 'e = 2'", "a b c d e"),
    (': "${a:=1}"', "a"),
    ("echo 'a=1' # b=2", ""),
]


@pytest.mark.parametrize(("text", "names"), SETS, ids=[text for text, _ in SETS])
def test_what_is_set_is_found_in_every_form(text, names):
    assert {each.name for each in collect_symbols(text.encode()).sets} == set(names.split())


@pytest.mark.parametrize("text", ["${a:-1}", "${a-1}", "${a:+1}", "${a?no}", "${a:=1}", "${a[@]+x}"])
def test_a_read_with_a_default_is_not_required(text):
    assert reads(f'echo "{text}"', required=True) == set()
    assert reads(f'echo "{text}"', required=False) == {"a"}


def test_places_are_those_of_an_editor():
    (found,) = collect_symbols("\n\necho é $a".encode()).reads
    assert (found.line, found.column) == (3, 9)


def test_calls_have_their_literal_words():
    calls = collect_symbols(b'var port="${port:-80}" \'a b\'\nbuiltin read x\n"$made_up" y').calls
    assert [call.name for call in calls] == ["var", "read"]
    assert [(word.text, word.literal) for word in calls[0].arguments] == [("port=", False), ("a b", True)]


@pytest.mark.parametrize("text", ["eval x", ". ./file", "source file"])
def test_what_cannot_be_followed_is_said(text):
    assert collect_symbols(text.encode()).sets_more
    assert collect_symbols(text.encode()).reads_more


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"if", b'"', b"${", b"((" * 5000, b"$(" * 3000, b"<<A <<B\nx\nA\n$y\nB"]
)
def test_no_text_is_too_broken(text):
    collect_symbols(text)
