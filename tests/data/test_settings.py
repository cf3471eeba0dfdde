"""The data's settings: each value out of range is named, and so is what does not go together."""

import pytest

from digits.data import DigitsDataModule
from digits.errors import UserError


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dataset", "cifar"),
        ("subset", "letters"),
        ("batch_size", 0),
        ("eval_batch_size", -1),
        ("num_workers", -1),
        ("seed", -1),
        ("split_seed", -1),
        ("val_size", -1),
        ("val_size", 1.5),
        ("test_size", 500),
        ("folds", 1),
        ("fold", 1),
        ("image_size", 0),
        ("channels", 2),
        ("mean", float("nan")),
        ("std", 0.0),
    ],
)
def test_argument_out_of_range_is_named(argument: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data.{argument}={value}"):
        DigitsDataModule(**{argument: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "emnist"}, "data.subset=null: there are digits, letters, balanced"),
        ({"dataset": "emnist", "subset": "byclass"}, "data.subset=byclass"),
        ({"dataset": "kmnist", "offline_fallback": True}, "data.offline_fallback=true: kmnist has no stand-in"),
        ({"folds": 5, "fold": 5}, "data.fold=5: with data.folds=5, it lies between 0 and 4"),
        ({"folds": 5, "fold": -1}, "data.fold=-1"),
        ({"root": ""}, "DIGITS_DATA"),
        ({"channels": 3}, "data.channels=3: the images of mnist are grey"),
        ({"std": [0.2, 0.3]}, r"data.std=\[0.2, 0.3\]: give one number, or one for each of 1 channels"),
        ({"size": 3}, "data.size: there is no such setting"),
    ],
)
def test_arguments_that_do_not_go_together(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DigitsDataModule(**arguments)


def test_more_folds_than_images_of_a_class() -> None:
    with pytest.raises(UserError, match=r"data.folds=501: class 0 has 500 images"):
        DigitsDataModule("mnist5k", folds=501).setup()
