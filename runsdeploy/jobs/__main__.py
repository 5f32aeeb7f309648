"""The start of the program: reads its own file once, whole, and imports from what it read (J24).

Python itself would open the file anew for each module, and find another one there if it is replaced meanwhile.
"""

import sys

# In a syntax that any Python understands: an old one must get as far as the message.
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
        # Reading checks the sums of all.
        self.files = {name: archive.read(name) for name in archive.namelist()}
        self.path = path

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002 - importlib's
        """Return where a module is, if it is ours."""
        if self._name(fullname) is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self.path, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Say whether a module has others below it."""
        return (self._name(fullname) or "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        """Return the text of a module."""
        return self.files[self._name(fullname) or ""].decode()

    def get_data(self, path: str) -> bytes:
        """Return a file; `pkgutil` asks for it by a path that begins with the package's."""
        return self.files[path[len(self.path) + 1 :]]

    def exec_module(self, module: Any) -> None:
        """Run a module, so that its functions can be found by its own name in a traceback."""
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
