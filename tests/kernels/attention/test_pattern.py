"""Patterns: their tiles hold what they let a query see, and they can be an operator's arguments."""

import pytest
import torch
from torch import Tensor

from nas.kernels.attention import pattern as patterns
from nas.kernels.attention.operator import attention
from nas.kernels.attention.pattern import (
    Causal,
    Chunk,
    Dilated,
    Fixed,
    Full,
    Landmark,
    Prefix,
    Window,
    pack,
    unpack,
)
from tests.kernels.attention.cases import PATTERNS, make
from tests.kernels.harness import relative_error


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (150, 150), (64, 64), (3, 150), (150, 90)])
@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "prefixes"])
def test_tiles_hold_every_visible_pair_once(name, queries, keys) -> None:
    pattern = PATTERNS[name]
    i = torch.arange(keys - queries, keys)[:, None]
    visible = pattern.visible(i, torch.arange(keys)).expand(queries, keys)
    found = torch.zeros(queries, keys, dtype=torch.int)
    for tile in pattern.tiles(queries, keys):
        rows = torch.tensor(list(tile.rows))
        columns = torch.tensor([j for part in tile.keys for j in part], dtype=torch.long)
        assert len(rows) <= patterns.TILE
        found[rows[:, None], columns] += 1
        clear = columns[tile.clear.start : tile.clear.stop] if len(tile.clear) else columns[:0]
        assert visible[rows[:, None], clear].all()
    assert found.max() <= 1
    assert (found.bool() | ~visible).all()


@pytest.mark.parametrize("pattern", [Window(32), Dilated(8, 16), Chunk(32), Chunk(100)])
def test_tiles_of_a_local_pattern_grow_with_the_length_alone(pattern) -> None:
    def pairs(length: int) -> int:
        tiles = pattern.tiles(length, length)
        return sum(len(tile.rows) * sum(map(len, tile.keys)) for tile in tiles)

    assert pairs(8000) <= 2.1 * pairs(4000)
    assert pairs(4000) <= 4000 * 200


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_can_be_packed(name) -> None:
    pattern = PATTERNS[name]
    length = getattr(pattern, "length", None)
    assert unpack(*pack(pattern), length if isinstance(length, Tensor) else None) == pattern


@pytest.mark.parametrize(
    ("make_pattern", "message"),
    [
        (lambda: Window(0), "width must be at least 1, and is 0"),
        (lambda: Dilated(0, 2), "taps must be at least 1"),
        (lambda: Dilated(2, 0), "stride must be at least 1"),
        (lambda: Fixed(4, 5), "5 summaries do not fit into a block of 4"),
        (lambda: Chunk(0), "size must be at least 1"),
        (lambda: Prefix(-1), "length must be at least 0"),
        (lambda: Landmark(1), "block must be at least 2"),
        (lambda: Window(2**40), "width must be at most 1073741824, and is"),
        (lambda: Dilated(2, 2**40), "stride must be at most"),
        (lambda: Fixed(2**40), "stride must be at most"),
        (lambda: Chunk(2**40), "size must be at most"),
        (lambda: Prefix(2**40), "length must be at most"),
        (lambda: Landmark(2**40), "block must be at most"),
    ],
)
def test_patterns_that_are_none(make_pattern, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_pattern()


@pytest.mark.parametrize("causal", [True, False])
def test_patterns_whose_numbers_are_large(causal) -> None:
    arguments, _, _ = make(20)
    most = patterns.UNLIMITED
    for pattern in (Window(most, causal), Chunk(most, causal), Dilated(most, 3, causal)):
        o = attention(**arguments, pattern=pattern, backend="cpu")
        same = Dilated(None, 3, causal) if isinstance(pattern, Dilated) else Causal()
        same = same if causal or isinstance(pattern, Dilated) else Full()
        assert relative_error(o, attention(**arguments, pattern=same, backend="reference")) < 1e-6
