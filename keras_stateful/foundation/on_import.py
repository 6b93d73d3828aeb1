"""What is to be done once another package is imported, be it before or after this one.

Keras finds the classes of a saved model only where they are registered, and registering them needs
Keras, which this package does not import by itself: a session runs without.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(name: str, act: Callable[[], None]) -> None:
    """Acts now if a package has been imported, else as soon as it is.

    Args:
        name: of the package.
        act: called once.
    """
    if name in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Waiting(name, act))


class _Waiting(MetaPathFinder):
    """Finds one package the way the others do, once, and acts when it has been executed."""

    def __init__(self, name: str, act: Callable[[], None]):
        self.name, self.act = name, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                if not _is_being_imported(__package__.partition(".")[0]):
                    self.act()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def _is_being_imported(package: str) -> bool:
    """True if some module of a package is half imported, which others then cannot import from."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(f"{package}.")]
    return any(getattr(module.__spec__, "_initializing", False) for module in modules)
