"""`nas space learn`: from the record of a study to a space that searches go on with."""

import json
import random

import pytest
from lark import Lark

from nas.cli.main import main
from nas.executors import inline
from nas.executors.job import JobResult
from nas.grammar.space import Space
from nas.search.driver import Driver
from nas.search.setup import define, space_of
from nas.search.strategy import make_strategy
from nas.study.study import Limits, Study
from nas.tasks.registry import load_task
from tests.cli import tiny

SPACE = """
start: "net" "(" block ")" -> net                   //@ 1 let inner = 0
?block: "seq" "(" layer ("," layer)+ ")" -> seq     //@ 1
      | layer                                       //@ 1
?layer: "res" "(" block ")" -> res                  //@ 1 / (1 + inner) where inner < 3 let inner = inner + 1
      | "mlp" "(" expansion "," activation ")" -> mlp //@ 1
      | "norm" -> norm                              //@ 1
      | "relu" -> relu                              //@ 1
!expansion: "1" | "2" | "4"
!activation: "relu" | "gelu" | "silu"
%import common.WS
%ignore WS
"""  # noqa: E501


def score(job):
    """Good is what has SiLU, and no norm."""
    value = (1 + job.text.count("silu")) / (1 + job.text.count("norm") + job.text.count("("))
    return JobResult("complete", value, {"tiny": value}, {"tiny": [[1, 0.5]]}, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the space, and in it the study `first` of 80 trials by random search."""
    tiny.install()
    here = tmp_path_factory.mktemp("learn")
    (here / "mine.lark").write_text(SPACE)
    begin(here, "first", 80)
    begin(here, "short", 6)
    return here


def begin(here, name, trials, space="mine.lark"):
    suite = load_task("tiny", "small", None)
    definition = define(
        suite,
        space=str(here / space),
        strategy="random",
        width=8,
        seed=0,
        max_params=5_000,
        max_flops=1_000_000,
        start=["net(relu)"],
        final_seeds=0,
    )
    study = Study.create(name, definition, storage=here, limits=Limits(trials))
    loaded = space_of(definition, suite)
    with study.lease() as lease:
        driver = Driver(study, make_strategy("random", loaded), loaded, lease)
        inline.run(driver, job_function=score)
    study.close()


def run(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(["space", *words])
    captured = capsys.readouterr()
    return left.value.code, captured


def learn(capsys, folder, *words, study="first"):
    out = str(folder / "sharper.lark")
    code, captured = run(
        capsys, "learn", study, "-o", out, "--storage", str(folder), "--json", *words
    )
    return code, json.loads(captured.out) if code == 0 else None, captured


def test_what_is_good_becomes_more_likely(capsys, folder):
    code, row, captured = learn(capsys, folder)
    assert code == 0, captured.err
    assert row["held_out_after"] > row["held_out_before"] + 0.1
    assert row["entropy_after"] < row["entropy_before"]
    assert (row["study"], row["hash"] != row["space_hash"]) == ("first", True)
    assert row["good"] * 4 >= row["architectures"] >= 40
    text = (folder / "sharper.lark").read_text()
    assert text.startswith(f"// mine.lark with weights learned from {row['good']} of ")
    assert "nas space learn first -o" in text
    before = Space.load(folder / "mine.lark", context={"L": (9,), "D": 8})
    after = Space.load(folder / "sharper.lark", context={"L": (9,), "D": 8})
    assert after.hash == row["hash"]
    lark = Lark.open(str(folder / "sharper.lark"), parser="lalr")
    rng = random.Random(0)
    gains = []
    for _ in range(200):
        sample = before.sample(rng)
        lark.parse(sample.text)
        same = after.parse(sample.text)
        assert same.term == sample.term
        gain = after.log_probability(same) - before.log_probability(sample)
        assert gain > -20
        gains.append((sample.text.count("silu") - sample.text.count("norm"), gain))
    good = [gain for liked, gain in gains if liked > 1]
    bad = [gain for liked, gain in gains if liked < -1]
    assert sum(good) / len(good) > 0 > sum(bad) / len(bad)


def test_the_space_is_checked_and_searched(capsys, folder):
    learn(capsys, folder)
    code, captured = run(capsys, "check", str(folder / "sharper.lark"), "--json", "--samples", "50")
    assert code == 0, captured.err
    assert json.loads(captured.out)["unreachable"] == []
    begin(folder, "on", 4, space="sharper.lark")
    trials = Study.open("on", storage=folder).trials()
    assert [trial.finished for trial in trials] == [True] * 4


def test_the_present_weights_count_as_they_are_told_to(capsys, folder):
    _, weak, _ = learn(capsys, folder, "--strength", "2", "--floor", "0.01")
    _, strong, _ = learn(capsys, folder, "--strength", "100000")
    assert (weak["strength"], strong["strength"]) == (2, 100000)
    assert weak["entropy_after"] < strong["entropy_after"]
    assert strong["entropy_after"] == pytest.approx(strong["entropy_before"], abs=0.02)
    assert "0.01" not in (folder / "sharper.lark").read_text()


def test_people_read_a_table(capsys, folder):
    out = str(folder / "sharper.lark")
    code, captured = run(capsys, "learn", "first", "-o", out, "--storage", str(folder))
    assert code == 0
    assert "entropy of an architecture" in captured.out
    assert "architectures, strength" in captured.out


@pytest.mark.parametrize(
    ("words", "study", "code", "message"),
    [
        (("--share", "0"), "first", 2, "--share lies above 0"),
        (("--floor", "1"), "first", 2, "--floor from 0"),
        (("--strength", "0"), "first", 2, "--strength above 0"),
        ((), "frist", 2, "did you mean first?"),
        ((), "short", 1, "too few to learn from"),
    ],
)
def test_a_wrong_call_is_one_line(capsys, folder, words, study, code, message):
    found, _, captured = learn(capsys, folder, *words, study=study)
    assert found == code
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_studys_own_space_is_not_written_over(capsys, folder):
    out = str(folder / "mine.lark")
    code, captured = run(capsys, "learn", "first", "-o", out, "--storage", str(folder))
    assert code == 2
    assert "is a file of the study's space" in captured.err
    assert (folder / "mine.lark").read_text() == SPACE
