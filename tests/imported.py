"""What the processes of `tests/processes.py` find imported and read when they begin."""

import torch
import torch._dynamo

from nas.grammar.space import Space
from nas.resources import find_space
from nas.search import driver, setup, strategy
from nas.study import study
from nas.tasks import registry
from nas.training import train
from tests.cli import tiny

__all__ = ["driver", "registry", "setup", "strategy", "study", "tiny", "train"]

torch.set_num_threads(1)
Space.load(find_space("hybrid.lark")).parse("net(relu)")
