"""The Optuna study of a sweep: its name and identity, how it is opened, and which trial is next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ffds.data.dataset import Dataset
from ffds.errors import InputError
from ffds.recipes.schema import Recipe, keys_with
from ffds.seeding import derived_seed
from ffds.settings import Role, json_digest
from ffds.sweep.journal import opened_journal
from ffds.sweep.space import SEARCHED, Space

__all__ = ["checked_name", "counted", "identity", "next_trial", "open_study", "reachable", "study_name"]

_IDENTITY = "identity"


def identity(recipe: Recipe, dataset: Dataset, space: Space) -> dict[str, Any]:
    """All that the trials of a study have in common, ready for JSON; the test images are no part of it."""
    elsewhere = keys_with(Role.PLACE, Role.LOADING, Role.NEUTRAL)
    left_out = {*elsewhere, "data.test_split", *(f"method.{key}" for key in SEARCHED)}
    values = recipe.by_key
    left_out |= {key for key in keys_with(Role.ADDED) if values[key] is None}
    settings = {key: value for key, value in values.items() if key not in left_out}
    bounds = {f"searched {key}": allowed for key, allowed in space.described().items()}
    images = [split.digest for split in (dataset.train, dataset.validation) if split is not None]
    return settings | bounds | {"images": " ".join(images)}


def study_name(recipe: Recipe, identity: Mapping[str, Any]) -> str:
    """A name of its own for every identity, e.g. ``d-ffds-seed0-1a2b3c4d``."""
    return f"{recipe.method.name}-seed{recipe.trainer.seed}-{json_digest(identity)[:8]}"


def checked_name(name: str) -> str:
    """A name that can be a file; InputError where it cannot."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}", name):
        allowed = "at most 100 of A-Z a-z 0-9 . _ -, the first a letter or digit"
        raise InputError("this cannot be the name of a study", where="--study", got=name, allowed=allowed)
    return name


def open_study(
    name: str, storage: str | None, directory: Path, identity: Mapping[str, Any], first: Mapping[str, Any]
) -> optuna.Study:
    """Make a study, or go on with it: trials that a command left running in this directory wait again.

    A trial is stopped where its best score so far is below the median of what finished trials had after the
    same epoch. The learning rate drops late, and the order of trials still changes then: successive halving
    would by then have stopped three quarters of them.

    `storage` is an Optuna URL, None a journal file in the directory; `identity` is what all trials have in
    common, `first` the point of the first one. Raises InputError where the storage cannot be opened, or its
    study of that name is another search.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=_opened(storage, directory / f"{name}.log"),
        pruner=MedianPruner(),
        direction="maximize",
        load_if_exists=True,
    )
    if (same := study.user_attrs.get(_IDENTITY)) is not None:
        _refuse_other(name, identity, same)
    else:
        # In this order, so that a study that is known is never without its first trial.
        study.enqueue_trial(dict(first), skip_if_exists=True)
        study.set_user_attr(_IDENTITY, dict(identity))
    for trial in counted(study):
        # A trial without a directory belongs to a command that was killed before it could set one.
        own = trial.user_attrs.get("directory", None if storage else str(directory.resolve()))
        if trial.state is TrialState.RUNNING and own == str(directory.resolve()):
            _try_again(study, trial)
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count, in order: one that is tried again under a new number does not."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs["again"] for trial in trials if "again" in trial.user_attrs}
    return [trial for trial in trials if trial.number not in again]


def next_trial(
    study: optuna.Study, space: Space, seed: int, trials: int, directory: Path
) -> optuna.Trial | None:
    """Begin a trial: one that waits to be tried again, else a new one.

    None is returned once the study has so many trials. The draws of a trial depend on the seed, on its place
    among the trials and on their results, not on the process that draws.
    """
    known = counted(study)
    waiting = [place for place, trial in enumerate(known) if trial.state is TrialState.WAITING]
    if min([*waiting, len(known)]) >= trials:
        return None
    trial = study.ask()
    trial.set_user_attr("directory", str(directory.resolve()))
    place = sum(other.number < trial.number for other in counted(study))
    study.sampler = TPESampler(seed=derived_seed(seed, "sweep", place) % 2**32)
    space.suggest(trial)
    return trial


def _try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Have the point of an unfinished trial tried again, before any new one."""
    # A point of which only a part was drawn is drawn again as a whole, and so comes out the same.
    point = trial.params if Space.settings(trial.params) else trial.system_attrs.get("fixed_params", {})
    # From this line on the old trial does not count, whatever becomes of its state.
    study.enqueue_trial(point, user_attrs={"again": trial.number})
    study.tell(trial.number, state=TrialState.FAIL)


def _refuse_other(name: str, own: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    if differing := [key for key in {**own, **study} if own.get(key) != study.get(key)]:
        got, allowed = (
            [f"{key}: {json.dumps(one.get(key), ensure_ascii=False)}" for key in differing]
            for one in (own, study)
        )
        raise InputError(
            f"study {name} is another search",
            got="\n           ".join(got),
            allowed="\n           ".join(allowed),
            fix="go on with the settings of the study, or name this search with --study NAME",
        )


@contextmanager
def reachable() -> Iterator[None]:
    """In the block, a database that fails is an InputError; what was stored before is kept."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        got = str(error.__cause__ or error).partition("\n")[0]
        fix = "when it is there again, the same command goes on"
        raise InputError("the storage of the study failed", where="--storage", got=got, fix=fix) from error


def _opened(storage: str | None, journal: Path) -> BaseStorage:
    if storage is None:
        return opened_journal(journal)
    # No message holds the URL itself, which may hold a password.
    try:
        return RDBStorage(storage)
    except ImportError as error:
        got = f"{storage.partition(':')[0]}: {error.__cause__}"
        fix = "for postgresql+psycopg://…: pip install 'psycopg[binary]'"
        raise InputError("the database of --storage has no driver here", got=got, fix=fix) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ValueError) as error:
        got = str(error).partition("\n")[0]
        allowed = "a URL such as postgresql+psycopg://HOST/DATABASE or sqlite:///FILE"
        what = "the storage cannot be opened"
        raise InputError(what, where="--storage", got=got, allowed=allowed) from error
