"""What is to be done once another package is imported, be it before or after this one.

Keras finds the classes of a saved model only where they are registered, and registering them needs
Keras, which this package does not import by itself: a session runs without.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __package__.partition(".")[0]


def after_import(name: str, act: Callable[[], None]) -> None:
    """Acts now if a package has been imported, else as soon as it is.

    Where a module of this package imports it, that is when this module and those that import it are
    complete: what `act` does may need them.

    Args:
        name: of the package.
        act: called once.
    """
    if name in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Waiting(name, act))


class _Waiting(MetaPathFinder):
    """Sees one package and the modules of this one executed, which others find; acts once."""

    def __init__(self, name: str, act: Callable[[], None]):
        self.name, self.act = name, act
        self.incomplete: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(f"{PACKAGE}."):
            return None
        others = [f for f in sys.meta_path if f is not self and hasattr(f, "find_spec")]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                self.incomplete.add(fullname)
                try:
                    execute(module)
                finally:
                    self.incomplete.discard(fullname)
                self.act_if_complete()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec

    def act_if_complete(self) -> None:
        """Acts, unless the package is still to come or something that it needs is incomplete."""
        if self.name in sys.modules and not self.incomplete and self in sys.meta_path:
            sys.meta_path.remove(self)
            self.act()
