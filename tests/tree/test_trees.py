"""Trees: RUNSPATH, hosts, names, and what lies where (SPEC 1, 2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runsdeploy.errors import InputError, display_path
from runsdeploy.tree.trees import Host, Trees, ancestors, is_candidate, name_problem, open_trees

MEDUSA = Host("medusa.univ.run")


def put(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_text("script:\n")


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    roots = (tmp_path / "one", tmp_path / "two")
    for root in roots:
        put(root, "scripts/")
    return Trees(roots)


def where(trees: Trees, name: str, host: Host | None = MEDUSA) -> str:
    found = trees.find(name, host)
    return f"{found.tree}:{found.inside}" if found else ""


# --- RUNSPATH ----------------------------------------------------------------------------------


def test_runspath_is_a_list_of_directories_in_order(tmp_path: Path):
    put(tmp_path, "a/", "b/c/")
    roots = open_trees(f"b/c:{tmp_path}/a::a/../b", tmp_path).roots
    assert roots == (tmp_path / "b/c", tmp_path / "a", tmp_path / "b")


def test_runspath_knows_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path, "home/tree/")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_trees("~/tree", tmp_path).roots == (tmp_path / "home/tree",)


@pytest.mark.parametrize("runspath", [None, ""])
@pytest.mark.parametrize("below", ["", "scripts/web", "deep/er"])
@pytest.mark.parametrize("mark", ["scripts", "hosts"])
def test_without_runspath_the_nearest_ancestor_that_looks_like_a_tree_is_taken(
    tmp_path: Path, runspath: str | None, below: str, mark: str
):
    put(tmp_path, "scripts/", f"inner/{mark}/", f"inner/{below}/" if below else "inner/x/")
    assert open_trees(runspath, tmp_path / "inner" / below).roots == (tmp_path / "inner",)


def test_all_missing_entries_are_named_at_once(tmp_path: Path):
    put(tmp_path, "here/", "file")
    with pytest.raises(InputError) as caught:
        open_trees("gone:here:file:/nowhere/at/all", tmp_path)
    assert [each.message for each in caught.value.problems] == [
        f"no directory `{entry}`, named in RUNSPATH"
        for entry in (tmp_path / "gone", tmp_path / "file", "/nowhere/at/all")
    ]


def test_a_home_directory_of_nobody_is_an_error_like_any_missing_entry(tmp_path: Path):
    with pytest.raises(InputError):
        open_trees("~nobody-has-this-name/tree", tmp_path)


def test_no_tree_at_all_is_an_error(tmp_path: Path, mocker):
    mocker.patch.object(Path, "is_dir", return_value=False)
    with pytest.raises(InputError, match="no tree"):
        open_trees(None, tmp_path)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web", "web/nginx", "a b", "-rf", "été", "a..b", "...", ".hidden", "*"])
def test_a_name_of_a_script_may_be_nearly_anything(name: str):
    assert name_problem(name) == ""


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/etc", "..", "../a", "a/..", "a/../b", ".", "./a", "a//b", "a\nb", "a\0b"]
)
def test_r35_a_name_never_leads_out_of_the_tree(name: str):
    assert name_problem(name)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("./\n\0"), max_size=20))
def test_r35_t16_a_good_name_joined_to_a_root_stays_below_it(name: str):
    if not name_problem(name):
        path = os.path.normpath(f"/root/{name}")
        assert path.startswith("/root/")


@pytest.mark.parametrize(
    "name", ["runs.conf", "sysinfos.conf", ".web", "web~", "web.orig", "web.rej", "web.swp", ".web.swp"]
)
def test_leftovers_and_configurations_are_never_scripts(trees: Trees, name: str):
    put(trees.roots[0], f"scripts/{name}", f"scripts/sub/{name}", f"hosts/medusa/{name}")
    assert not is_candidate(name)
    assert where(trees, name) == ""
    assert where(trees, f"sub/{name}") == ""
    assert list(trees.names(MEDUSA)) == []


@pytest.mark.parametrize("name", ["web", "web.sh", "orig", "my.orig.sh", "a~b", "runs.conf.sh"])
def test_other_names_are_candidates(name: str):
    assert is_candidate(name)


def test_a_name_is_looked_for_in_host_directories_then_in_scripts(trees: Trees):
    one, two = trees.roots
    order = [
        (0, "univ.run/medusa"), (1, "univ.run/medusa"), (0, "hosts/medusa.univ.run"), (1, "hosts/medusa.univ.run"),
        (0, "hosts/medusa"), (1, "hosts/medusa"), (0, "scripts"), (1, "scripts"),
    ]  # fmt: skip
    for tree, place in order:
        put((one, two)[tree], f"{place}/sub/web")
    for tree, place in order:
        assert where(trees, "sub/web") == f"{tree}:{place}/sub/web"
        ((one, two)[tree] / place / "sub/web").unlink()
    assert where(trees, "sub/web") == ""


def test_a_host_without_a_domain_has_only_its_own_directory(trees: Trees):
    put(trees.roots[0], "univ.run/medusa/web", "hosts/medusa/db")
    assert where(trees, "web", Host("medusa")) == ""
    assert where(trees, "db", Host("medusa")) == "0:hosts/medusa/db"


def test_each_place_of_a_host_is_listed_under_its_full_name(trees: Trees):
    """O15."""
    put(trees.roots[0], "hosts/medusa.univ.run/default", "univ.run/medusa/default", "hosts/gorgo.univ.run/default")
    assert [host.name for host in trees.hosts()] == ["gorgo.univ.run", "medusa.univ.run"]
    assert trees.misplaced_hosts() == []
    assert where(trees, "default", Host("gorgo.univ.run")) == "0:hosts/gorgo.univ.run/default"
    assert trees.host_directories(Host("gorgo")) == []


def test_without_a_host_only_general_scripts_are_found(trees: Trees):
    put(trees.roots[0], "hosts/medusa/web", "scripts/db")
    assert where(trees, "web", None) == ""
    assert [name for name, _ in trees.names(None)] == ["db"]


def test_a_directory_is_no_script(trees: Trees):
    put(trees.roots[0], "scripts/web/nginx")
    put(trees.roots[1], "scripts/web")
    assert where(trees, "web") == "1:scripts/web"


def test_r35_a_name_that_no_file_system_takes_is_not_found(trees: Trees):
    assert where(trees, "a" * 300) == ""
    assert where(trees, "a/" * 3000 + "a") == ""


def test_names_are_those_that_can_be_found(trees: Trees):
    one, two = trees.roots
    put(one, "scripts/web", "scripts/sub/web", "scripts/.git/config", "hosts/medusa/web", "real/inner/script")
    put(two, "scripts/web", "scripts/db")
    (one / "scripts/dangling").symlink_to("nowhere")
    (one / "scripts/linked").symlink_to("web")
    os.mkfifo(one / "scripts/fifo")
    names = dict(trees.names(MEDUSA))
    assert sorted(names) == ["db", "linked", "sub/web", "web"]
    assert all(trees.find(name, MEDUSA) == found for name, found in names.items())


def test_a_near_name_is_offered(trees: Trees):
    put(trees.roots[0], "scripts/web/nginx", "hosts/medusa/postfix")
    assert trees.near("web/ngnix", MEDUSA) == "did you mean `web/nginx`?"
    assert trees.near("postfx", MEDUSA) == "did you mean `postfix`?"
    assert trees.near("zzz", MEDUSA) == ""


# --- hosts -------------------------------------------------------------------------------------


def test_hosts_are_told_from_other_directories_of_a_project(trees: Trees):
    put(trees.roots[0], "univ.run/medusa/", "hosts/gorgo/", "docs/reference/page", "scripts/sub/x", "lib/sub/x")
    put(trees.roots[0], "lan/printer/default", "lan/scanner/runs.conf", "lan/fax/notes", ".git/objects/default")
    put(trees.roots[0], "groups/web/default", "hosts/bad name/", "hosts/.hidden/", "univ.run/runs.conf")
    put(trees.roots[1], "univ.run/medusa/", "univ.run/stheno/")
    names = ["gorgo", "printer.lan", "scanner.lan", "medusa.univ.run", "stheno.univ.run"]
    assert [host.name for host in trees.hosts()] == names


# --- runs.conf, sysinfos.conf, lib -------------------------------------------------------------


def test_runs_conf_files_come_from_general_to_specific(trees: Trees):
    """SPEC 2."""
    order = [
        (1, "runs.conf"), (0, "runs.conf"), (0, "scripts/runs.conf"), (0, "scripts/sub/runs.conf"),
        (1, "hosts/runs.conf"), (0, "hosts/runs.conf"), (1, "univ.run/runs.conf"), (0, "univ.run/runs.conf"),
        (1, "hosts/medusa/runs.conf"), (0, "hosts/medusa/runs.conf"),
        (1, "hosts/medusa.univ.run/runs.conf"), (0, "hosts/medusa.univ.run/runs.conf"),
        (1, "univ.run/medusa/runs.conf"), (0, "univ.run/medusa/runs.conf"),
    ]  # fmt: skip
    for tree, path in order:
        put(trees.roots[tree], path)
    put(trees.roots[0], "scripts/sub/web", "scripts/other/runs.conf", "hosts/gorgo/runs.conf", "lib/runs.conf")
    script = trees.find("sub/web", MEDUSA)
    assert script
    assert [(each.tree, each.inside) for each in trees.cascade(script, MEDUSA)] == order
    short = [each.inside for each in trees.cascade(script, Host("medusa"))]
    assert short == [path for _, path in order if "univ.run" not in path]
    assert [each.inside for each in trees.cascade(script, None)] == [path for _, path in order[:4]]


def test_a_script_of_a_host_sees_the_runs_conf_of_its_own_folder_last(trees: Trees):
    put(trees.roots[0], "univ.run/medusa/sub/web", "univ.run/medusa/sub/runs.conf", "univ.run/medusa/runs.conf")
    put(trees.roots[0], "scripts/runs.conf", "runs.conf")
    script = trees.find("sub/web", MEDUSA)
    assert script
    inside = [each.inside for each in trees.cascade(script, MEDUSA)]
    assert [each for each in inside if each != "scripts/runs.conf"] == [
        "runs.conf", "univ.run/medusa/runs.conf", "univ.run/medusa/sub/runs.conf"
    ]  # fmt: skip
    assert len(set(inside)) == len(inside)


def test_the_most_specific_sysinfos_conf_is_taken(trees: Trees):
    one, two = trees.roots
    assert trees.sysinfos(MEDUSA) is None
    for tree, path in [
        (1, "hosts/medusa"), (0, "hosts/medusa"), (1, "hosts/medusa.univ.run"), (0, "hosts/medusa.univ.run"),
        (1, "univ.run/medusa"), (0, "univ.run/medusa"),
    ]:  # fmt: skip
        put((one, two)[tree], f"{path}/sysinfos.conf")
        found = trees.sysinfos(MEDUSA)
        assert found
        assert (found.tree, found.inside) == (tree, f"{path}/sysinfos.conf")
    assert trees.sysinfos(None) is None


def test_the_first_tree_with_a_library_wins(trees: Trees):
    put(trees.roots[0], "lib/a", "lib/sub/b", "lib/a~")
    put(trees.roots[1], "lib/a", "lib/c")
    found = {name: place.tree for name, place in trees.libraries().items()}
    assert found == {"a": 0, "sub/b": 0, "c": 1}


# --- links -------------------------------------------------------------------------------------


def test_r33_r35_a_link_may_lead_anywhere_in_the_trees_and_to_allowed_places(trees: Trees, tmp_path: Path):
    one, two = trees.roots
    put(two, "scripts/web")
    put(tmp_path, "outside/file", "two-and-more/file")
    links = {"other": two / "scripts/web", "out": tmp_path / "outside/file", "etc": "/etc/passwd"}
    links |= {"near": tmp_path / "two-and-more/file", "up": "../../outside/file", "dangling": "../../gone"}
    for name, target in links.items():
        (one / "scripts" / name).symlink_to(target)
    escaping = {name for name in links if not trees.trust.contains(one / "scripts" / name)}
    assert escaping == {"out", "etc", "near", "up", "dangling"}
    allowed = Trees(trees.roots, (tmp_path / "outside",))
    assert {name for name in links if not allowed.trust.contains(one / "scripts" / name)} == {"etc", "near", "dangling"}


def test_r33_r35_a_directory_that_is_a_link_out_of_the_trees_escapes(trees: Trees, tmp_path: Path):
    put(tmp_path, "outside/file")
    (trees.roots[0] / "scripts/sub").symlink_to(tmp_path / "outside")
    assert not trees.trust.contains(trees.roots[0] / "scripts/sub/file")


def test_a_tree_that_is_itself_a_link_is_inside_of_itself(tmp_path: Path):
    put(tmp_path, "real/scripts/web")
    (tmp_path / "tree").symlink_to("real")
    assert Trees((tmp_path / "tree",)).trust.contains(tmp_path / "tree/scripts/web")


def test_r33_a_loop_of_links_is_no_crash(trees: Trees):
    (trees.roots[0] / "scripts/loop").symlink_to("loop")
    assert trees.trust.contains(trees.roots[0] / "scripts/loop") in (True, False)
    assert where(trees, "loop") == ""


def outside(*paths: Path) -> list[tuple[str, str, str]]:
    """What is said of links that lead out of the trees, by the rule that all of them share."""
    return [
        (
            str(path),
            f"`{path}` leads out of the trees, to `{os.path.realpath(path)}`",
            f"if this is intended, allow it by name: `--allow {os.path.realpath(path)}`",
        )
        for path in paths
    ]


TAKEN = ("runs.conf", "scripts/web/runs.conf", "univ.run/runs.conf", "hosts/medusa/sysinfos.conf", "lib/sub/mine")


def test_r33_s10_no_file_that_is_taken_for_what_it_is_leads_out_of_the_trees_and_all_are_told_at_once(
    trees: Trees, tmp_path: Path
):
    one, two = trees.roots
    put(one, "scripts/web/it", "univ.run/medusa/")
    script = trees.find("web/it", MEDUSA)
    assert script
    hands_out = (lambda t: t.cascade(script, MEDUSA), lambda t: t.sysinfos(MEDUSA), lambda t: t.libraries())
    for hand_out in hands_out:
        assert not hand_out(trees)
    put(tmp_path, "real/file")
    for path in TAKEN:
        (two / path).parent.mkdir(parents=True, exist_ok=True)
        (two / path).symlink_to(tmp_path / "real/file")
    (one / "scripts/web/runs.conf").symlink_to(two / TAKEN[1])  # a link to a link
    links = sorted(outside(one / TAKEN[1], *(two / path for path in TAKEN)))
    for hand_out in hands_out:
        with pytest.raises(InputError) as caught:
            hand_out(trees)
        assert sorted((str(each.position), each.message, each.hint) for each in caught.value.problems) == links
        assert hand_out(Trees(trees.roots, (tmp_path / "real",)))


def test_r33_links_within_and_between_the_trees_are_as_good_as_files(trees: Trees):
    one, two = trees.roots
    put(two, "lib/real", "scripts/it", "hosts/medusa/", "plain.conf")
    for path in (one / "runs.conf", one / "lib/mine", two / "hosts/medusa/sysinfos.conf"):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(two / "plain.conf")
    script = trees.find("it", MEDUSA)
    assert script
    assert [each.inside for each in trees.cascade(script, MEDUSA)] == ["runs.conf"]
    assert trees.sysinfos(MEDUSA)
    assert list(trees.libraries()) == ["mine", "real"]


def test_r33_a_directory_that_is_a_link_out_of_the_trees_makes_no_libraries(trees: Trees):
    """It is told as one: who links to `/` does not wait until all of that was looked at."""
    (trees.roots[1] / "lib").symlink_to("/")
    with pytest.raises(InputError) as caught:
        trees.libraries()
    assert [each.message for each in caught.value.problems] == [
        f"`{trees.roots[1] / 'lib'}` leads out of the trees, to `/`"
    ]


def test_only_regular_files_are_libraries(trees: Trees):
    put(trees.roots[0], "lib/mine", "lib/inner/")
    (trees.roots[0] / "lib/dangling").symlink_to("nowhere")
    os.mkfifo(trees.roots[0] / "lib/fifo")
    assert list(trees.libraries()) == ["mine"]


# --- small things ------------------------------------------------------------------------------


def test_a_path_is_shown_as_an_operator_would_type_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "a/b") == "a/b"
    assert display_path(tmp_path.parent / "x") == str(tmp_path.parent / "x")


def test_ancestors_are_the_folders_outermost_first():
    assert ancestors("a/b/c") == ["a", "a/b"]
    assert ancestors("a") == []


def test_a_host_has_a_name_a_domain_and_an_address():
    host = Host("medusa.univ.run", "adm")
    assert (host.short, host.domain, host.address) == ("medusa", "univ.run", "adm@medusa.univ.run")
    assert (Host("medusa").short, Host("medusa").domain, Host("medusa").address) == ("medusa", "", "medusa")
