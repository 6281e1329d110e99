import sys

import pytest

from nas.errors import UsageError
from nas.own_files import OwnFile, hashes_of, load, sources_of

NAME = "nas.own_for_tests.mine"
TEXT = "import sys\nsys.own_runs = getattr(sys, 'own_runs', 0) + 1\n"


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    sys.modules.pop(NAME, None)
    vars(sys).pop("own_runs", None)


def mine(loaded, text=TEXT, kept=None):
    return load(loaded, NAME, text, "mine.py", kept or (lambda module: OwnFile("mine", text)))


def test_a_text_is_executed_once_and_another_of_its_name_never():
    loaded = {}
    assert mine(loaded) is mine(loaded)
    assert sys.own_runs == 1
    assert sys.modules[NAME].__file__ == "mine.py"
    with pytest.raises(UsageError, match=r"mine\.py: another file of this name"):
        mine(loaded, TEXT + "\n")
    assert sys.own_runs == 1
    assert sources_of(loaded) == {"mine": TEXT}
    assert hashes_of(loaded) == {"mine": OwnFile("", TEXT).sha256}


def test_what_is_refused_leaves_nothing_and_can_be_tried_again():
    loaded = {}

    def refused(module):
        raise UsageError("nothing in it")

    with pytest.raises(UsageError, match="nothing in it"):
        mine(loaded, kept=refused)
    assert loaded == {}
    assert NAME not in sys.modules
    mine(loaded)
    assert sys.own_runs == 2
