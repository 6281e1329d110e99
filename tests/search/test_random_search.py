from collections import Counter

from nas.search.base import LEARNING_RATES, random_stream
from nas.search.random_search import RandomSearch


def test_samples_the_grammar_and_the_grid_whatever_the_scores(chain, instant):
    history = instant.run(RandomSearch(chain), lambda proposal: proposal.learning_rate, 400, seed=0)
    rates = Counter(o.learning_rate for o in history)
    assert set(rates) == set(LEARNING_RATES)
    assert min(rates.values()) > 50
    names = Counter(word for o in history for word in ("conv", "norm") if word in o.text)
    assert names["conv"] > 300
    assert {o.origin for o in history} == {"random"}
    assert all(o.parents == () for o in history)


def test_the_first_sample_is_the_space_s_own(chain):
    proposal = RandomSearch(chain).propose([], random_stream(4, 2))
    assert proposal.derivation == chain.sample(random_stream(4, 2))
