"""The `nas_*` tables beside Optuna's: what a trial itself cannot hold.

Status, score, architecture and learning rate stand in Optuna's trial and nowhere else.
"""

from sqlalchemy import Column, Float, Integer, MetaData, String, Table, Text

metadata = MetaData()

# Optuna's own tables are not described here: its keys are plain integers to ours.

studies = Table(
    "nas_studies",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("definition", Text, nullable=False, doc="Definition as JSON; never changes"),
    Column("trials", Integer, doc="trials to finish; NULL: no limit"),
    Column("seconds", Float, doc="time limit of a run; NULL: none"),
)

leases = Table(
    "nas_leases",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("token", String(32), nullable=False, doc="drawn anew each time the lease is taken"),
    Column("owner", Text, nullable=False, doc="Owner as JSON: host, pid, boot, ..."),
    Column("heartbeat", Float, nullable=False, doc="seconds since 1970 by the database's clock"),
)

attempts = Table(
    "nas_attempts",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False, doc="from 1"),
    Column("lost", Text, doc="why its worker was lost; NULL: it was not"),
)

jobs = Table(
    "nas_jobs",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("rung", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False, doc="the attempt that finished it"),
    Column("seconds", Float, nullable=False),
    Column("result", Text, nullable=False, doc="JSON: scores and losses of the sub-tasks"),
    Column("log", Text, nullable=False, doc="error and trace of a failure; else mostly empty"),
)

parents = Table(
    "nas_parents",
    metadata,
    Column("trial_id", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, nullable=False, doc="trial number of the parent"),
)

finals = Table(
    "nas_finals",
    metadata,
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("hash", String(64), primary_key=True, doc="canonical hash of the architecture"),
    Column("learning_rate", Float, primary_key=True),
    Column("seed", Integer, primary_key=True, autoincrement=False),
    Column("score", Float, doc="on the test split; NULL: the training failed"),
    Column("scores", Text, nullable=False, doc="JSON: score by sub-task"),
    Column("seconds", Float, nullable=False),
    Column("error", Text, nullable=False),
)
