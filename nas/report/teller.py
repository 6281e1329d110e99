"""Tells the trainings of `nas train` as they end: to people, or as lines of JSON."""

import statistics
from collections.abc import Collection, Mapping, Sequence

from nas.report import training as told
from nas.report.output import figure, messages, print_line, print_text, rounded
from nas.tasks.published import told as published
from nas.tasks.suite import Suite
from nas.training.plan import Plan
from nas.training.sweep import Trained


class Teller:
    """Says what came of every training, of every choice among recipes, and of a whole suite.

    Args:
        suite: What is trained on.
        json: Lines of JSON instead of text.
        breakdown: Whether results by position and difficulty are told, too.
    """

    def __init__(self, suite: Suite, *, json: bool, breakdown: bool) -> None:
        self._suite, self._json, self._breakdown = suite, json, breakdown
        self._scores: dict[int, dict[str, list[float]]] = {}

    def announce(self, plan: Plan) -> None:
        """Says, before hours pass, what is about to be trained."""
        if plan.setting.source or plan.trainings > 1:
            count = "1 training" if plan.trainings == 1 else f"{plan.trainings} trainings"
            messages.print(f"{plan.task.name}: {count} of {plan.until:,} steps", markup=False)
        if plan.setting.source:
            messages.print(f"  after {plan.setting}", markup=False)

    def training(self, plan: Plan, width: int, training: Trained) -> None:
        """One training has ended."""
        task = plan.task
        if self._json:
            print_line(told.row(task, width, training, breakdown=self._breakdown))
            return
        line = told.line(task, width, training, swept=plan.swept)
        print_text(line if plan.swept else f"{line}; trivial: {told.trivial(task)}")
        if self._breakdown and training.result.evaluations:
            of = training.result.evaluations[plan.splits[0]][0]
            print_text("\n".join(told.breakdown_lines(of)))

    def choice(self, plan: Plan, width: int, best: Sequence[Trained]) -> None:
        """All trainings of a width have ended.

        Args:
            plan: Theirs.
            width: D.
            best: Those of the recipe that was chosen, or of the only one.
        """
        task, split = plan.task, plan.splits[-1]
        found = [training.result.evaluations[split] for training in best]
        values = [evaluations[0].value for evaluations in found]
        by_task = self._scores.setdefault(width, {})
        by_task[task.name] = [task.metric.score(value) for value in values]
        beside = plan.published(width)
        if self._json:
            if plan.swept:
                print_line(told.choice_row(task, width, best, beside))
            return
        if plan.swept:
            print_text(told.choice(task, width, best[0].recipe, values))
            print_text(f"trivial: {told.trivial(task)}")
        for same_length in zip(*found, strict=True):
            if len(plan.seeds) > 1 or same_length[0].length != task.length:
                print_text(told.at_length(task, split, same_length))
        if beside:
            print_text(f"published: {published(beside)}")

    def means(self) -> None:
        """The scores of the suite, and of those of its tasks that are one in several settings."""
        for width, by_task in self._scores.items():
            at = f" at D={width}" if len(self._scores) > 1 else ""
            for group, names in self._groups(by_task).items():
                mean = statistics.fmean(statistics.fmean(by_task[name]) for name in names)
                if self._json:
                    print_line({"name": group, "width": width, "score": rounded(mean)})
                else:
                    print_text(f"{group}{at}: mean score {figure(mean)} over {len(names)} settings")
            if len(self._suite.tasks) > 1 and set(by_task) == set(self._suite.names):
                self._suite_mean(width, at, by_task)

    def _groups(self, trained: Collection[str]) -> dict[str, list[str]]:
        """Names of tasks that differ in their knobs alone, where all of them were trained."""
        groups: dict[str, list[str]] = {}
        for name in self._suite.names:
            groups.setdefault(name.partition("[")[0], []).append(name)
        return {
            group: names
            for group, names in groups.items()
            if 1 < len(names) < len(self._suite.names) and set(names) <= set(trained)
        }

    def _suite_mean(self, width: int, at: str, by_task: Mapping[str, Sequence[float]]) -> None:
        runs = zip(*by_task.values(), strict=True)
        means = [self._suite.score(dict(zip(by_task, run, strict=True))) for run in runs]
        if self._json:
            mean = rounded(statistics.fmean(means))
            print_line({"name": self._suite.name, "width": width, "score": mean})
        else:
            mean_ = told.spread(means)
            count = len(self._suite.tasks)
            print_text(f"{self._suite.name}{at}: mean score {mean_} over {count} tasks")
