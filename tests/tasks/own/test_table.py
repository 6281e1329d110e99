import csv
import io
import sys
import types
import zipfile

import numpy as np
import pytest

from nas.compiler.interface import Features, Label, TokenLabels, Tokens
from nas.errors import UsageError
from nas.tasks.registry import load_task


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def one(name, profile="small", data=None):
    (task,) = load_task(name, profile, data).tasks
    return task


def examples(task):
    """Every example as plain values: split, inputs up to their end, target."""
    for name, split in task.splits.items():
        ends = split.lengths if split.lengths is not None else [task.length] * len(split)
        for row, end, target in zip(split.inputs, ends, split.targets, strict=True):
            yield name, row[:end], target


def sums(count=300):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 9, generator.integers(2, 7)) for _ in range(count)]


def test_tokens_and_a_class_a_row(tmp_path):
    rows = [[" ".join(map(str, row)), int(row.sum()) % 3] for row in sums()]
    task = one(write_csv(tmp_path / "sums.csv", ["inputs", "targets"], rows))
    assert task.inputs == Tokens(9)
    assert task.outputs == Label(3)
    assert task.length == 6
    assert not task.causal
    found = list(examples(task))
    for _, row, target in found:
        assert int(row.sum()) % 3 == target
    by_split = {}
    for name, row, _ in found:
        by_split.setdefault(name, set()).add(tuple(row))
    assert len(set.union(*by_split.values())) == sum(map(len, by_split.values()))  # disjoint
    assert 15 < len(by_split["test"]) < 50
    assert set(task.baselines) == {"majority", "length", "first token"}
    batch = task.train_batch(0, 0)
    assert batch.mask is not None
    assert (batch.mask.sum(1) >= 2).all()
    # Rows that are added, longer ones too, leave the others where they are.
    rows.append(["1 " * 50, 0])
    more = one(write_csv(tmp_path / "sums.csv", ["inputs", "targets"], rows))
    now = {tuple(row): name for name, row, _ in examples(more)}
    assert all(now[tuple(row)] == name for name, row, _ in found)


def test_knobs(tmp_path):
    rows = [[" ".join(map(str, row)), 0] for row in sums()]
    path = write_csv(tmp_path / "d.csv", ["inputs", "targets"], rows)
    task = one(f"{path}[causal=1,longest=3,steps=7,batch=5]")
    assert (task.causal, task.length, task.steps, task.batch_size) == (True, 3, 7, 5)
    text = one(f"{path}[text=1]")
    assert text.inputs == Tokens(256)
    assert bytes(next(examples(text))[1].tolist()).decode() in {row[0] for row in rows}
    for wrong in ("causal=2", "text=0.5", "longest=0", "steps=-1", "batch=1.5"):
        with pytest.raises(UsageError, match=wrong.split("=")[0]):
            one(f"{path}[{wrong}]")
    with pytest.raises(UsageError, match="has no knob 'length'; its knobs: causal, text, longest"):
        one(f"{path}[length=3]")


def test_text_with_named_classes_and_given_splits(tmp_path):
    texts = [f"ein {'schöner' if i % 2 else 'trüber'} Tag, Nr. {i}" for i in range(60)]
    splits = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
    rows = [[s, "gut" if i % 2 else "so la la", t] for i, (t, s) in enumerate(zip(texts, splits))]  # noqa: B905
    task = one(write_csv(tmp_path / "t.csv", ["split", "targets", "inputs"], rows))
    assert [len(split) for split in task.splits.values()] == [40, 10, 10]
    assert task.inputs == Tokens(256)
    for name, row, target in examples(task):
        text = bytes(row.tolist()).decode()
        assert splits[texts.index(text)] == name
        assert target == int("trüber" in text)  # names in their order
    first = task.splits["train"]
    assert task.decode(first.inputs[0], first.targets[0]) == f"{texts[0]}\n= so la la"


def test_a_class_a_position_and_the_next_token(tmp_path):
    data = sums()
    rows = [[" ".join(map(str, r)), " ".join(str(t % 2 if t else -100) for t in r)] for r in data]
    task = one(write_csv(tmp_path / "tags.csv", ["inputs", "targets"], rows))
    assert task.outputs == TokenLabels(2)
    for _, row, target in examples(task):
        assert target[: len(row)].tolist() == [t % 2 if t else -100 for t in row]
        assert (target[len(row) :] == -100).all()
    task = one(write_csv(tmp_path / "next.csv", ["inputs"], [row[:1] for row in rows]))
    assert task.causal
    assert task.metric.name == "bits per token"
    assert task.outputs == TokenLabels(9)
    whole = {tuple(row) for row in data}
    for _, row, target in examples(task):
        assert (*row, target[len(row) - 1]) in whole
        assert target[: len(row) - 1].tolist() == row[1:].tolist()
    assert 2.5 < task.baselines["token frequencies"] < 4


def test_arrays_of_reals(tmp_path):
    x = np.random.default_rng(1).normal(size=(200, 5, 2))
    np.savez(tmp_path / "x.npz", inputs=x, targets=(x.sum((1, 2)) > 0).astype(np.int64))
    task = one("x.npz", data=tmp_path)
    assert task.inputs == Features(2)
    assert task.outputs == Label(2)
    for _, row, target in examples(task):
        assert (row.sum() > 0) == target
    assert task.train_batch(0, 0).inputs.shape == (64, 5, 2)
    rows = [[" ".join(f"{a};{b}" for a, b in row), int(row.sum() > 0)] for row in x]
    same = one(write_csv(tmp_path / "x.csv", ["inputs", "targets"], rows))
    for name in task.splits:
        assert np.allclose(task.splits[name].inputs, same.splits[name].inputs)


def test_padded_arrays_with_lengths_and_splits(tmp_path):
    x = np.random.default_rng(2).integers(0, 5, (120, 8))
    lengths = 3 + np.arange(120) % 6
    split = np.array(["train", "test", "train"] * 40)
    np.savez(tmp_path / "x.npz", inputs=x, targets=x % 2, lengths=lengths, split=split)
    task = one(str(tmp_path / "x.npz"))
    assert task.outputs == TokenLabels(2)
    for _, row, target in examples(task):
        assert (target[: len(row)] == row % 2).all()
        assert 3 <= len(row) <= 8
    assert len(task.splits["validation"])  # held out from training


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = [row.tolist() for row in sums()]
    table = arrow.table({"inputs": data, "targets": [sum(row) % 3 for row in data], "more": data})
    parquet.write_table(table, tmp_path / "d.parquet")
    task = one("d.parquet", data=tmp_path)
    for _, row, target in examples(task):
        assert row.sum() % 3 == target
    table = arrow.table({"inputs": [[0.5, float(i)] for i in range(99)], "targets": ["a"] * 99})
    parquet.write_table(table, tmp_path / "r.parquet")
    assert one("r.parquet", data=tmp_path).inputs == Features(1)
    sums_ = [[0.5 * sum(row), -1.0] for row in data]
    parquet.write_table(arrow.table({"inputs": data, "targets": sums_}), tmp_path / "v.parquet")
    task = one("v.parquet", data=tmp_path)
    assert task.outputs.numbers == 2
    for _, row, target in examples(task):
        assert target.tolist() == [0.5 * row.sum(), -1.0]
    missing = arrow.table({"inputs": data, "targets": [None, *(0.5 for _ in data[1:])]})
    parquet.write_table(missing, tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=r"row 1: `targets` are .*, not 'None'"):
        one("m.parquet", data=tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        one("bad.parquet", data=tmp_path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "d.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        one("d.parquet", data=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a column `inputs` .*there are none"),
        ("a,b\n1,2\n", r"a column `inputs` .* there are 'a', 'b'"),
        ("inputs,targets\n", "there are 0 rows"),
        ("inputs,targets\n1 2,0\n,1\n", "row 2: no inputs"),
        ("inputs,targets\n0.5 2,0\n,1\n", "row 2: no inputs"),
        ("inputs,targets\nab,0\n,1\n", "row 2: no inputs"),
        ("inputs,targets\n1 2,0.5\n3 4,nan\n", "row 2: a target is missing or infinite"),
        ("inputs,targets\n1 2,0,3\n", "line 2: 3 cells under 2 names"),
        ("inputs,targets\n1 2,0\n1 -2,1\n", r"row 2: tokens are integers from 0"),
        ("inputs,targets\n1 2,0\n1 999999999,1\n", r"row 2: tokens are integers from 0"),
        ("inputs,targets\n0.5 1,0\n1 x,1\n", r"row 2: '1 x' are no numbers.*\[text=1\]"),
        ("inputs,targets\n0.5;1 1;2,0\n1;2;3 1;2;3,1\n", r"row 2: 3 channels, row 1 has 2"),
        ("inputs,targets\n0.5 nan,0\n", "row 1: a number is missing"),
        ("inputs,targets\n1 2 3,0 1\n", "row 1: 2 targets for 3 inputs"),
        ("inputs,targets\n1 2 3,-5\n", "classes are integers from 0"),
        ("inputs,targets\n1 2 3,-100\n", "classes are integers from 0"),
        ("inputs,targets,split\n1 2 3,1,dev\n", "says train, validation or test, not 'dev'"),
        ("inputs,targets,split\n1 2 3,1,train\n", "no rows for"),
        ("inputs\n1\n2\n", "the next token of a row of one token"),
        ("inputs\n0.5 1\n", "there is no column `targets`"),
        ('inputs,targets\n"1 2,0\n', "cannot be read as CSV"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, message):
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as refused:
        one("d.csv", data=tmp_path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("d.csv: ")


def test_hostile_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, inputs=np.array([{"a": 1}, None], dtype=object), targets=np.zeros(2, int))
    with pytest.raises(UsageError, match="cannot be read as arrays"):
        one(str(path))
    header = io.BytesIO()
    said = {"descr": "<i8", "fortran_order": False, "shape": (10**9, 10**3)}
    np.lib.format.write_array_header_1_0(header, said)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", header.getvalue())
    with pytest.raises(UsageError, match="says that it has 8000000000000 bytes"):
        one(str(path))
    for content in (b"", b"PK\x03\x04 nothing"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as arrays"):
            one(str(path))
    for lengths in ([0, 4, 4], [-1, 4, 4], [4, 4], [4.0] * 3):
        np.savez(path, inputs=np.ones((3, 4), int), targets=np.zeros(3, int), lengths=lengths)
        with pytest.raises(UsageError, match="lengths"):
            one(str(path))
    np.savez(path, inputs=np.zeros((3, 4), complex), targets=np.zeros(3, int))
    with pytest.raises(UsageError, match="is an array of complex128"):
        one(str(path))


def test_bytes_that_are_no_text_and_a_file_that_is_not_there(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"inputs,targets\n\xff\xfe,1\n")
    with pytest.raises(UsageError, match="CSV in UTF-8"):
        one("d.csv", data=tmp_path)
    with pytest.raises(UsageError, match="no such file; --data names"):
        one("nothing.csv", data=tmp_path)


def test_rows_of_another_split_are_left_out_of_training(tmp_path):
    rows = [["1 2", 0, "train"], ["1 2", 0, "test"], ["3 4", 1, "validation"], ["5 5", 1, "train"]]
    task = one(write_csv(tmp_path / "d.csv", ["inputs", "targets", "split"], rows))
    assert [len(split) for split in task.splits.values()] == [1, 1, 1]
    assert "1 left out of training" in task.definition


def test_hugging_face(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'hybrid-nas\[huggingface\]'"):
        one("huggingface:somebody/words")

    class Part(dict):
        column_names = ("text", "label")

        def __len__(self):
            return len(self["text"])

    def load_dataset(name):
        if name != "somebody/words":
            raise ConnectionError("no\nnetwork")
        return {
            split: Part(text=[f"{split} {i}" for i in range(n)], label=[i % 2 for i in range(n)])
            for split, n in (("train", 50), ("test", 9), ("unsupervised", 3))
        }

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    task = one("huggingface:somebody/words")
    assert len(task.splits["test"]) == 9
    for name, row, target in examples(task):
        word, number = bytes(row.tolist()).decode().split()
        assert word == ("test" if name == "test" else "train")
        assert int(number) % 2 == target
    with pytest.raises(UsageError, match="cannot be loaded: ConnectionError: no network"):
        one("huggingface:other")
