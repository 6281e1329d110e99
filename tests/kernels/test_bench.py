"""The kernel benchmark: it times what is correct, and says what it did on which machine."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.kernels import bench, growth
from nas.kernels.bench import FAMILIES, main, run
from nas.kernels.family import Candidate, Family, Work
from nas.kernels.floors import interleaved
from nas.kernels.growth import exponent
from nas.kernels.report import table, write_report

ROOT = Path(__file__).resolve().parents[2]
SMALL = [(2, 40, 3), (1, 7, 2)]


@pytest.fixture(autouse=True)
def _no_variants(monkeypatch) -> None:
    """A family's name stands for its variants too: leave one without any."""
    monkeypatch.setattr(bench, "FAMILIES", {"diagonal_scan": FAMILIES["diagonal_scan"]})


def family_with(monkeypatch, *candidates: Candidate) -> None:
    """Let the diagonal scan's benchmark have other candidates."""
    changed = dataclasses.replace(FAMILIES["diagonal_scan"], candidates=lambda *_: list(candidates))
    monkeypatch.setitem(bench.FAMILIES, "diagonal_scan", changed)


def ours(name: str = "ours") -> Candidate:
    return Candidate(name, FAMILIES["diagonal_scan"].reference)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_rows_say_everything(dtype) -> None:
    rows = run("diagonal_scan", "cpu", SMALL, dtype=dtype, repeats=3)
    assert [row["shape"] for row in rows[::2]] == ["B2 L40 D3", "B1 L7 D2"]
    for row in rows:
        assert row["family"] == "diagonal_scan"
        assert row["dtype"] == (dtype or "float32")
        assert row["correct"] is True
        assert row["ms"] > 0
        for part in ("", "forward_", "backward_"):
            ratio = row[f"{part}ms"] / row[f"{part}floor_ms"]
            assert row[f"{part}floor_ratio"] == pytest.approx(ratio)
    compared = [row for row in rows if row["peer_correct"]]
    assert {row["peer"] for row in compared} >= {"loop over unbind(1)"}
    for row in compared:
        assert row["peer_ratio"] == pytest.approx(row["peer_ms"] / row["ms"])
    json.dumps(rows)


def test_a_wrong_kernel_is_not_timed(monkeypatch) -> None:
    def wrong_gradient(a, b):
        h = FAMILIES["diagonal_scan"].reference(a, b)
        return h + 1e-4 * (a - a.detach())

    family_with(monkeypatch, Candidate("ours", wrong_gradient), ours("peer"))
    (row,) = run("diagonal_scan", shapes=SMALL[:1], repeats=1)
    assert row["correct"] is False
    assert row["error"] > 1e-6
    assert row["ms"] is row["floor_ratio"] is row["peer_ms"] is row["peer_ratio"] is None
    assert "| NO |" in table([row])


def test_a_wrong_or_failing_peer_is_not_timed(monkeypatch) -> None:
    def fails(a, b):
        raise NotImplementedError("only powers of two")

    nan = Candidate("nan", lambda a, b: a * b * float("nan"))
    family_with(monkeypatch, ours(), Candidate("fails", fails), nan)
    rows = run("diagonal_scan", shapes=SMALL[:1], repeats=1)
    assert all(row["correct"] and row["ms"] > 0 for row in rows)
    assert [row["peer_correct"] for row in rows] == [None, False]
    assert rows[0]["note"] == "NotImplementedError: only powers of two"
    assert rows[1]["peer_ms"] is rows[1]["peer_ratio"] is None
    assert "it failed" in table(rows)
    assert "not timed: wrong" in table(rows)


def test_a_candidate_may_have_its_own_layout_and_inputs(monkeypatch) -> None:
    def channels_first(log_a, b):
        return FAMILIES["diagonal_scan"].reference(log_a.exp().mT, b.mT).mT

    peer = Candidate(
        "peer",
        channels_first,
        prepare=lambda a, b: (a.log().mT, b.mT),
        layout=lambda x: x.mT,
        gradients=lambda inputs, gradients: (
            (gradients[0] / inputs[0].exp()).mT,
            gradients[1].mT,
        ),
    )
    family_with(monkeypatch, ours(), peer)
    (row,) = run("diagonal_scan", shapes=SMALL[:1], repeats=1)
    assert row["peer_correct"] is True


def test_inputs_may_keep_their_type_and_need_no_gradient(monkeypatch) -> None:
    seen = []

    def gather(x, gate, index):
        seen.append((x.dtype, gate.dtype, index.dtype))
        return x[:, index] * gate.to(x.dtype)

    family = Family(
        name="gather/one",
        dimensions="BL",
        shapes={"cpu": ((2, 7),)},
        inputs=lambda shape, generator: (
            torch.randn(shape, generator=generator),
            torch.rand(shape, generator=generator),
            torch.arange(shape[1]).flip(0),
        ),
        reference=gather,
        candidates=lambda *_: [Candidate("nas", gather), Candidate("peer", gather)],
        work=lambda shape: Work(100, 200, forward_flops=10**9),
        tolerance={torch.float32: 1e-6, torch.bfloat16: 1e-2},
        kept=frozenset({1}),
        checked=lambda shape: (1, shape[1]),
    )
    monkeypatch.setitem(bench.FAMILIES, family.name, family)
    (row,) = run("gather", dtype="bfloat16", repeats=1)
    assert row["correct"]
    assert row["family"] == "gather/one"
    assert row["floor_ms"] > row["forward_floor_ms"] > 1000 * 1e9 / 1e13
    assert (torch.float64, torch.float64, torch.int64) in seen
    assert (torch.bfloat16, torch.float32, torch.int64) in seen
    (row,) = run("gather/one", dtype="float16", repeats=1)
    assert row["dtype"] == "float32"


def test_growth_is_the_exponent_of_the_length() -> None:
    assert exponent({n: 3e-6 * n**1.5 for n in (512, 1024, 8192)}) == pytest.approx(1.5)


def test_what_grows_faster_than_linearly_is_found(monkeypatch) -> None:
    monkeypatch.setattr(growth, "LENGTHS", (64, 256, 1024))
    shape = {"cpu": ((4, 10, 8),)}
    family = dataclasses.replace(FAMILIES["diagonal_scan"], shapes=shape)

    def quadratic(a, b):
        return (a @ b.mT).relu() @ b

    found = []
    for candidate in (ours(), Candidate("quadratic", quadratic)):
        changed = dataclasses.replace(family, candidates=lambda *_, c=candidate: [c])
        found.append(growth.measure(changed, torch.device("cpu")))
    assert found[0]["shape"] == "B2 D8"
    assert found[1]["exponent"] > found[0]["exponent"]
    assert table(found, growth.COLUMNS).count("\n") == 3


def test_times_are_taken_in_turn() -> None:
    order: list[str] = []
    calls = {name: (lambda n=name: order.append(n)) for name in "abc"}
    times = interleaved(calls, torch.device("cpu"), repeats=3)
    assert "".join(order) == "abcabc" + "abc" + "bca" + "cab"
    assert all(math.isfinite(value) for value in times.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "matrix_scan"}, "no kernel family 'matrix_scan': choose one of diagonal_scan"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"shapes": [(2, 3)]}, "3 positive sizes"),
        ({"shapes": [(2, 0, 3)]}, "3 positive sizes"),
        ({"backend": "gpu"}, "backend is 'gpu'"),
    ],
)
def test_calls_that_make_no_sense(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"family": "diagonal_scan", "shapes": SMALL[:1]} | arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_is_said_in_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "torch finds no CUDA device here" in capsys.readouterr().err


def test_the_report_has_date_command_machine_and_versions(tmp_path) -> None:
    rows = run("diagonal_scan", shapes=SMALL[:1], repeats=1)
    files = write_report(rows, "cpu", tmp_path / "new", ["--x"])
    content = json.loads(files[0].read_text())
    assert files[0].name == f"kernels-cpu-{content['date']}.json"
    assert content["command"] == "python -m nas.kernels.bench --x"
    assert content["machine"]["torch"] == torch.__version__
    assert content["machine"]["cores"] >= 1
    assert content["rows"] == rows
    text = files[1].read_text()
    assert "--x" in text
    assert "| diagonal_scan | B2 L40 D3 | float32 | yes |" in text


def test_the_command_prints_json_lines_alone(tmp_path) -> None:
    command = [sys.executable, "-m", "nas.kernels.bench", "--json", "--shape", "2x40x3"]
    done = subprocess.run(
        [*command, "--family", "diagonal_scan", "--repeats", "2", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert all(row["correct"] and row["shape"] == "B2 L40 D3" for row in rows)
    assert len(list(tmp_path.glob("kernels-cpu-*"))) == 2
