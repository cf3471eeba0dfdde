"""The space of a search: each sweep of Hydra's becomes what Optuna draws from, or is refused in one line."""

from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from digits.errors import UserError
from digits.search.space import samples, split
from digits.search.study import draw


def space_of(*overrides: str) -> dict[str, BaseDistribution]:
    return split(OverridesParser.create().parse_overrides(list(overrides)))[1]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("a,b", CategoricalDistribution(("a", "b"))),
        ("adam,'s g d'", CategoricalDistribution(("adam", "'s g d'"))),
        ("1,0.5,true,null", CategoricalDistribution((1, 0.5, True, None))),
        ("[16,32],[32]", CategoricalDistribution(("[16,32]", "[32]"))),
        ("interval(0.1,0.6)", FloatDistribution(0.1, 0.6)),
        ("interval(1,4)", FloatDistribution(1, 4)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("int(interval(16,256))", IntDistribution(16, 256)),
        ("tag(log,int(interval(16,256)))", IntDistribution(16, 256, log=True)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(32,129,32)", IntDistribution(32, 128, step=32)),
        ("range(32,128,32)", IntDistribution(32, 96, step=32)),
        ("range(3,0,-1)", IntDistribution(1, 3)),
        ("tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
        ("range(0,0.5,0.1)", FloatDistribution(0, 0.4, step=0.1)),
        ("range(0,0.3,0.1)", FloatDistribution(0, 0.2, step=0.1)),
        ("range(0.1,0.45,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
    ],
)
def test_sweeps_become_distributions(sweep: str, expected: BaseDistribution) -> None:
    space = space_of(f"key={sweep}")
    trial = draw(optuna.create_study(), ["fixed=1"], space)
    [frozen] = trial.study.trials
    assert frozen.distributions == {"key": expected}
    assert type(frozen.params["key"]) in (
        {int} if isinstance(expected, IntDistribution) else {float, str, bool, int, type(None)}
    )
    # As an override it is the value that was drawn.
    [fixed, drawn] = trial.user_attrs["overrides"]
    [override] = OverridesParser.create().parse_overrides([drawn])
    assert fixed == "fixed=1"
    assert not override.is_sweep_override()
    if not isinstance(frozen.params["key"], str):
        assert override.value() == frozen.params["key"]


@pytest.mark.parametrize(
    "sweep", ["range(1,10,3)", "range(1,11,3)", "range(0,1,0.25)", "range(5,-5,-2)", "range(0,1,0.1)"]
)
def test_range_ends_where_hydras_does(sweep: str) -> None:
    [override] = OverridesParser.create().parse_overrides([f"key={sweep}"])
    values = list(override.sweep_iterator())
    drawn = space_of(f"key={sweep}")["key"]
    assert (drawn.low, drawn.high) == pytest.approx((min(values), max(values)))
    assert drawn.step == pytest.approx(abs(values[1] - values[0]))


def test_later_override_counts_and_samples_name_each_choice() -> None:
    overrides = ["optimizer=adam,sgd", "lr=interval(1,2)", "seed=3", "dropout=0.1,0.2,0.3", "lr=5", "~scheduler"]
    fixed, space = split(OverridesParser.create().parse_overrides(overrides))
    assert fixed == ["lr=5", "seed=3", "~scheduler"]
    assert list(space) == ["optimizer", "dropout"]
    assert list(samples(space)) == [
        ["optimizer=adam", "dropout=0.1"],
        ["optimizer=sgd", "dropout=0.2"],
        ["optimizer=adam", "dropout=0.3"],
    ]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("interval(1,0.1)", "(low=1.0, high=0.1)"),
        ("tag(log,interval(0,1))", "`low > 0` must hold for `log=True`"),
        ("range(64,64)", "`low <= high` must hold"),
        ("range(9,1)", "`low <= high` must hold"),
        ("range(1,9,0)", "its step is 0"),
        ("tag(log,range(0,9))", "`low >= 1` must hold for `log=True`"),
        ("tag(log,range(1,9,2))", "only accept step is 1 when `log` argument is True"),
        ("tag(log,range(0.1,9,0.5))", "`step` is not supported when `log` is true"),
        ("glob(nothing*)", "must contain one or more elements"),
    ],
)
def test_space_without_values_is_refused(sweep: str, message: str) -> None:
    parser = OverridesParser.create(config_loader=SimpleNamespace(get_group_options=lambda *_, **__: ["adam", "sgd"]))
    with pytest.raises(UserError) as caught:
        split(parser.parse_overrides([f"optimizer={sweep}"]))
    assert str(caught.value).startswith(f"optimizer={sweep}: ")
    assert message in str(caught.value)
