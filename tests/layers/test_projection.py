import pytest
import torch

from nas.layers.projection import (
    BlockDiagonalProjection,
    Projection,
    block_diagonal_cost,
    diagonal_blocks,
    projection_cost,
)


def test_weights_keep_the_variance_of_what_passes():
    layer = Projection(256, 512, bias=True)
    assert layer.weight.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert torch.equal(layer.bias, torch.zeros(512))
    assert layer.bias.no_weight_decay
    assert Projection(4, 4, bias=False).bias is None
    block = BlockDiagonalProjection(512)
    assert block.weight.std().item() == pytest.approx(1 / 8, rel=0.03)


@pytest.mark.parametrize(
    ("width", "blocks"), [(16, 1), (32, 2), (48, 2), (64, 4), (128, 8), (512, 8), (33, 1), (34, 2)]
)
def test_number_of_blocks(width, blocks):
    assert diagonal_blocks(width) == blocks


def test_a_block_diagonal_map_is_a_dense_map_with_zeros(compare):
    layer = BlockDiagonalProjection(64)
    torch.nn.init.normal_(layer.bias)

    def expected(x, w):
        dense = torch.block_diag(*w["weight"])
        return x @ dense + w["bias"]

    compare(layer, expected, torch.randn(2, 7, 64))


def test_costs():
    layer, blocks = Projection(6, 10, bias=True), BlockDiagonalProjection(64)
    for module, cost, products in (
        (layer, projection_cost(7, 6, 10, bias=True), 6 * 10),
        (blocks, block_diagonal_cost(7, 64), 4 * 16 * 16),
    ):
        assert cost.parameters == sum(p.numel() for p in module.parameters())
        assert cost.flops == 2 * 7 * products
