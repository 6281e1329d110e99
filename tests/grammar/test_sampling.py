"""Sampling: as likely as declared, however deep, and the same everywhere."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

from scipy.stats import chisquare

from nas.grammar.derivation import Derivation
from nas.grammar.space import Space

ROOT = Path(__file__).resolve().parents[2]
HYBRID = ROOT / "search_spaces" / "hybrid.lark"
STUDY = {"L": (256, 1024), "D": 64, "causal": False}
CHOICE = """
start: "f" "(" a "," a ")"
a: "x"                                            //@ 1
 | "y"                                            //@ 2 * D
 | "z" b                                          //@ L
!b: "1"                                           //@ 1
  | "2"                                           //@ 3
  | "3"                                           //@ 5 where D > 9
"""


def test_alternatives_are_sampled_as_often_as_their_weights_say(oracle):
    space = Space(oracle.build(CHOICE), context={"D": 2, "L": (1, 3)})
    rng = Random(5)
    seen = Counter(space.sample(rng).text for _ in range(30_000))
    one = {"x": 1 / 7, "y": 4 / 7, "z 1": 2 / 7 / 4, "z 2": 2 / 7 * 3 / 4}
    expected = {
        f"f({a}, {b})".replace(" 1", "1").replace(" 2", "2"): p * q * 30_000
        for a, p in one.items()
        for b, q in one.items()
    }
    seen = Counter({text.replace(" 1", "1").replace(" 2", "2"): n for text, n in seen.items()})
    assert seen.keys() == expected.keys()
    assert chisquare([seen[t] for t in expected], list(expected.values())).pvalue > 1e-3


def test_derivations_of_any_depth_are_no_obstacle(oracle):
    text = 'start: "(" start ")" //@ 1 where n > 0 let n = n - 1\n | "x" //@ 1 where n == 0'
    depth = 4 * sys.getrecursionlimit()
    space = Space(oracle.build(text), context={"n": depth})
    derivation = space.sample(Random(0))
    assert derivation.text == "(" * depth + "x" + ")" * depth
    assert Derivation(derivation.root).text == derivation.text
    assert space.parse(derivation.text) == derivation
    assert space.decide().derivation == derivation
    assert space.log_probability(derivation) == 0
    assert derivation.term.name == "start"


def test_the_same_seed_gives_the_same_texts_in_every_process():
    script = (
        "from random import Random\n"
        "from nas.grammar.canonical import canonical_hash\n"
        "from nas.grammar.space import Space\n"
        f"space = Space.load({str(HYBRID)!r}, context={STUDY!r})\n"
        "rng = Random(7)\n"
        "print(space.hash, *(canonical_hash(space.sample(rng)) for _ in range(20)))"
    )
    outputs = set()
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(result.stdout)
    assert len(outputs) == 1
