import resource
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from nas.training.checkpoint import Progress, latest_checkpoint, load_checkpoint, save_checkpoint


def make(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        model(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_everything_comes_back(tmp_path):
    model, optimizer = make()
    path = save_checkpoint(tmp_path, Progress(3, [(1, 0.5), (3, 0.25)]), model, optimizer)
    other, other_optimizer = make(1)
    progress = load_checkpoint(path, other, other_optimizer)
    assert progress == Progress(3, [(1, 0.5), (3, 0.25)])
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, other_optimizer.state[b][key])


def test_only_the_newest_is_kept(tmp_path):
    model, optimizer = make()
    for step in (1, 2, 12):
        save_checkpoint(tmp_path, Progress(step), model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000012"]
    assert latest_checkpoint(tmp_path).name == "step-00000012"


def test_there_is_none_where_nothing_was_written(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


def test_a_write_that_was_cut_off_is_not_a_checkpoint(tmp_path):
    # A real limit on the size of a file, in a process of its own: the write fails in its middle.
    code = textwrap.dedent(f"""
        import resource, signal, sys
        import torch
        from pathlib import Path
        from nas.training.checkpoint import Progress, latest_checkpoint, save_checkpoint
        folder = Path({str(tmp_path)!r})
        model = torch.nn.Linear(200, 200)
        optimizer = torch.optim.AdamW(model.parameters())
        save_checkpoint(folder, Progress(1), model, optimizer)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            save_checkpoint(folder, Progress(2), model, optimizer)
        except OSError:
            print(latest_checkpoint(folder).name, sorted(p.name for p in folder.iterdir()))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "step-00000001 ['step-00000001']", done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_it_leaves_a_complete_checkpoint(tmp_path, moment):
    # The process saves without end and is killed at a random moment of its work.
    code = textwrap.dedent(f"""
        import torch
        from pathlib import Path
        from nas.training.checkpoint import Progress, save_checkpoint
        model = torch.nn.Linear(300, 300)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(1, 10**6):
            save_checkpoint(Path({str(tmp_path)!r}), Progress(step), model, optimizer)
            if step == 2:
                print("ready", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(timeout=0.05 + 0.0137 * moment)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait()
    path = latest_checkpoint(tmp_path)
    model = nn.Linear(300, 300)
    assert load_checkpoint(path, model).step == int(path.name[5:])
