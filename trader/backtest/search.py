"""Sets of parameters to try: all of a grid, drawn by chance, or proposed by a sampler of Optuna.

All is a function of the space, the seed and results: never of the clock, and never of who was done first.
"""

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trader.backtest.space import Dimension, Point, draw, grid, grid_size, key
from trader.errors import InputError
from trader.strategy import Strategy, describe_params, parse_params

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study

Sampler = Literal["tpe", "qmc", "cmaes"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "qmc", "cmaes")
MOST_SETS = 200_000
"""In one sweep, in each fold."""
MOST_PROPOSED = 5_000
"""Sets of a sampler: each is proposed from all before it."""
PATIENCE = 50
"""Draws for each set that is wanted before the space counts as used up."""


class Tried(NamedTuple):
    """A set and its value; None: it has none."""

    point: Point
    value: float | None


@dataclass
class Search:
    """The space of a class, and what of it the class takes."""

    strategy: type[Strategy[Any]]
    fixed: Mapping[str, Any]
    """Parameters that are the same in every set."""
    space: Sequence[Dimension]
    skipped: int = 0
    """Sets that the class did not take, and drawn ones that were there already."""
    reason: str | None = field(default=None)
    """Why the first of them was not taken."""

    def __post_init__(self) -> None:
        known, wanted = describe_params(self.strategy), [dimension.name for dimension in self.space]
        unknown = [name for name in wanted if name not in known]
        both = [name for name in wanted if name in self.fixed]
        if not wanted:
            raise InputError(f"{self.strategy.__name__}: nothing is searched; name a range: --grid fast=2..50:2")
        if unknown:
            there = ", ".join(known) or "none"
            raise InputError(f'{self.strategy.__name__}: unknown parameter "{unknown[0]}": there is {there}')
        if both:
            raise InputError(f"parameter {both[0]}: it is searched and given; only one of the two can be")

    def takes(self, point: Point) -> bool:
        """Whether the class takes a set; one that it does not is counted."""
        try:
            parse_params(self.strategy, {**self.fixed, **point})
        except InputError as error:
            self.skip(str(error))
            return False
        return True

    def skip(self, reason: str) -> None:
        """Count a set that is not tried."""
        self.skipped += 1
        self.reason = self.reason or reason


def grid_points(search: Search) -> Iterator[Point]:
    """All sets of the grid that the class takes. InputError if there are too many."""
    size = grid_size(search.space)
    if size > MOST_SETS:
        raise InputError(
            f"the grid has {size:,} sets; at most {MOST_SETS:,} are allowed: larger steps, --random or --optuna"
        )
    return (point for point in grid(search.space) if search.takes(point))


def random_points(search: Search, count: int, seed: int) -> Iterator[Point]:
    """So many different sets that the class takes, or fewer if there are no more. InputError: too many are wanted."""
    if not 1 <= count <= MOST_SETS:
        raise InputError(f"--random is {count}: from 1 to {MOST_SETS:,} is allowed")
    return islice(_drawn(search, Random(seed), PATIENCE * count), count)  # noqa: S311 - chance, not a secret


def _drawn(search: Search, random: Random, draws: int) -> Iterator[Point]:
    seen: set[str] = set()
    for _ in range(draws):
        point = draw(search.space, random)
        name = key(point)
        if name in seen:
            search.skip("it was drawn before")
        elif search.takes(point):
            seen.add(name)
            yield point


# Optuna


def check_sampler(name: str, count: int) -> Sampler:
    """InputError if there is no such sampler, if it needs a package that is not there, or if too many are wanted."""
    known = {str(sampler): sampler for sampler in SAMPLERS}
    if name not in known:
        raise InputError(f"--optuna is {name!r}: allowed are {', '.join(SAMPLERS)}")
    if not 1 <= count <= MOST_PROPOSED:
        raise InputError(f"--trials is {count}: from 1 to {MOST_PROPOSED:,} is allowed")
    _sampler(known[name], 0)
    return known[name]


def propose(search: Search, sampler: Sampler, seed: int, size: int, past: Sequence[Sequence[Tried]]) -> list[Point]:
    """The next generation, up to `size` sets, as it follows from all generations before; fewer: there are no more.

    InputError if this version of Optuna does not propose the past ones again, from which the next would follow.
    """
    if sampler == "tpe":  # it remembers nothing between two proposals but what was tried
        study = _study(sampler, seed * 1_000_003 + len(past))
        for tried in (one for generation in past for one in generation):
            _add(study, search.space, tried)
        return _ask(study, search, size, {key(one.point) for generation in past for one in generation})
    study, seen, quiet = _study(sampler, seed), set[str](), Search(search.strategy, search.fixed, search.space)
    for number, generation in enumerate(past):
        again = _ask(study, quiet, size, seen, [one.value for one in generation])
        if [key(point) for point in again] != [key(one.point) for one in generation]:
            raise InputError(
                f"generation {number}: Optuna proposes other sets now, so it was updated: begin a new sweep"
            )
    return _ask(study, search, size, seen)


def _study(name: Sampler, seed: int) -> "Study":
    import optuna  # slow to import

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=_sampler(name, seed))


def _sampler(name: Sampler, seed: int) -> "BaseSampler":
    import optuna

    seed %= 2**32
    with warnings.catch_warnings():  # some are marked as experimental; that does not concern who runs a sweep
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            if name == "tpe":
                return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            if name == "qmc":
                importlib.import_module("scipy")  # else it fails at the first proposal
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        except ImportError as error:
            raise InputError(f"--optuna {name} needs the package {error.name}: pip install {error.name}") from None


def _add(study: "Study", space: Sequence[Dimension], tried: Tried) -> None:
    from optuna.trial import TrialState, create_trial

    params = {dimension.name: dimension.encode(tried.point[dimension.name]) for dimension in space}
    distributions = {dimension.name: dimension.distribution() for dimension in space}
    state = TrialState.COMPLETE if tried.value is not None else TrialState.FAIL
    study.add_trial(create_trial(state=state, value=tried.value, params=params, distributions=distributions))


def _ask(
    study: "Study", search: Search, size: int, seen: set[str], values: Sequence[float | None] | None = None
) -> list[Point]:
    """Up to `size` new sets that the class takes; told what they made, if `values` says so."""
    from optuna.trial import TrialState

    distributions = {dimension.name: dimension.distribution() for dimension in search.space}
    found: list[Point] = []
    asked = []
    for _ in range(PATIENCE * size):
        if len(found) == size:
            break
        trial = study.ask(distributions)
        point = {one.name: one.decode(trial.params[one.name]) for one in search.space}
        if key(point) in seen:
            search.skip("it was proposed before")
            study.tell(trial, state=TrialState.FAIL)
        elif not search.takes(point):
            study.tell(trial, state=TrialState.FAIL)
        else:
            seen.add(key(point))
            found.append(point)
            asked.append(trial)
    for trial, value in zip(asked, values or (), strict=False):  # proposed anew for nothing: other ones, an error soon
        study.tell(trial, value, state=TrialState.COMPLETE if value is not None else TrialState.FAIL)
    return found
