"""python -m digits.export: what leaves the project computes what the checkpoint does, or does not leave."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import PROJECT

from digits import export, load_classifier
from digits.checkpoints import Checkpoint
from digits.data import DigitsDataModule
from digits.errors import UserError
from digits.model_facts import ModelFacts
from digits.networks import CNN, DenseNet, ResNet18
from digits.pictures.reader import onnx_classifier

Export = Callable[..., tuple[int, str, str]]


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command with these words."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *words])
        code = 0
        try:
            export.main()
        except SystemExit as stop:
            code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A folder with nothing but a link to a trained checkpoint, best.ckpt."""
    (tmp_path / "best.ckpt").symlink_to(trained / "checkpoints" / "best.ckpt")
    return tmp_path


@pytest.fixture
def exported(folder: Path, capsys: pytest.CaptureFixture) -> Export:
    """`exported("format=onnx")` exports the checkpoint in `folder`."""
    return lambda *words: run(capsys, f"ckpt_path={folder / 'best.ckpt'}", *words)


@pytest.fixture(scope="module")
def model(trained: Path) -> bytes:
    """The trained network as ONNX."""
    facts = Checkpoint.open(trained / "checkpoints" / "best.ckpt").facts
    return export.to_onnx(plain(trained), facts)


def plain(trained: Path) -> CNN:
    network = CNN().eval()
    network.load_state_dict(torch.load(trained / "mnist_cnn_model.pth", weights_only=True))
    return network


def expected(network: torch.nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Logits by plain torch: the network on images normalised by hand."""
    with torch.inference_mode():
        return network((pixels / 255 - 0.1307) / 0.3081).numpy()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_onnx_from_raw_pixels_in_one_file(
    trained: Path, folder: Path, exported: Export, sample: DigitsDataModule
) -> None:
    code, out, err = exported("format=onnx")
    assert (code, err) == (0, "")
    assert "other answers: 0  largest difference of a logit:" in out
    assert names(folder) == {"best.ckpt", "best.onnx"}

    session = onnxruntime.InferenceSession(folder / "best.onnx", providers=["CPUExecutionProvider"])
    network, images = plain(trained), sample.splits.test.images
    for size in (1, 7, 500):
        [logits] = session.run(["logits"], {"pixels": images[:size].numpy()})
        np.testing.assert_allclose(logits, expected(network, images[:size]), atol=1e-4)
    accuracy = (logits.argmax(axis=1) == sample.splits.test.target.numpy()).mean()
    assert f"onnx            {accuracy:.2%}".replace("%", " %") in out


def test_onnx_says_what_it_is(trained: Path, model: bytes) -> None:
    proto = onnx.load_from_string(model)
    onnx.checker.check_model(proto, full_check=True)
    [pixels], [logits] = proto.graph.input, proto.graph.output
    assert (pixels.name, logits.name) == ("pixels", "logits")
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    for value, shape in ((pixels, [1, 28, 28]), (logits, [10])):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert [dim.dim_value for dim in rest] == shape
    assert not any(tensor.external_data for tensor in proto.graph.initializer)

    [facts] = [json.loads(entry.value) for entry in proto.metadata_props if entry.key == "digits"]
    checkpoint = Checkpoint.open(trained / "checkpoints" / "best.ckpt")
    data = checkpoint.settings["data"]
    names = ("dataset", "class_names", "image_size", "channels", "mean", "std", "fit", "centre", "light_on_dark")
    assert facts == {name: data[name] for name in names} | {
        "temperature": checkpoint.confidence.temperature,
        "reject_below": 0.0,
    }
    assert str(PROJECT).encode() not in model


def test_onnx_predicts_what_the_checkpoint_does(folder: Path, model: bytes, sample: DigitsDataModule) -> None:
    (folder / "best.onnx").write_bytes(model)
    by_checkpoint, by_onnx = (load_classifier(folder / f"best.{suffix}") for suffix in ("ckpt", "onnx"))
    for image in sample.splits.test.images[:20, 0].numpy():
        one, other = by_checkpoint.predict(image), by_onnx.predict(image)
        assert (one.label, one.runner_up, one.box) == (other.label, other.runner_up, other.box)
        assert other.probabilities == pytest.approx(one.probabilities, abs=1e-5)
        assert np.array_equal(one.image, other.image)


def test_quantized_is_smaller_and_about_as_good(
    folder: Path, exported: Export, sample: DigitsDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_on = []
    original = export.quantized
    monkeypatch.setattr(export, "quantized", lambda *given: measured_on.append(given[1]) or original(*given))
    code, out, err = exported("quantize=true")
    assert (code, err) == (0, "")
    assert names(folder) == {"best.ckpt", "best.int8.onnx"}
    assert all(f"\n{row}  " in out for row in ("checkpoint", "onnx", "onnx int8"))  # the original's figures beside it

    path = folder / "best.int8.onnx"
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in proto.graph.initializer) >= 4  # every layer
    assert path.stat().st_size < 1.1 * 421_642  # a byte a parameter
    classifier, test = load_classifier(path), sample.splits.test
    answers = classifier.logits(test.images.numpy()).argmax(axis=1)
    by_checkpoint = load_classifier(folder / "best.ckpt").logits(test.images.numpy()).argmax(axis=1)
    assert (answers == by_checkpoint).mean() >= 0.98
    assert f"other answers: {(answers != by_checkpoint).sum()}  " in out.partition("int8")[2]

    [images] = measured_on  # training images, and of the others none
    training = {image.tobytes() for image in sample.splits.train.images.numpy()}
    assert len(images) == 1000
    assert all(image.tobytes() in training for image in images)


def test_torch_export(trained: Path, folder: Path, exported: Export, sample: DigitsDataModule) -> None:
    code, _, err = exported("format=torch_export")
    assert (code, err) == (0, "")
    assert names(folder) == {"best.ckpt", "best.pt2"}
    extra = {"facts.json": ""}
    module = torch.export.load(folder / "best.pt2", extra_files=extra).module()
    assert json.loads(extra["facts.json"])["class_names"] == [str(digit) for digit in range(10)]
    network, images = plain(trained), sample.splits.test.images
    for size in (1, 7, 500):
        np.testing.assert_allclose(module(images[:size]).detach().numpy(), expected(network, images[:size]), atol=1e-4)
    assert str(PROJECT).encode() not in (folder / "best.pt2").read_bytes()


def test_state_dict(trained: Path, folder: Path, exported: Export) -> None:
    code, _, err = exported("format=state_dict")
    assert (code, err) == (0, "")
    assert names(folder) == {"best.ckpt", "best.pth"}
    weights = torch.load(folder / "best.pth", weights_only=True)
    reference = plain(trained).state_dict()
    assert weights.keys() == reference.keys()
    assert all(torch.equal(weights[name], reference[name]) for name in reference)


@pytest.mark.parametrize(
    "network",
    [
        CNN(3, 4, 20, channels=(8, 16), batch_norm=True),
        CNN(3, 4, 20, channels=(8,), strided_stem=True),
        ResNet18(3, 4, 20, blocks=(1, 1, 1, 1)),
        DenseNet(3, 4, 20, growth_rate=4, blocks=(2, 2), init_channels=8, dropout=0.2),
    ],
    ids=["cnn_bn", "fast", "resnet18", "densenet"],
)
def test_every_network(network: torch.nn.Module) -> None:
    """Colour, other sizes and classes; batch norm's statistics are those of training, and dropout is off."""
    torch.manual_seed(0)
    facts = ModelFacts("image_folder", list("abcd"), 20, 3, [0.2, 0.4, 0.6], [0.1, 0.2, 0.3], None, None, False)
    for _ in range(3):
        network(torch.randn(16, 3, 20, 20))
    pixels = torch.randint(0, 256, (50, 3, 20, 20), dtype=torch.uint8)
    model = export.to_onnx(network, facts)
    pt2 = torch.export.load(io.BytesIO(export.to_pt2(network, facts))).module()
    assert network.training  # left as it was
    network.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (facts.mean, facts.std))
    with torch.inference_mode():
        logits = network((pixels / 255 - mean) / std).numpy()
    np.testing.assert_allclose(onnx_classifier(model).logits(pixels.numpy()), logits, atol=1e-4)
    np.testing.assert_allclose(pt2(pixels).detach().numpy(), logits, atol=1e-4)
    answers = onnx_classifier(export.quantized(model, pixels.numpy())).logits(pixels.numpy())
    assert np.corrcoef(answers.ravel(), logits.ravel())[0, 1] > 0.98


def wrong(trained: Path, change: Callable[[CNN], object]) -> Callable[..., bytes]:
    """An exporter that exports another network."""
    network, correct = plain(trained), export.to_onnx
    with torch.no_grad():
        change(network)
    return lambda _, facts, gate: correct(network, facts, gate)


@pytest.mark.parametrize("before", [None, b"an earlier export"])
def test_export_with_other_answers_leaves_nothing(
    before: bytes | None, trained: Path, folder: Path, exported: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        (folder / "best.onnx").write_bytes(before)
    monkeypatch.setattr(export, "to_onnx", wrong(trained, lambda network: network.head[4].bias[3].add_(2)))
    code, out, err = exported()
    assert code == 1
    [line] = err.splitlines()
    assert line.startswith("error: onnx: not saved, because it does not compute what the checkpoint does: ")
    assert "saved" not in out
    assert names(folder) == {"best.ckpt"} | ({"best.onnx"} if before else set())
    assert not before or (folder / "best.onnx").read_bytes() == before


def test_quantized_to_no_numbers_leaves_nothing(
    trained: Path, folder: Path, exported: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = wrong(trained, lambda network: network.head[4].bias.fill_(torch.nan))
    facts = Checkpoint.open(folder / "best.ckpt").facts
    monkeypatch.setattr(export, "quantized", lambda model, images: broken(None, facts, None))
    code, _, err = exported("quantize=true")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "logits differ by up to nan" in err
    assert names(folder) == {"best.ckpt"}


def test_newest_checkpoint_where_none_is_given(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "network.pth"
    code, out, err = run(capsys, f"log_dir={trained.parents[2]}", "format=state_dict", f"output={output}")
    assert (code, err) == (0, "")
    assert str(trained / "checkpoints" / "best.ckpt") in out
    assert names(tmp_path) == {"network.pth"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["format=tensorrt"], "format=tensorrt: should be 'onnx', 'torch_export' or 'state_dict'"),
        (["format=state_dict", "quantize=true"], "quantize=true: for format=onnx, not state_dict. Leave it out"),
        (["output={folder}"], "output={folder}: give a file that ends with .onnx, in a folder that exists"),
        (["output={folder}/best.pth"], "output={folder}/best.pth: give a file that ends with .onnx"),
        (
            ["output={folder}/none/best.onnx"],
            "output={folder}/none/best.onnx: give a file that ends with .onnx, in a folder that exists",
        ),
        (["output=/proc/best.onnx"], "No such file"),  # nobody may write there
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["ckpt_path=null", "log_dir={folder}"], "there is no checkpoint under {folder}/train"),
        (["quantise=true"], "there is no key quantise. Did you mean quantize?"),
        (["quantize=int8"], "quantize=int8: should be a valid boolean"),
    ],
)
def test_what_cannot_be_exported(words: list[str], message: str, folder: Path, exported: Export) -> None:
    code, _, err = exported(*(word.format(folder=folder) for word in words))
    assert code == 1
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert message.format(folder=folder) in line
    assert names(folder) == {"best.ckpt"}


def foreign() -> bytes:
    """A valid model, of another project."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "graph", values[:1], values[1:])
    opset = onnx.helper.make_opsetid("", 20)
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]).SerializeToString()


@pytest.mark.parametrize("damage", ["foreign", "truncated", "empty", "no_onnx"])
def test_no_export_of_ours_is_one_line(damage: str, model: bytes, tmp_path: Path) -> None:
    content = {"foreign": foreign(), "truncated": model[: len(model) // 2], "empty": b"", "no_onnx": b"digits" * 99}
    path = tmp_path / "best.onnx"
    path.write_bytes(content[damage])
    with pytest.raises(UserError, match="wrote, or a damaged one") as error:
        load_classifier(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_import_does_not_wait_for_torch() -> None:
    program = "import sys\nfrom digits import export\nassert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
