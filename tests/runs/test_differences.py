"""The columns that tell runs apart: no difference is lost, and what follows from a choice needs no column."""

import itertools

import pytest

from digits.runs.differences import Differences, settings_of

ADAM = {"optimizer._target_": "torch.optim.Adam", "optimizer.lr": 0.001, "optimizer.betas": [0.9, 0.999]}
SGD = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": 0.05, "optimizer.momentum": 0.9}
CNN = {"model._target_": "digits.networks.CNN", "model.channels": [32, 64], "model.dropout": 0.5}
FAST = {"model._target_": "digits.networks.CNN", "model.channels": [16, 32], "model.dropout": 0.25}


def columns(*runs: tuple[dict, dict], datasets: list[str] | None = None) -> dict[str, list[str]]:
    settings, overrides = zip(*runs, strict=True)
    return Differences(settings, overrides, datasets or [""] * len(runs)).columns


def test_class_stands_for_its_own_settings() -> None:
    assert columns((ADAM, {}), (SGD, {})) == {"optimizer": ["Adam", "SGD"]}


def test_what_differs_below_the_same_class_has_its_column() -> None:
    found = columns((ADAM, {}), (ADAM | {"optimizer.lr": 0.01}, {}), (SGD, {}))
    assert found == {"optimizer": ["Adam", "Adam", "SGD"], "optimizer.lr": ["0.001", "0.01", "0.05"]}


def test_classes_of_the_same_name_are_told_apart() -> None:
    found = columns((ADAM, {}), (ADAM | {"optimizer._target_": "mine.Adam"}, {}))
    assert found == {"optimizer._target_": ["torch.optim.Adam", "mine.Adam"]}


def test_choices_of_the_same_class_are_named_as_typed() -> None:
    assert columns((CNN, {}), (FAST, {"model": "fast"})) == {"model": ["default", "fast"]}
    # A word for the same values is no other choice.
    assert columns((CNN, {}), (CNN, {"model": "cnn"})) == {}


def test_typed_key_is_always_a_column() -> None:
    runs = [
        (kind | {"optimizer.lr": lr}, {"optimizer": name}) for kind, name, lr in ((ADAM, "adam", 1), (SGD, "sgd", 2))
    ]
    assert list(columns(*runs)) == ["optimizer"]
    typed = [(settings, words | {"optimizer.lr": "x"}) for settings, words in runs]
    assert columns(*typed) == {"optimizer": ["adam", "sgd"], "optimizer.lr": ["1", "2"]}


def test_config_edited_between_two_runs_of_the_same_word() -> None:
    edited = ADAM | {"optimizer.lr": 0.01}
    assert columns((ADAM, {"optimizer": "adam"}), (edited, {"optimizer": "adam"})) == {
        "optimizer.lr": ["0.001", "0.01"]
    }
    other = SGD | {"optimizer.lr": 0.001}
    assert columns((ADAM, {"optimizer": "my"}), (other, {"optimizer": "my"})) == {"optimizer": ["Adam", "SGD"]}


def test_experiment_stands_for_keys_anywhere() -> None:
    quick = FAST | ADAM | {"optimizer.lr": 0.005}
    settings, overrides = (CNN | ADAM, quick), ({}, {"experiment": "quick"})
    found = Differences(settings, overrides, ["mnist"] * 2)
    assert found.columns == {"experiment": ["default", "quick"]}
    assert found.stands_for == {"experiment": ["model.channels", "model.dropout", "optimizer.lr"]}


def test_data_set_stands_for_its_own_settings() -> None:
    mnist, usps = ({"data.dataset": name, "data.mean": mean} for name, mean in (("mnist", 0.13), ("usps", 0.25)))
    assert columns((mnist, {}), (usps, {"data": "usps"}), datasets=["mnist", "usps"]) == {}
    other = mnist | {"data.val_size": 500}
    assert columns((mnist, {}), (other, {}), datasets=["mnist"] * 2) == {"data.val_size": ["–", "500"]}


def test_no_difference_is_lost() -> None:
    """Two of any three runs have the same columns only where their settings are the same."""
    values = [
        {"a._target_": target, "a.x": x, "b.y": y} | ({"c": 1} if c else {})
        for target, x, y, c in itertools.product(("m.A", "n.A", "m.B"), (1, "1"), (1.0, 1), (False, True))
    ]
    words = itertools.cycle([{}, {"a": "one"}, {"a": "two"}, {"experiment": "e"}, {"a.x": "1"}])
    runs = [(settings, next(words)) for settings in values for _ in range(2)]
    for chosen in itertools.combinations(runs, 3):
        rows = list(zip(*columns(*chosen).values(), strict=True)) or [()] * 3
        for (row, (ours, _)), (other, (theirs, _)) in itertools.combinations(zip(rows, chosen, strict=True), 2):
            if {key: str(value) for key, value in ours.items()} != {key: str(value) for key, value in theirs.items()}:
                assert row != other
            if ours == theirs and repr(ours) == repr(theirs):
                assert row == other


@pytest.mark.parametrize(
    "key", ["log_dir", "resume", "data.root", "logger.csv.name", "callbacks.pruning.storage", "seed"]
)
def test_where_a_run_goes_is_no_setting(key: str) -> None:
    assert settings_of({key: 1, "label_smoothing": 0.1}) == {"label_smoothing": 0.1}


def test_found_learning_rate_is_no_setting_of_its_own() -> None:
    assert settings_of({"find_lr": True, "optimizer.lr": 0.0123}) == {"find_lr": True, "optimizer.lr": "found"}


def test_seed_of_the_data_is_that_of_the_run_unless_it_is_set() -> None:
    assert settings_of({"seed": 2, "data.seed": 2}) == {}
    assert settings_of({"seed": 2, "data.seed": 1}) == {"data.seed": 1}
