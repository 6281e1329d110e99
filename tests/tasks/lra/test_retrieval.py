import numpy as np
import pytest
import torch

from nas.compiler.model import Model
from nas.errors import NasError, UsageError
from nas.grammar.derivation import Term
from nas.tasks.lra.retrieval import FILES, PAPER, Retrieval, load, read
from nas.tasks.recipe import Recipe
from nas.tasks.registry import load_task
from nas.training.train import train

WORDS = ("parsing", "speech", "summary", "lexicon")


def release(folder, sizes=(400, 60, 60)):
    """Files as LRA's release has them: pairs about one word are citations."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for name, size in zip(FILES, sizes, strict=True):
        rows = []
        for i in range(size):
            a, b = rng.integers(0, 4, 2)
            if i % 2:
                b = a
            texts = [f'{WORDS[w]} "{WORDS[w]}" é {rng.integers(1000)}\n' * 3 for w in (a, b)]
            rows.append((f"{int(a == b)}.0", f"P{i:02}-1", f"P{i:02}-2", *texts))
        with open(folder / FILES[name], "w", encoding="utf-8", newline="") as file:
            for row in rows:
                cells = [row[0], row[1], row[2], *(f'"{t.replace(chr(34), chr(34) * 2)}"'
                                                   for t in row[3:])]  # fmt: skip
                file.write("\t".join(cells) + "\n")
        written[name] = rows
    return written


@pytest.mark.parametrize("length", [7, 4000])
def test_it_reads_bytes_and_labels(tmp_path, length):
    written = release(tmp_path)
    for name, rows in written.items():
        split = read(tmp_path / FILES[name], Retrieval(length))
        assert split.targets.tolist() == [int(float(row[0])) for row in rows]
        for inputs, lengths, row in zip(split.inputs, split.lengths, rows, strict=True):
            for tokens, count, text in zip(inputs, lengths, row[3:], strict=True):
                assert bytes(tokens[:count]) == text.encode()[:length]
                assert not tokens[count:].any()


@pytest.mark.parametrize("place", [".", "lra_release", "lra_release/tsv_data", "tsv_data"])
def test_it_is_found_where_the_release_has_it(tmp_path, place, fresh_cache):
    release(tmp_path / place)
    (task,) = load_task("lra/retrieval", "paper", tmp_path).tasks
    assert task.length == PAPER.length == 4000
    assert len(task.splits["train"]) == 400
    assert "= yes" in task.decode(task.splits["train"].inputs[1], 1)
    assert task.baselines["majority"] == pytest.approx(0.6, abs=0.1)


def test_it_is_learned_by_comparing(tmp_path, fresh_cache):
    """The same words: the mean of the embeddings of two texts tells it, each alone does not."""
    release(tmp_path, (2000, 200, 200))
    (task,) = load_task("lra/retrieval", "small", tmp_path).tasks
    net = Term("net", (Term("mlp", (Term("expansion", ("1",)), Term("activation", ("gelu",)))),))
    result = train(net, task, Recipe(learning_rate=1e-2), width=32, seed=0)
    assert result.score > 0.9


def test_what_is_missing_or_damaged_is_one_line(tmp_path, fresh_cache, no_data):
    with pytest.raises(UsageError, match="needs the pairs of LRA's release"):
        load_task("lra/retrieval", "small")
    release(tmp_path)
    path = tmp_path / FILES["validation"]
    for damage in (b"2.0\ta\tb\tc\td\n", b"1\ta\tb\tc\n", b"", b"1.0\ta\tb\t\xff\xfe\td\n"):
        path.write_bytes(damage)
        with pytest.raises(NasError, match=str(path)):
            load(tmp_path, Retrieval(16))


def test_pairs_are_read_one_by_one():
    """Swapped texts swap u and v; padding changes nothing."""
    from nas.compiler.interface import Label, Pairs, TokenLabels

    factors = {"transition": "sigmoid", "update": "convex", "direction": "forward"}
    scan = Term("scan", tuple(Term(rule, (value,)) for rule, value in factors.items()))
    net = Term("net", (scan,))
    model = Model(net, 8, Pairs(9), Label(3), 6, causal=False).double().eval()
    x = torch.randint(1, 9, (4, 2, 6))
    with torch.no_grad():
        u, v = (model._read(x[:, i], None) for i in (0, 1))
        joined = torch.cat((u, v, u * v, u - v), -1)
        assert torch.allclose(model(x), model.head(model.join(joined)), atol=1e-12)
        mask = torch.ones_like(x, dtype=torch.bool)
        padded = torch.cat((x, torch.zeros(4, 2, 5, dtype=x.dtype)), -1)
        mask = torch.cat((mask, torch.zeros(4, 2, 5, dtype=torch.bool)), -1)
        assert torch.allclose(model(padded, mask), model(x), atol=1e-12)
    with pytest.raises(ValueError, match=r"tokens \[B, 2, L\]"):
        model(x[:, 0])
    with pytest.raises(RuntimeError, match="not one stream"):
        model.init_state(2)
    with pytest.raises(ValueError, match="one answer"):
        Model(net, 8, Pairs(9), TokenLabels(3), 6, causal=False)
