"""Errors of settings: one line each, with the key, the value and what it should be."""

from typing import Annotated, Self

import pytest
from pydantic import Field, model_validator

from digits.errors import UserError
from digits.validation import Settings, problem_of, user_errors


class Inner(Settings):
    rate: Annotated[float, Field(gt=0)] = 1.0


class Example(Settings):
    count: Annotated[int, Field(ge=1)]
    names: Annotated[list[str], Field(default_factory=list)]
    inner: Inner = Inner()
    on: bool | None = None
    folds: int | None = None
    fold: int = 0

    @model_validator(mode="after")
    def _fold_needs_folds(self) -> Self:
        if self.folds is None and self.fold:
            raise ValueError(f"fold={self.fold}: there are no folds; give folds too")
        return self


LINES = {
    "part.count: missing, give a value": {},
    "part.count=0: should be greater than or equal to 1": {"count": 0},
    "part.count=true: should be a valid integer": {"count": True},
    "part.count=null: should be a valid integer": {"count": None},
    "part.count='': should be a valid integer": {"count": ""},
    "part.names=5: should be a valid string": {"count": 1, "names": ["a", 5]},
    "part.inner.rate=-1: should be greater than 0": {"count": 1, "inner": {"rate": -1}},
    "part.on=1: should be a valid boolean": {"count": 1, "on": 1},
    "part.cuont: there is no such setting": {"count": 1, "cuont": 1},
    "part.fold=2: there are no folds; give folds too": {"count": 1, "fold": 2},
}


@pytest.mark.parametrize(("line", "content"), LINES.items())
def test_a_problem_is_one_line(line: str, content: dict) -> None:
    assert problem_of(Example, content, "part") == line
    assert problem_of(Example, content, "") == line.removeprefix("part.")
    with pytest.raises(UserError) as raised, user_errors("part"):
        Example(**content)
    assert str(raised.value) == line


def test_what_fits_is_no_problem() -> None:
    assert problem_of(Example, {"count": 1, "inner": {"rate": 2}, "folds": 3, "fold": 2}, "part") is None


def test_a_long_value_is_shortened() -> None:
    assert len(problem_of(Example, {"count": "1 " * 10_000}, "part") or "") < 200


def test_what_is_no_settings_at_all() -> None:
    assert "valid dictionary" in (problem_of(Example, [1], "part") or "")
