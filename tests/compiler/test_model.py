import copy
import random

import pytest
import torch

from nas.compiler.interface import Features, Label, Reconstruction, TokenLabels, Tokens, Values
from nas.compiler.model import Model
from nas.grammar.space import Space
from nas.resources import find_architecture, find_space, packaged_architectures

LENGTH, WIDTH = 24, 32
MOE = (
    "net(seq(res(scan(sigmoid, convex, forward)), res(moe(4, 2, 1, gelu)),"
    " repeat(2, res(moe(4, 1, 1, relu)))))"
)
GRIFFIN = (
    "net(seq(res(attention(4, 1, 8, rope)), res(gated(2, gelu,"
    " seq(conv(depthwise, 4, 1, causal), scan(rglru, normalised, forward))))))"
)


def parse(text, causal=True):
    context = {"L": (LENGTH,), "D": WIDTH, "causal": causal}
    return Space.load(find_space("hybrid.lark"), context=context).parse(text).term


def model(text=GRIFFIN, inputs=Tokens(11), outputs=Label(3), causal=True):  # noqa: B008
    torch.manual_seed(0)
    return Model(parse(text, causal), WIDTH, inputs, outputs, LENGTH, causal)


def example(inputs, batch=4, length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    if isinstance(inputs, Tokens):
        return torch.randint(inputs.vocabulary, (batch, length), generator=generator)
    return torch.randn(batch, length, inputs.channels, generator=generator)


@pytest.mark.parametrize("inputs", [Tokens(11), Features(5)], ids=str)
@pytest.mark.parametrize("outputs", [Label(3), TokenLabels(7), Reconstruction(7)], ids=str)
@pytest.mark.parametrize("length", [1, LENGTH, 40])
def test_logits_have_the_declared_shape_for_any_length(inputs, outputs, length):
    logits = model(inputs=inputs, outputs=outputs)(example(inputs, length=length))
    expected = (4, 3) if isinstance(outputs, Label) else (4, length, 7)
    assert logits.shape == expected
    assert logits.isfinite().all()


@pytest.mark.parametrize("inputs", [Tokens(11), Features(5)], ids=str)
@pytest.mark.parametrize("outputs", [Label(3), TokenLabels(7), Reconstruction(7)], ids=str)
def test_streaming_gives_the_logits_of_every_prefix(inputs, outputs):
    net = model(inputs=inputs, outputs=outputs).double().eval()
    x = example(inputs)
    x = x.double() if x.is_floating_point() else x
    state = net.init_state(batch=4)
    with torch.no_grad():
        for t, token in enumerate(x.unbind(1)):
            logits, state = net.step(token, state)
            whole = net(x[:, : t + 1])
            whole = whole[:, -1] if isinstance(outputs, TokenLabels) else whole
            torch.testing.assert_close(logits, whole, rtol=0, atol=1e-12)


def test_a_reconstruction_comes_from_the_last_vector_alone():
    net = model(outputs=Reconstruction(7)).eval()
    tokens = example(Tokens(11))
    vectors = []
    net.norm.register_forward_hook(lambda *found: vectors.append(found[2]))
    mask = torch.arange(LENGTH) < torch.tensor([LENGTH, 5, 9, 1])[:, None]
    with torch.no_grad():
        logits = net(tokens, mask)
        for row, length in enumerate((LENGTH, 5, 9, 1)):
            last = vectors[0][row : row + 1, length - 1]
            torch.testing.assert_close(logits[row : row + 1], net.head(net.decoder(last, LENGTH)))


def test_values_are_in_the_unit_of_their_targets():
    plain, far = (model(outputs=Values(2, *unit)).eval() for unit in ((), ((1e4, -1e-3), 8.0)))
    assert plain.state_dict().keys() == far.state_dict().keys()
    x = example(Tokens(11))
    with torch.no_grad():
        expected = plain(x) * 8 + torch.tensor([1e4, -1e-3])
        assert torch.equal(far(x), expected)
        state = far.init_state(batch=4)
        for token in x.unbind(1):
            streamed, state = far.step(token, state)
        assert torch.allclose(streamed, expected, rtol=1e-6, atol=1e-4)
        # bfloat16 has no number between 9984 and 10048.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (far(x) - expected).abs().max() < 1


def test_a_state_is_not_changed_by_a_step():
    net = model().eval()
    tokens = example(Tokens(11))
    with torch.no_grad():
        _, state = net.step(tokens[:, 0], net.init_state(4))
        before = copy.deepcopy(state)
        first, _ = net.step(tokens[:, 1], state)
        again, _ = net.step(tokens[:, 1], before)
    assert torch.equal(first, again)


def test_a_model_that_is_not_causal_does_not_stream():
    net = model("net(res(attention(4, 4, full, none)))", causal=False)
    with pytest.raises(RuntimeError, match="not causal"):
        net.init_state(2)


def test_padding_changes_nothing():
    """What stands behind a causal sequence does not count, whatever tokens it is filled with."""
    net = model().double().eval()
    tokens = example(Tokens(11))
    mask = torch.arange(LENGTH).expand(4, -1) < torch.tensor([[1], [9], [23], [24]])
    other = torch.where(mask, tokens, (tokens + 1) % 11)
    with torch.no_grad():
        logits = net(tokens, mask)
        torch.testing.assert_close(net(other, mask), logits, rtol=0, atol=0)
        for row, length in enumerate([1, 9, 23, 24]):
            alone = net(tokens[row : row + 1, :length])[0]
            torch.testing.assert_close(logits[row], alone, rtol=0, atol=1e-12)


def test_filling_is_not_seen_where_the_model_looks_ahead():
    net = model("net(res(attention(4, 4, full, none)))", causal=False).eval()
    tokens = example(Tokens(11))
    mask = torch.arange(LENGTH).expand(4, -1) < 10
    other = torch.where(mask, tokens, 0)
    with torch.no_grad():
        assert torch.equal(net(tokens, mask), net(other, mask))


def test_the_auxiliary_loss_is_that_of_the_last_pass():
    net = model(MOE)
    tokens = example(Tokens(11))
    net(tokens)
    net(tokens)
    loss = net.auxiliary_loss()
    # Three layers of experts ran; the loss of each is 1 when balanced and at most their number.
    assert 3 <= loss.item() <= 12
    loss.backward()
    assert net.auxiliary_loss() == 0
    with torch.no_grad():
        net(tokens)
    assert net.auxiliary_loss() == 0
    assert model()(tokens).isfinite().all()
    assert model().auxiliary_loss() == 0


def test_everything_learns():
    for text in (GRIFFIN, MOE):
        net = model(text)
        loss = net(example(Tokens(11), batch=8)).square().mean() + net.auxiliary_loss()
        loss.backward()
        without = [name for name, p in net.named_parameters() if p.grad is None]
        assert without == []


@pytest.mark.parametrize(
    ("inputs", "given", "error", "message"),
    [
        (Tokens(11), torch.zeros(2, 5), TypeError, r"tokens \[B, L\], integers, not torch.float32"),
        (Tokens(11), torch.zeros(2, 5, dtype=torch.bool), TypeError, "not torch.bool"),
        (Tokens(11), torch.zeros(5, dtype=torch.long), ValueError, r"not of the shape \[5\]"),
        (
            Tokens(11),
            torch.full((2, 5), 11),
            ValueError,
            "token 11 is not in the vocabulary, 0 .. 10",
        ),
        (
            Tokens(11),
            torch.full((2, 5), -1),
            ValueError,
            "token -1 is not in the vocabulary, 0 .. 10",
        ),
        (Tokens(11), torch.zeros(2, 0, dtype=torch.long), ValueError, "at least one token"),
        (Features(3), torch.zeros(2, 5, 3, dtype=torch.long), TypeError, r"features \[B, L, 3\]"),
        (Features(3), torch.zeros(2, 5, 4), ValueError, r"not of the shape \[2, 5, 4\]"),
        (Features(3), torch.zeros(2, 3), ValueError, r"not of the shape \[2, 3\]"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(inputs, given, error, message):
    with pytest.raises(error, match=message) as caught:
        model(inputs=inputs)(given)
    assert "\n" not in str(caught.value)


def test_wrong_masks_and_steps_are_refused():
    net = model()
    tokens = example(Tokens(11))
    with pytest.raises(TypeError, match="the mask must be of torch"):
        net(tokens, torch.ones(4, LENGTH))
    with pytest.raises(ValueError, match=r"the mask must have the shape \[4, 24\], not \[4\]"):
        net(tokens, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="not in the vocabulary"):
        net.step(torch.tensor([0, 11]), net.init_state(2))
    with pytest.raises(ValueError, match=r"tokens \[B\], not of the shape \[4, 24\]"):
        net.step(tokens, net.init_state(4))


def test_sampled_causal_architectures_stream_as_whole_models():
    context = {"L": (LENGTH,), "D": WIDTH, "causal": True}
    space = Space.load(find_space("hybrid.lark"), context=context)
    rng = random.Random(5)
    tokens = example(Tokens(11), batch=2, length=9)
    for _ in range(25):
        derivation = space.sample(rng)
        net = Model(derivation.term, WIDTH, Tokens(11), Label(3), LENGTH, True).double().eval()
        state = net.init_state(2)
        with torch.no_grad():
            for token in tokens.unbind(1):
                logits, state = net.step(token, state)
            torch.testing.assert_close(logits, net(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", packaged_architectures(), ids=lambda path: path.stem)
def test_the_zoo_runs_in_half_the_precision(path):
    y = model(find_architecture(path.stem), causal=False).bfloat16()(example(Tokens(11)))
    y.sum().backward()
    assert y.isfinite().all()
