"""The study on disk or in a database, opened by any number of processes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from ffds.errors import InputError
from ffds.sweep.identity import refuse_other

__all__ = ["checked_name", "counted", "open_study"]

_IDENTITY = "identity"


def open_study(
    name: str, storage: str | None, directory: Path, identity: Mapping[str, Any], first: Mapping[str, Any]
) -> optuna.Study:
    """Make a study, or go on with it; one process at a time.

    A trial is stopped where its best score so far is below the median of what finished trials had after the
    same epoch. The learning rate drops late, and the order of trials still changes then: successive halving
    would by then have stopped three quarters of them.

    Args:
        name: of the study.
        storage: an Optuna URL, e.g. ``postgresql+psycopg://HOST/DATABASE``; None: a journal file in
            `directory`.
        directory: of the sweep.
        identity: what all trials have in common.
        first: the point of the first trial.

    Raises:
        InputError: the storage cannot be opened, or its study of that name is another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=_opened(storage, directory / f"{name}.log"),
        pruner=MedianPruner(),
        direction="maximize",
        load_if_exists=True,
    )
    if _IDENTITY in study.user_attrs:
        refuse_other(name, identity, study.user_attrs[_IDENTITY])
    else:
        # In this order, so that a study that is known is never without its first trial.
        study.enqueue_trial(dict(first), skip_if_exists=True)
        study.set_user_attr(_IDENTITY, dict(identity))
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count, in order: a trial that is tried again, or was one too many, does not."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs["again"] for trial in trials if "again" in trial.user_attrs}
    return [trial for trial in trials if trial.number not in again and "one_too_many" not in trial.user_attrs]


def checked_name(name: str) -> str:
    """A name that can be a file.

    Raises:
        InputError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}", name):
        allowed = "at most 100 of A-Z a-z 0-9 . _ -, the first a letter or digit"
        raise InputError("this cannot be the name of a study", where="--study", got=name, allowed=allowed)
    return name


def _opened(storage: str | None, journal: Path) -> BaseStorage:
    if storage is None:
        # Its lock is a link to this path as given: a relative one leads nowhere, and optuna would wait
        # for ever for the lock of a process that was killed.
        return JournalStorage(JournalFileBackend(str(journal.resolve())))
    try:
        return RDBStorage(storage)
    except ImportError as error:
        raise InputError(
            "the database of --storage has no driver here",
            got=f"{storage.partition(':')[0]}: {error.__cause__}",
            fix="for postgresql+psycopg://…: pip install 'psycopg[binary]'",
        ) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ValueError) as error:
        # Never the URL itself, which may hold a password.
        raise InputError(
            "the storage cannot be opened",
            where="--storage",
            got=str(error).partition("\n")[0],
            allowed="a URL such as postgresql+psycopg://HOST/DATABASE or sqlite:///FILE",
        ) from error
