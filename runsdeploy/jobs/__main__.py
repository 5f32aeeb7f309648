"""The start of the program: it reads its own zip file once and imports all modules from memory (J24).

Python's own importer opens the zip again for each module. An upgrade in between would mix two versions.
"""

import sys

# Valid syntax for any Python: an old one must be able to print the message.
if sys.version_info < (3, 6):
    sys.exit("the job runner needs Python 3.6 or later, and this is " + sys.version.split()[0])

import importlib.abc
import importlib.util
import io
import zipfile
from typing import Any, Optional


class MemoryImporter(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one zip in memory."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            archive = zipfile.ZipFile(io.BytesIO(file.read()))
        # Reading a member also checks its CRC.
        self.files = {name: archive.read(name) for name in archive.namelist()}
        self.path = path

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002 - importlib's
        """Return the spec of a module of the zip, None for others."""
        if self._name(fullname) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self.path, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Return whether a module is a package."""
        return (self._name(fullname) or "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        """Return the source of a module."""
        return self.files[self._name(fullname) or ""].decode()

    def get_data(self, path: str) -> bytes:
        """Return a data file; `pkgutil` passes a path that begins with `__file__` of the package."""
        return self.files[path[len(self.path) + 1 :]]

    def exec_module(self, module: Any) -> None:
        """Execute a module; its file name in tracebacks is its path in the zip."""
        name = module.__name__
        module.__file__ = self.path + "/" + (self._name(name) or "")
        exec(compile(self.get_source(name), module.__file__, "exec"), module.__dict__)  # noqa: S102 - an importer's work

    def _name(self, fullname: str) -> Optional[str]:
        place = fullname.replace(".", "/")
        return next((name for name in (place + "/__init__.py", place + ".py") if name in self.files), None)


if __name__ == "__main__":
    sys.meta_path.insert(0, MemoryImporter(sys.path[0]))
    from jobs.main import entry  # type: ignore[import-not-found]

    sys.exit(entry())
