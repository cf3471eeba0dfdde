"""The space of a search: what Optuna draws from for each sweep in Hydra's syntax, and draws as overrides."""

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    ParsedElementType,
    RangeSweep,
    Transformer,
)
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from digits.errors import UserError

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


def split(overrides: Iterable[Override]) -> tuple[list[str], dict[str, Distribution]]:
    """The overrides that are the same in each trial, and the space of the others; a key's last override counts.

    Raises:
        UserError: for an empty space, or a sweep without values.
    """
    by_key = {override.get_key_element(): override for override in overrides}
    fixed = [str(override.input_line) for override in by_key.values() if not override.is_sweep_override()]
    space = {key: distribution(override) for key, override in by_key.items() if override.is_sweep_override()}
    if not space:
        raise UserError("nothing to search: give hydra.sweeper.params, or a sweep such as model.dropout=0.1,0.3")
    return fixed, space


def distribution(override: Override) -> Distribution:
    """What Optuna draws from for a sweep in Hydra's syntax, such as `optimizer.lr=tag(log, interval(1e-4, 0.1))`.

    `a,b` and `choice(a, b)` are categories. `range(start, stop, step)` is numbers below stop, as in Python.
    `interval(low, high)` is real numbers and `int(interval(low, high))` whole ones, both including their ends.

    Raises:
        UserError: for a sweep without values, in Optuna's words.
    """
    sweep: Any = override.value()
    log = "log" in getattr(sweep, "tags", ())
    try:
        match sweep:
            case RangeSweep():
                low, high, step = _ends(sweep)
                if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
                    return IntDistribution(int(low), int(high), log=log, step=int(step))
                return FloatDistribution(float(low), float(high), log, None if log and step == 1 else float(step))
            case IntervalSweep(start=int() | float() as low, end=int() | float() as high):
                if isinstance(low, int) and isinstance(high, int):
                    return IntDistribution(low, high, log=log)
                return FloatDistribution(low, high, log=log)
        return CategoricalDistribution([_category(choice) for choice in _choices(override)])
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _ends(sweep: RangeSweep) -> tuple[Decimal, Decimal, Decimal]:
    """Lowest and highest number of a range, and the distance between two; an empty one has the lowest above."""
    # By their text: as decimal fractions, 0.1 and its multiples are exact.
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    if not step:
        raise ValueError("its step is 0")
    count = math.ceil((stop - start) / step)
    last = start + (count - 1) * step
    return (start, last, step) if step > 0 else (last, start, -step)


def _choices(override: Override) -> list[Any]:
    sweep = override.value()
    return sweep.list if isinstance(sweep, ChoiceSweep) else list(override.sweep_iterator())  # else a glob


def _category(choice: ParsedElementType) -> bool | int | float | str | None:
    """Numbers, true, false and null as they are; anything else as it is written in an override."""
    return choice if choice is None or isinstance(choice, bool | int | float) else Transformer.str(choice)


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """A trial's values as overrides."""
    return [f"{key}={value if isinstance(value, str) else Transformer.str(value)}" for key, value in params.items()]


def samples(space: Mapping[str, Distribution]) -> Iterator[list[str]]:
    """Overrides that together name each choice of the space once."""
    values = {
        key: part.choices if isinstance(part, CategoricalDistribution) else (part.low, part.high)
        for key, part in space.items()
    }
    for i in range(max(map(len, values.values()))):
        yield as_overrides({key: each[i % len(each)] for key, each in values.items()})
