"""A data set of the user's own: a class outside the package and a YAML file, no edit in src."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command

from digits import load_classifier
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.data.datasets import named
from digits.data.restore import restore_data
from digits.errors import UserError

CODE = '''
import torch
from digits.data.dataset import DataSet
from digits.data.datasets import Mnist5k
from digits.data.images import Loaded, TensorImages


class Rings(DataSet):
    """Zeros and ones of the sample."""

    name = "rings"
    has_test_images = False
    fit, centre, light_on_dark = 20 / 28, "mass", True

    def load(self):
        images = Mnist5k().load().train.subset(range(1000))
        return Loaded(TensorImages(images.images, images.target), None, ("ring", "stroke"))


class Lying(Rings):
    name = "mnist"
    fit = 3.0


class NoLoad(DataSet):
    name = "no_load"


class Nameless(DataSet):
    def load(self):
        return None
'''
YAML = """
defaults: [mnist, _self_]
dataset: own_rings.data.Rings
offline_fallback: false
val_size: 100
test_size: 100
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's configs; their package can be imported."""
    package = tmp_path / "code" / "own_rings"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "data.py").write_text(CODE)
    configs = tmp_path / "myconfigs" / "data"
    configs.mkdir(parents=True)
    (configs / "rings.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delenv("DIGITS_DATA", raising=False)
    for name in [name for name in sys.modules if name.startswith("own_rings")]:
        monkeypatch.delitem(sys.modules, name)
    return configs.parent


def test_it_trains_and_tests_like_a_built_in_one(command: Command, own: Path) -> None:
    quick = ("model=fast", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=4")
    outcome = command("train", f"--config-dir={own}", "data=rings", *quick)
    assert outcome.code == 0, outcome.err
    assert outcome.record["dataset"] == "own_rings.data.Rings"
    assert outcome.record["data"] == "rings"
    assert outcome.record["split_sizes"] == {"train": 800, "val": 100, "test": 100}
    checkpoint = Checkpoint.open(outcome.folder / "checkpoints" / "best.ckpt")
    assert checkpoint.facts.form.fit == 20
    classifier = load_classifier(checkpoint.path)
    assert classifier.facts.class_names == ["ring", "stroke"]
    assert "rings" in (outcome.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_it_comes_back_as_it_was(own: Path, tmp_path: Path) -> None:
    trained = DigitsDataModule("own_rings.data.Rings", root=str(tmp_path), test_size=0.2, val_size=0.1)
    trained.setup()
    data = restore_data(trained.settings)
    assert data.settings == trained.settings
    assert torch.equal(data.splits.test.images, trained.splits.test.images)
    fold = DigitsDataModule("own_rings.data.Rings", root=str(tmp_path), folds=4, fold=1)
    fold.setup()
    assert fold.split_sizes["test"] == 250


def test_its_name_hides_no_built_in_one(own: Path) -> None:
    assert named("own_rings.data.Lying").name == "mnist"
    assert named("mnist").__module__ == "digits.data.datasets"


def test_a_form_that_is_none_is_named(own: Path) -> None:
    data = DigitsDataModule("own_rings.data.Lying", root="nowhere")
    data.setup()
    with pytest.raises(UserError, match=r"data.fit=3.0: should be less than or equal to 1"):
        _ = data.settings


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        ("own_rings.data.NoSuch", "names nothing that can be imported (module 'own_rings.data' has no attribute"),
        ("no_such_package.Rings", "names nothing that can be imported (No module named 'no_such_package')"),
        ("own_rings.data.NoLoad", "no subclass of digits.data.dataset.DataSet with a `name` and `load`"),
        ("own_rings.data.Nameless", "no subclass of digits.data.dataset.DataSet with a `name` and `load`"),
        ("collections.OrderedDict", "no subclass of digits.data.dataset.DataSet"),
        ("rings", "there are "),
    ],
)
def test_what_is_no_data_set_is_one_line(dataset: str, line: str, own: Path) -> None:
    with pytest.raises(UserError) as error:
        DigitsDataModule(dataset)
    assert str(error.value).startswith(f"data.dataset={dataset}: {line}")
    assert "\n" not in str(error.value)


def test_facts_of_a_file_import_nothing(own: Path, sample: DigitsDataModule) -> None:
    """The name of a data set in a file is data: the form that goes with it stands beside it."""
    from digits.data.settings import TrainedData
    from digits.model_facts import ModelFacts

    settings = sample.settings | {"dataset": "own_rings.data.Rings"}
    TrainedData.model_validate(settings)
    facts = ModelFacts.from_json(ModelFacts.of(settings).to_json())
    assert facts.form == ModelFacts.of(sample.settings).form
    assert np.isclose(facts.fit or 0, 20 / 28)
    assert "own_rings" not in sys.modules
