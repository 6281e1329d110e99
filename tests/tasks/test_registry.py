import numpy as np
import pytest

from nas.errors import UsageError
from nas.tasks.registry import TASKS, load_task
from nas.tasks.suite import Suite


def test_a_suite_leaves_out_what_has_no_data_and_says_so(no_data):
    suite = load_task("lra", "small")
    assert suite.names == ("lra/listops", "lra/pathfinder")
    missing = ("lra/text", "lra/retrieval", "lra/image")
    for message, name in zip(suite.messages, missing, strict=True):
        assert message.startswith(f"{name} is left out: ")
        assert "--data or NAS_DATA" in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["lra/text", "lra/text-1000", "lra/image"])
def test_a_task_that_was_named_itself_needs_its_data(no_data, name):
    with pytest.raises(UsageError, match="--data or NAS_DATA") as caught:
        load_task(name, "small")
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        load_task("lra", "small", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("wrong", "right"), [("lra/listop", "lra/listops"), ("lar", "lra"), ("mqa", "mqar")]
)
def test_unknown_names_are_answered_with_close_ones(wrong, right):
    with pytest.raises(UsageError, match=f"did you mean.*{right}"):
        load_task(wrong, "small")
    with pytest.raises(UsageError, match="there are a5, "):
        load_task("xyzzy", "small")


def test_unknown_profiles_are_refused():
    with pytest.raises(UsageError, match="paper or small"):
        load_task("lra", "large")


def test_the_suite_of_six_is_that_of_five_and_path_x(no_data):
    assert tuple(TASKS["lra/six"].parts) == (*TASKS["lra"].parts, "lra/pathx")
    suite = load_task("lra/six", "small")
    assert suite.names == ("lra/listops", "lra/pathfinder", "lra/pathx")
    assert len(suite.messages) == 3


@pytest.mark.parametrize("profile", ["small", "paper"])
@pytest.mark.parametrize("name", ["lra/listops", "lra/pathfinder", "lra/pathx", "mqar"])
def test_declarations_are_complete(name, profile):
    """Without making the data: the paper's takes minutes."""
    suite = load_task(name, profile)
    assert suite.profile == profile
    assert suite.messages == ()
    assert suite.causal == (name == "mqar")
    for task in suite.tasks:
        assert task.profile == profile
        assert task.summary
        assert task.definition
        assert task.length in suite.lengths
        assert task.steps >= 100


@pytest.mark.parametrize("name", ["lra/listops", "lra/pathfinder", "lra/pathx", "mqar"])
def test_batches_fit_the_declaration(name):
    for task in load_task(name, "small").tasks:
        batch = task.train_batch(0, 0)
        assert batch.inputs.shape == (task.batch_size, task.length)
        assert int(batch.inputs.max()) < task.inputs.vocabulary
        known = batch.targets[batch.targets != -100]
        assert len(known) > 0
        assert int(known.min()) >= 0
        assert int(known.max()) < task.outputs.classes
        for rule, score in task.baselines.items():
            assert 0 < score < 0.5 or "lra/path" in name, rule


def test_real_sub_tasks_join_the_suite(real_data, monkeypatch):
    monkeypatch.setenv("NAS_DATA", str(real_data))
    suite = load_task("lra", "small")
    here = [name for name in TASKS["lra"].parts if name != "lra/retrieval"]
    expected = tuple(here) if (real_data / "cifar10").is_dir() else suite.names
    assert suite.names == expected
    assert suite.lengths == tuple(sorted({task.length for task in suite.tasks}))


def test_the_score_is_the_mean_over_the_frozen_set(no_data):
    suite = load_task("lra", "small")
    assert suite.score({"lra/listops": 0.2, "lra/pathfinder": 0.8, "other": 9.0}) == 0.5
    with pytest.raises(KeyError):
        suite.score({"lra/listops": 0.2})
    other = Suite("lra", suite.tasks[:1])
    assert other.data_hash != suite.data_hash


def test_splits_of_all_generated_tasks_are_disjoint():
    for name in ("lra/listops", "lra/pathfinder", "mqar"):
        for task in load_task(name, "small").tasks:
            rows = [np.unique(split.inputs, axis=0) for split in task.splits.values()]
            assert len(np.unique(np.concatenate(rows), axis=0)) == sum(len(r) for r in rows)
