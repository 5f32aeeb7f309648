"""Trust: whether another account could have written a file, or could replace it (S8, S15).

What settings and catalogue name is read, executed or written with the rights of the runner. So a path is vouched for
component by component, from the root directory down and through each symbolic link, before it is used. In this order
the answer stays true: nobody else can replace a component below a directory that nobody else can write.
"""

import errno
import functools
import grp
import os
import pwd
import shlex
import stat
from typing import Iterator, List, Tuple

from ..errors import Problem

MOST_LINKS = 40
"""symbolic links in one path; Linux follows no more (path_resolution(7))"""
_ACL = "system.posix_acl_access"
"""attribute of a file with an access control list; its mode shows the list's widest right as that of the group"""
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def problems(path: str, *, groups: bool = True, shared: bool = True) -> List[Problem]:
    """Return a problem for each component of a path, links included, that another account could have written.

    A path that does not exist is judged as far as it does. `groups`: whether write permission of a group with other
    members is a problem. `shared`: whether the last component may be a directory like /tmp, in which others can make
    files of their own.
    """
    if not path.startswith("/"):  # the working directory may be gone
        path = os.path.join(os.getcwd(), path)
    return [problem for _, found in _walk(path, groups, shared) for problem in found]


def replaceable(folder: str) -> List[Problem]:
    """Return the problems of a directory that are not its own: with them another account could put one in its place."""
    real = os.path.realpath(folder)
    return [each for each in problems(folder) if each.file != real]


def describe(found: List[Problem]) -> str:
    """Return problems as one line."""
    return "; ".join(f"`{each.file}` is {each.message}: `{each.hint}`" for each in found)


def open_folder(path: str) -> int:
    """Return a descriptor of the directory of a file that is to be written; raises OSError if it is not trusted.

    No link is followed while it is opened, so none can be put there after the check.
    """
    found = problems(path, groups=False)
    if found:
        raise OSError(errno.EPERM, describe(found), path)
    above = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in filter(None, os.path.realpath(os.path.dirname(path)).split("/")):
        try:
            here = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        finally:
            os.close(above)
        above = here
    return above


def open_to_append(name: str, folder: int, mode: int) -> int:
    """Return a descriptor of a file to append to, made if it is missing, in an open directory.

    Raises OSError if it is a link, a pipe, a file of another account, or one with further names (hard links).
    """
    descriptor = os.open(name, _APPEND, mode, dir_fd=folder)
    status = os.fstat(descriptor)
    plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    if status.st_uid in _owners() and (plain or stat.S_ISCHR(status.st_mode)):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EPERM, "expected a file of this account or root, with one name", name)


def _owners() -> Tuple[int, int]:
    return 0, os.geteuid()


def _walk(path: str, groups: bool, shared: bool) -> Iterator[Tuple[str, List[Problem]]]:  # noqa: FBT001
    """Yield each component of a path as the system looks it up, without links above it, and its problems."""
    yield "/", _judge("/", os.lstat("/"), groups, shared=True)
    here, left, links = "", path.split("/")[::-1], 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here).rstrip("/")
            continue
        component = f"{here}/{part}"
        try:
            status = os.lstat(component)
            target = os.readlink(component) if stat.S_ISLNK(status.st_mode) else ""
        except (OSError, ValueError):
            return  # using it reports the error
        last = not any(each not in ("", ".") for each in left)
        yield component, _judge(component, status, groups, shared=shared or not last)
        if not target:
            here = component
            continue
        links += 1
        if links > MOST_LINKS:
            return
        left += target.split("/")[::-1]
        here = "" if target.startswith("/") else here


def _judge(component: str, status: os.stat_result, groups: bool, *, shared: bool) -> List[Problem]:  # noqa: FBT001
    """Return the problems of one component; of a link, only its owner counts."""
    found, word, me, mode = [], shlex.quote(component), os.geteuid(), status.st_mode
    if status.st_uid not in _owners():
        whose = f"owned by uid {status.st_uid}, expected this account ({me}) or root"
        found.append(Problem(component, 0, 0, "", whose, f"chown {'-h ' if stat.S_ISLNK(mode) else ''}{me} {word}"))
    sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX and shared
    if stat.S_ISLNK(mode) or stat.S_ISCHR(mode) or sticky:
        return found
    if mode & stat.S_IWOTH:
        found.append(Problem(component, 0, 0, "", "writable for everybody", f"chmod o-w {word}"))
    if groups and mode & stat.S_IWGRP:
        if _has_access_list(component):
            found.append(Problem(component, 0, 0, "", "writable by an access control list", f"setfacl -b {word}"))
        elif status.st_gid and _others(status.st_gid, _owners()):
            found.append(Problem(component, 0, 0, "", "writable for a group with other members", f"chmod g-w {word}"))
    return found


def _has_access_list(component: str) -> bool:
    try:
        return bool(os.getxattr(component, _ACL))
    except OSError:
        return False


@functools.lru_cache(maxsize=None)
def _others(gid: int, owners: Tuple[int, int]) -> bool:
    """Return whether a group has members other than these accounts; a group of one account is common."""
    members = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    try:
        names = grp.getgrgid(gid).gr_mem
    except KeyError:
        # Nothing says who is in it; one of this account's own is that of a container's volume.
        return gid not in (os.getegid(), *os.getgroups())
    for name in names:
        try:
            members.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue  # an account that does not exist can write nothing
    return not members <= set(owners)
