import sys

import pytest

from nas.errors import NasError
from nas.export.source import collect


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A package `nas`-like in all that matters: modules of the name `nas.<given>`."""
    import nas

    folder = tmp_path / "nas"
    folder.mkdir()
    monkeypatch.setattr(nas, "__path__", [*nas.__path__, str(folder)])

    def write(**sources):
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
        sys.path_importer_cache.pop(str(folder), None)

    return write


def run(collected):
    """Executes collected source by itself."""
    text = "\n".join([*collected.imports, *(text for _, text in collected.sections)])
    namespace = {"__name__": "exported"}
    exec(compile(text, "exported", "exec"), namespace)
    return namespace


def test_what_is_used_comes_along_and_nothing_else(modules):
    modules(
        made_up_a="import math\nfrom nas.made_up_b import middle\n\nUNUSED = 1\n\n"
        "def outer(x):\n    return middle(x) + math.pi\n",
        made_up_b="from torch import sqrt as unused\n\nSCALE = 3\n'''What it is.'''\n\n"
        "def middle(x):\n    return SCALE * _inner(x)\n\n# Why.\ndef _inner(x):\n    return x\n",
    )
    collected = collect([("nas.made_up_a", "outer")])
    namespace = run(collected)
    assert namespace["outer"](2) == pytest.approx(6 + 3.141592653589793)
    text = dict(collected.sections)["nas.made_up_b"]
    assert "# Why.\ndef _inner" in text
    assert "SCALE = 3\n'''What it is.'''" in text
    assert "UNUSED" not in namespace
    assert collected.imports == ("import math",)


def test_one_name_with_two_meanings_keeps_both(modules):
    modules(
        made_up_c="from nas.made_up_d import other\n\ndef _check(x):\n    return x + 1\n\n"
        "def first(x):\n    _check = 5 if x is None else None\n    return other(x)\n\n"
        "def second(x):\n    return _check(x) + _check(x=x)\n",
        made_up_d="def _check(x):\n    return 10 * x\n\ndef other(x):\n    return _check(x)\n",
    )
    namespace = run(collect([("nas.made_up_c", "first"), ("nas.made_up_c", "second")]))
    assert namespace["second"](1) == 4
    assert namespace["first"](1) == 10


def test_what_is_imported_under_another_name_gets_its_own(modules):
    modules(
        made_up_i="from nas.made_up_j import thing as x\n\ndef f():\n    return x + x\n",
        made_up_j="thing = 2\n",
    )
    collected = collect([("nas.made_up_i", "f")])
    assert run(collected)["f"]() == 4
    assert "return thing + thing" in dict(collected.sections)["nas.made_up_i"]


def test_methods_for_the_search_are_left_out_unless_they_are_called(modules):
    source = (
        "class Layer:\n    def __init__(self):\n        self.x = 1\n\n"
        "    @classmethod\n    def cost(cls):\n        return missing\n\n"
        "    # About copies.\n    @classmethod\n    def copies(cls):\n        return 2\n\n"
        "    def run(self):\n        return {}\n"
    )
    modules(made_up_e=source.format("self.x"))
    ((_, text),) = collect([("nas.made_up_e", "Layer")]).sections
    assert "cost" not in text
    assert "copies" not in text
    assert "self.x = 1\n\n    def run" in text
    modules(made_up_f=source.format("self.copies()"))
    ((_, text),) = collect([("nas.made_up_f", "Layer")]).sections
    assert "    # About copies.\n    @classmethod\n    def copies(cls)" in text
    assert "cost" not in text


def test_the_registry_is_left_out(modules):
    modules(
        made_up_g="from nas.layers.base import primitive\n\n"
        "@primitive('made_up')\nclass Layer:\n    pass\n"
    )
    ((_, text),) = collect([("nas.made_up_g", "Layer")]).sections
    assert text == "class Layer:\n    pass"


def test_bases_and_constants_stand_before_what_needs_them(modules):
    modules(
        made_up_a2="from nas.made_up_z2 import Base\n\nclass Child(Base):\n    pass\n",
        made_up_z2="SIZE = 4\n\nclass Base:\n    size = SIZE\n",
    )
    assert run(collect([("nas.made_up_a2", "Child")]))["Child"].size == 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import numpy as np\n\ndef f():\n    return np\n", "nas.made_up_h needs numpy"),
        ("from nas.layers import scan\n\nf = scan\n", "nas.layers does not define scan"),
        ("def f():\n    import math\n    return math\n", "f in nas.made_up_h imports inside"),
        ("x = 1\n", "nas.made_up_h does not define f"),
    ],
)
def test_what_cannot_be_carried_along_is_refused(modules, source, message):
    modules(made_up_h=source)
    from nas.export.source import _module

    _module.cache_clear()
    with pytest.raises(NasError, match=message):
        collect([("nas.made_up_h", "f")])
    _module.cache_clear()


def test_a_kernel_is_its_portable_form():
    collected = collect([("nas.kernels.diagonal_scan.operator", "diagonal_scan")])
    portable = ["nas.kernels.diagonal_scan.chunked", "nas.kernels.diagonal_scan.cpu"]
    assert [name for name, _ in collected.sections] == portable


def test_an_import_may_be_written_in_two_ways(modules):
    modules(
        made_up_p="import torch.nn.functional as F\nfrom nas.made_up_q import other\n\n"
        "def first(x):\n    return F.relu(x) + other(x)\n",
        made_up_q="from torch.nn import functional as F\n\ndef other(x):\n    return F.silu(x)\n",
    )
    collected = collect([("nas.made_up_p", "first")])
    assert collected.imports == ("from torch.nn import functional as F",)
    assert callable(run(collected)["first"])
