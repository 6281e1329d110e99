from dataclasses import replace

import pytest

from nas.errors import NasError, UsageError
from nas.study.definition import Definition
from tests.study.synthetic import definition


def test_stored_and_read_again_it_is_the_same():
    whole = definition(data="/data", caps={"parameters": 2e5, "flops": 1e9})
    assert Definition.from_json(whole.to_json()) == whole


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"tasks": [], "rungs": [], "start": []}'])
def test_what_another_version_wrote_is_one_line(text):
    with pytest.raises(NasError, match="another version of nas wrote it"):
        Definition.from_json(text)


def test_the_same_study_goes_on():
    definition().refuse_changes(definition(), "s")
    # Where things stand may change, what they are may not.
    definition().refuse_changes(definition(data="/elsewhere", space="/other/tiny.lark"), "s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space_hash": "def"},
            r"study s: the space tiny\.lark has changed .*abc, now def.*--name",
        ),
        ({"seed": 4}, "began with seed 3, not 4"),
        ({"task": "other"}, "began with task pair, not other"),
        ({"tasks": ("pair/one",)}, "began with tasks pair/one, pair/two, not pair/one:"),
        ({"profile": "paper"}, "profile small, not paper"),
        ({"width": 64}, "width 32, not 64"),
        ({"strategy": "mcts"}, "strategy evolution, not mcts"),
        ({"rungs": (10, 90)}, "rungs 10, 30, 90, not 10, 90"),
        ({"caps": {}}, "caps parameters 1000000.0, not none"),
        ({"recipe": {"weight_decay": 0.1, "betas": [0.9, 0.98]}}, "recipe .* not weight_decay 0.1"),
        (
            {"data_hashes": {"pair/one": "1" * 64, "pair/two": "3" * 64}},
            "the data of pair/two is not what it began with .*2222, now 3333.*--data",
        ),
        ({"data_hashes": {"pair/one": "1" * 64}}, "the data of pair/two .*now none"),
    ],
)
def test_a_change_is_refused_by_its_name(changes, message):
    with pytest.raises(UsageError, match=message) as raised:
        definition().refuse_changes(replace(definition(), **changes), "s")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_recipe_with_tuples_is_the_one_with_lists():
    begun = definition(recipe={"betas": (0.9, 0.98)})
    Definition.from_json(begun.to_json()).refuse_changes(begun, "s")
