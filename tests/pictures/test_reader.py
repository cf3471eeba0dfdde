"""load_classifier: whatever this project has trained answers with its own names, in its own form, or is refused."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from PIL import Image

from digits import load_classifier
from digits.archive import load, read_extra
from digits.checkpoints import DESCRIPTION, Checkpoint, save_state_dict
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.model_facts import DIGITS, ModelFacts
from digits.networks import CNN, DenseNet, ResNet18
from digits.pictures.reader import ImageClassifier

CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
LETTERS = [chr(ord("A") + i) for i in range(26)]
MNIST = ModelFacts("mnist", DIGITS, 28, 1, [0.1307], [0.3081], 20 / 28, "mass", True)
MADE = {
    "clothes": (
        CNN,
        {"batch_norm": True},
        ModelFacts("fashion_mnist", CLOTHES, 28, 1, [0.286], [0.353], None, None, True),
    ),
    "letters": (
        ResNet18,
        {"blocks": [1, 1, 1, 1]},
        ModelFacts("emnist", LETTERS, 28, 1, [0.172], [0.331], 24 / 28, "box", True),
    ),
    "colours": (
        DenseNet,
        {"blocks": [2, 2]},
        ModelFacts("image_folder", ["red", "grün"], 20, 3, [0.5], [0.2, 0.3, 0.4], None, None, False),
    ),
}


@pytest.fixture(scope="module")
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints" / "best.ckpt"


def made(name: str, path: Path) -> torch.nn.Module:
    """A network, untrained, whose weights were written to a file with what they need."""
    network_class, settings, facts = MADE[name]
    shape = {"in_channels": facts.channels, "num_classes": len(facts.class_names), "image_size": facts.image_size}
    torch.manual_seed(0)
    network = network_class(**settings, **shape)
    save_state_dict(
        network, {"_target_": f"digits.networks.{network_class.__name__}", **settings, **shape}, facts, path
    )
    return network.eval()


@pytest.mark.parametrize("name", MADE)
def test_weights_are_read_with_their_own_names_and_normalisation(name: str, tmp_path: Path) -> None:
    network, facts = made(name, tmp_path / "weights.pth"), MADE[name][2]
    classifier = load_classifier(tmp_path / "weights.pth")
    assert classifier.facts == facts
    pixels = torch.randint(0, 256, (5, facts.channels, facts.image_size, facts.image_size), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    with torch.inference_mode():
        expected = network((pixels / 255 - mean) / std).softmax(dim=1).numpy()
    assert classifier.probabilities(pixels.numpy()) == pytest.approx(expected, abs=1e-5)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8))
    if name != "letters":  # which are sought in the picture, and there is none
        assert list(classifier.predict(picture).probabilities) == facts.class_names


@pytest.mark.parametrize("mmap", [False, True])
def test_plain_torch_reads_the_state_dict_and_nothing_else(mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    network = made("clothes", path)
    weights = torch.load(path, weights_only=True, mmap=mmap)
    assert weights.keys() == network.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    assert load(path).keys() == weights.keys()
    assert zipfile.ZipFile(path).testzip() is None
    assert not any(part.compress_type for part in zipfile.ZipFile(path).infolist())


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        made("clothes", tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_weights_of_a_run_answer_as_its_checkpoint(trained: Path, checkpoint: Path, sample: DigitsDataModule) -> None:
    images = sample.splits.test.images[:50].numpy()
    by_weights, by_checkpoint = load_classifier(trained / "mnist_cnn_model.pth"), load_classifier(checkpoint)
    assert by_weights.facts == by_checkpoint.facts
    assert by_weights.probabilities(images) == pytest.approx(by_checkpoint.probabilities(images), abs=1e-6)


def test_bare_weights_need_a_network_and_facts(tmp_path: Path, checkpoint: Path) -> None:
    small = CNN(channels=[8, 8, 8])
    torch.save(small.state_dict(), tmp_path / "small.pth")
    with pytest.raises(UserError, match=r"small\.pth: no weights with .*network=CNN\(\), facts=ModelFacts"):
        load_classifier(tmp_path / "small.pth")
    classifier = load_classifier(tmp_path / "small.pth", CNN(channels=[8, 8, 8]), facts=MNIST)
    pixels = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        expected = small.eval()((pixels / 255 - 0.1307) / 0.3081).softmax(dim=1).numpy()
    assert classifier.probabilities(pixels.numpy()) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match=r"small\.pth: no weights of this CNN"):
        load_classifier(tmp_path / "small.pth", CNN(), facts=MNIST)
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        load_classifier(tmp_path / "none.pth")
    for path, given in (("small.pth", {"network": small}), ("small.pth", {"facts": MNIST})):
        with pytest.raises(UserError, match="network= and facts= together"):
            load_classifier(tmp_path / path, **given)
    with pytest.raises(UserError, match=r"only for a \*\.pth"):
        load_classifier(checkpoint, small, facts=MNIST)


def described(path: Path, text: str) -> None:
    """Writes another text into the file, with right checksums."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, text if name.endswith(DESCRIPTION) else old.read(name))


HOSTILE = {
    "no JSON": lambda _: "{",
    "nothing": lambda _: "",
    "a list": lambda _: "[]",
    "deep": lambda _: "[" * 100_000,
    "large": lambda text: text.replace('"fashion_mnist"', '"' + "a" * 2**21 + '"'),
    "another key": lambda text: text.replace('"model"', '"models"'),
    "one more key": lambda text: text.replace('{"model"', '{"run": "os.system", "model"'),
    "facts of another kind": lambda text: text.replace('"channels":1,"mean"', '"channels":"1","mean"'),
    "an endless image": lambda text: text.replace('"image_size":28,"channels"', '"image_size":1000000,"channels"'),
    "no number": lambda text: text.replace("[0.286]", "[NaN]"),
    "no spread": lambda text: text.replace("[0.353]", "[0.0]"),
    "too many means": lambda text: text.replace("[0.286]", "[0.2,0.3]"),
    "a class too few": lambda text: text.replace('"Bag",', ""),
    "another class": lambda text: text.replace("networks.CNN", "networks.DenseNet"),
    "a class that calls": lambda text: text.replace("digits.networks.CNN", "os.system"),
    "a module's module": lambda text: text.replace("networks.CNN", "networks.math.sqrt"),
    "no network": lambda text: text.replace("networks.CNN", "networks.Ensemble"),
    "an argument too many": lambda text: text.replace('"batch_norm"', '"batch_norms"'),
    "widths without end": lambda text: text.replace('"batch_norm":true', '"channels":[1000000000],"hidden":1000000000'),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_description_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    made("clothes", path)
    text = read_extra(path, DESCRIPTION).decode()
    changed = HOSTILE[what](text)
    assert changed != text
    described(path, changed)
    with pytest.raises(UserError) as error:
        load_classifier(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network_class, settings, facts = MADE["clothes"]
    network = network_class(**settings)
    torch.nn.init.constant_(network.head[4].bias, torch.inf)
    save_state_dict(network, {"_target_": "digits.networks.CNN", **settings}, facts, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth: no weights"):
        load_classifier(tmp_path / "weights.pth")


@pytest.mark.slow
def test_three_lines_of_python(checkpoint: Path, sample: DigitsDataModule, tmp_path: Path) -> None:
    test = sample.splits.test
    Image.fromarray(test.images[test.target == 1][0, 0].numpy()).save(tmp_path / "1.png")
    program = f"""
from digits import load_classifier
classifier = load_classifier({str(checkpoint)!r})
print(classifier.predict({str(tmp_path / "1.png")!r}))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert answer.stdout.startswith("1 (")
    assert answer.stderr == ""


def test_images_in_the_networks_form_get_the_networks_answer(checkpoint: Path, sample: DigitsDataModule) -> None:
    images = sample.splits.test.images[:50]
    opened = Checkpoint.open(checkpoint)
    with torch.inference_mode():
        logits = opened.network().eval()((images / 255 - 0.1307) / 0.3081)
    expected = (logits / opened.temperature).softmax(dim=1).numpy()
    assert load_classifier(checkpoint).probabilities(images.numpy()) == pytest.approx(expected, abs=1e-5)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["bad.ckpt", "bad.pth", "bad.onnx"])
def test_a_payload_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"state_dict": Payload(touched)}, tmp_path / "bad.zip")
    (tmp_path / name).write_bytes((tmp_path / "bad.zip").read_bytes())
    with pytest.raises(UserError, match=name):
        load_classifier(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Payload(touched)))
    with pytest.raises(UserError, match=name):
        load_classifier(tmp_path / name)
    assert not touched.exists()
    torch.load(tmp_path / "bad.zip", weights_only=False)  # it is a payload indeed
    assert touched.exists()


def test_a_network_of_one_class_has_no_runner_up() -> None:
    facts = ModelFacts("image_folder", ["cat"], 28, 1, [0.5], [0.5], None, None, False)
    prediction = ImageClassifier(lambda images: np.ones((len(images), 1)), facts).predict(np.ones((28, 28), np.uint8))
    assert (prediction.label, prediction.probability) == ("cat", 1.0)
    assert (prediction.runner_up, prediction.runner_up_probability) == ("", 0.0)
    assert str(prediction) == "cat (100.0%)"


def test_facts_travel_as_json() -> None:
    facts = ModelFacts("mnist", ["a", "ü"], 28, 1, [0.1], [0.2], 0.5, "box", False)
    assert ModelFacts.from_json(facts.to_json()) == facts
    assert json.loads(facts.to_json())["class_names"] == ["a", "ü"]
    assert not facts.are_digits
