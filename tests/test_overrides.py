"""Overrides: what is typed reaches Hydra as it is meant, and what is wrong with it is said."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from digits.errors import UserError
from digits.overrides import (
    PACKAGE,
    check_arguments,
    given_values,
    nearest,
    project_file,
    quote_foreign_letters,
    quoted,
)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("images=Größe.png", "Größe.png"),
        ("images=/tmp/zwölf Stück (1).png", "/tmp/zwölf Stück (1).png"),
        ("images=[Größe.png,b.png,数字.jpg]", ["Größe.png", "b.png", "数字.jpg"]),
        ("images='Größe.png'", "Größe.png"),
        ("images=It’s.png", "It’s.png"),
        ("images=plain.png", "plain.png"),
        ("data.val_size=0.5", 0.5),
    ],
)
def test_letters_outside_ascii_reach_hydra(typed: str, value: object) -> None:
    [override] = OverridesParser.create().parse_overrides([quote_foreign_letters(typed)])
    found = override.value()
    assert ([str(one) for one in found] if isinstance(found, list) else found) == (
        [str(one) for one in value] if isinstance(value, list) else value
    )


@pytest.mark.parametrize("value", ["a b", "it's", "a\\b", "a\\", "\\'", "[x]", "a=b,c", "ü"])
def test_quoted_values_come_back(value: str) -> None:
    [override] = OverridesParser.create().parse_overrides([f"key={quoted(value)}"])
    assert override.value() == value
    assert given_values([f"key={quoted(value)}", "other=1"], "key") == [value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png"], "photo.png: give key=value, such as images=photo.png"),
        (["-m", "optimizer=adam,", "sgd"], "optimizer=adam,: several values go without blanks between them"),
        (["logger=null"], "logger=null: give logger=[] for none. There are: csv, mlflow"),
        (["log_dir="], "log_dir=: give a folder"),
        (["hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: the jobs of a sweep need a folder each"),
        (["hydra/launcher=slurm"], "hydra/launcher=slurm: this machine has no SLURM"),
    ],
)
def test_what_hydra_would_take_or_not_explain_is_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError) as caught:
        check_arguments(arguments, "predict")
    assert str(caught.value).startswith(message)


def test_the_nearest_key() -> None:
    keys = ["trainer.max_epochs", "optimizer.lr", "optimizer", "seed"]
    assert nearest("epochs", keys) == " Did you mean trainer.max_epochs?"
    assert nearest("lr", keys) == " Did you mean optimizer.lr?"
    assert nearest("optimizr", keys) == " Did you mean optimizer?"
    assert nearest("xyzzy", keys) == ""


def test_a_wheel_carries_the_configs_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_file("configs") == PACKAGE.parents[1] / "configs"
    (tmp_path / "digits" / "configs").mkdir(parents=True)
    monkeypatch.setattr("digits.overrides.PACKAGE", tmp_path / "digits")
    assert project_file("configs") == tmp_path / "digits" / "configs"
    text = (PACKAGE.parents[1] / "pyproject.toml").read_text()
    assert '"configs" = "digits/configs"' in text
    assert '"train.py" = "digits/train.py"' in text
