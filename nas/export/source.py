"""Collects the definitions that some classes need, as source text that imports torch only."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import networkx as nx

from nas.errors import NasError
from nas.export.module import Definition, Module, Place

PACKAGE = "nas"

UNBUILT = frozenset(
    {"cost", "active_parameters", "block_shape", "block_shapes", "copies", "multipliers"}
)
"""Methods that speak of a layer before it is built: left out where nothing else calls them."""


@dataclass(frozen=True)
class Collected:
    """Definitions as source text.

    Args:
        imports: Import statements (of the standard library and torch) that they need.
        sections: Module name and its definitions, in an order in which they can be executed.
    """

    imports: tuple[str, ...]
    sections: tuple[tuple[str, str], ...]


def collect(wanted: Iterable[Place]) -> Collected:
    """Collects definitions and, transitively, all that they use.

    What kernels choose at run time is replaced by their plain-torch path, the module `cpu` of
    their folder, which runs on any device. Where two modules define one name differently, the
    names of helpers get their module's name behind them.

    Args:
        wanted: The classes, functions and constants to begin with; they keep their names.

    Raises:
        NasError: Something in them cannot be carried along: an import of another package, or a
            module used as a value.
    """
    wanted = sorted(wanted)
    dropped = UNBUILT
    while True:
        found = _closure(wanted, dropped)
        called = frozenset(name for definition in found.values() for name in definition.attributes)
        if not dropped & called:
            break
        dropped -= called
    names = _names(found, {_home(*place) for place in wanted})
    return Collected(_imports(found, set(names.values())), _sections(found, names))


@cache
def _module(name: str) -> Module:
    return Module(name)


def _closure(wanted: Iterable[Place], dropped: frozenset[str]) -> dict[Place, Definition]:
    found: dict[Place, Definition] = {}
    waiting = [_home(*place) for place in wanted]
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        module = _module(place[0])
        found[place] = module.definition(place[1], dropped)
        waiting.extend(_ours(module, found[place]).values())
    return found


def _ours(module: Module, definition: Definition) -> dict[str, Place]:
    """Where the names of this package that a definition uses are defined."""
    places = {}
    for name in definition.uses:
        if name in module.definitions:
            places[name] = (module.name, name)
        elif name in module.imports and _is_ours(module.imports[name][0]):
            places[name] = _home(*module.imports[name])
    return places


def _home(module: str, name: str) -> Place:
    """The module that defines a name which may be imported from elsewhere."""
    parts = module.split(".")
    if parts[:2] == [PACKAGE, "kernels"] and len(parts) > 2 and parts[3:] != ["cpu"]:
        portable = ".".join([*parts[:3], "cpu"])
        if name in _module(portable).definitions:
            return portable, name
    source = _module(module)
    if name in source.definitions:
        return module, name
    origin = source.imports.get(name, ("", ""))
    # The second condition: a package may import a module of its own.
    if _is_ours(origin[0]) and origin != (module, name):
        return _home(*origin)
    raise NasError(f"cannot export: {module} does not define {name}")


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def _short(module: str) -> str:
    """The name of a module without its package's: `diagonal_scan_cpu`."""
    parts = module.split(".")
    return "_".join(parts[2:] or parts[1:])


def _is_around(module: str) -> bool:
    return module.split(".")[1] in ("compiler", "export")


def _names(found: Iterable[Place], kept: set[Place]) -> dict[Place, str]:
    """What each definition is called in the exported source."""
    names: dict[Place, str] = {}
    defined = [name for _, name in found]
    for module, name in sorted(found):
        clash = defined.count(name) > 1 and (module, name) not in kept
        names[module, name] = f"{name}_{_short(module)}" if clash else name
    if len(set(names.values())) < len(names):
        twice = sorted(n for n in names.values() if list(names.values()).count(n) > 1)
        raise NasError(f"cannot export: {twice[0]} has two meanings, rename one of them")
    return names


def _imports(found: dict[Place, Definition], defined: set[str]) -> tuple[str, ...]:
    """The import statements that the definitions need."""
    lines: dict[str, str] = {}
    for (module_name, _), definition in sorted(found.items()):
        imports = _module(module_name).imports
        for name in sorted(definition.uses & imports.keys()):
            source, original = imports[name]
            if _is_ours(source):
                continue
            if source == "" and name not in (original, original.split(".")[0]):
                # `import a.b as c` is `from a import b as c`.
                source, _, original = original.rpartition(".")
            renamed = f" as {name}" if original not in (name, name.split(".")[0]) else ""
            line = f"from {source} import {original}{renamed}"
            if source == "":
                line = f"import {original}{renamed}"
            package = line.split()[1].split(".")[0]
            if package != "torch" and package not in sys.stdlib_module_names:
                raise NasError(f"cannot export: {module_name} needs {package}")
            if lines.setdefault(name, line) != line or name in defined:
                raise NasError(f"cannot export: {name} has another meaning than `{line}`")
    return tuple(lines.values())


def _sections(
    found: dict[Place, Definition], names: dict[Place, str]
) -> tuple[tuple[str, str], ...]:
    """The definitions by module; a module comes behind those that it needs."""
    modules: nx.DiGraph[str] = nx.DiGraph()
    texts: dict[str, dict[int, str]] = {}
    for (name, own), definition in found.items():
        modules.add_node(name)
        ours = _ours(_module(name), definition)
        modules.add_edges_from((place[0], name) for place in ours.values() if place[0] != name)
        renames = {used: names[place] for used, place in ours.items() if names[place] != used}
        if names[name, own] != own:
            renames[own] = names[name, own]
        texts.setdefault(name, {})[definition.line] = definition.text(renames)
    # Among those that could come next, layers before what is around them.
    order = nx.lexicographical_topological_sort(modules, lambda name: (_is_around(name), name))
    return tuple((name, "\n\n\n".join(t for _, t in sorted(texts[name].items()))) for name in order)
