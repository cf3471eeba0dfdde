"""Classes by name: what a file may name, and that nothing else of it runs."""

import sys
from pathlib import Path

import pytest

from digits.errors import UserError
from digits.targets import make, packages, target_of, untrusted


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `payload_package` that leaves a file when it is imported, or its class made."""
    package = tmp_path / "payload_package"
    package.mkdir()
    trace = tmp_path / "ran"
    (package / "__init__.py").write_text(
        f"import torch\nopen({str(trace)!r}, 'a').write('imported ')\n"
        f"class Net(torch.nn.Linear):\n    def __init__(self, **_):\n        super().__init__(4, 2)\n"
        f"        open({str(trace)!r}, 'a').write('made ')\n"
        "def call():\n    return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "payload_package", raising=False)
    return trace


def test_untrusted_code_is_not_even_imported(payload: Path) -> None:
    settings = {"model": {"_target_": "payload_package.Net"}}
    problem = untrusted(settings, [])
    assert problem is not None
    assert problem.startswith("model._target_=payload_package.Net: code that is not of digits, torch, torchvision")
    assert problem.endswith("If you trust it: trust=payload_package")
    assert not payload.exists()
    assert untrusted(settings, ["payload_package"]) is None
    assert payload.read_text() == "imported "
    make(settings["model"])
    assert payload.read_text() == "imported made "


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "torch.os.system",  # not torch's
        "torch.load",  # torch's, and no part of an experiment
        "torch.hub.load",
        "torch.nn.modules.module.torch.os.system",
        "torch.utils.cpp_extension.load",
        "torch.distributed.nn.RemoteModule",
        "torchvision.io.write_file",
        "torchvision.models.get_model",
        "lightning.pytorch.cli.LightningCLI",
        "digits.atomic.atomic_write",
        "digits.networks.torch.hub.load",
        "hydra.utils.instantiate",
        "torch.classes.load_library",  # which only Hydra resolves
        "kornia.core.external.onnx.load",  # whose import would import another package
        "digits.networks.NotThereAnyMore",
        "torchvision.models:resnet18",
        "",
        None,
        5,
    ],
)
@pytest.mark.parametrize("trust", [[], ["mypackage", "os", "subprocess", "builtins"]])
def test_what_a_file_may_not_name(target: object, trust: list[str]) -> None:
    """Python's own modules are no packages that one could trust."""
    assert untrusted({"model": {"network": [{"_target_": target}]}}, trust) is not None


@pytest.mark.parametrize(
    "target",
    [
        "digits.networks.CNN",
        "digits.losses.Focal",
        "torch.nn.CrossEntropyLoss",
        "torch.nn.modules.linear.Linear",
        "torchvision.models.mobilenet_v3_small",
        "torchvision.models.resnet.ResNet",
        "torchmetrics.classification.MulticlassAUROC",
        "torch.optim.Adam",
        "lightning.pytorch.callbacks.EarlyStopping",
    ],
)
def test_what_a_file_may_name(target: str) -> None:
    assert untrusted({"part": {"_target_": target, "further": [1, {"deep": 2}]}}, []) is None


def test_trust_in_a_package_is_none_in_what_it_imports(payload: Path) -> None:
    assert untrusted({"_target_": "payload_package.torch.os.system"}, ["payload_package"]) is not None
    assert untrusted({"_target_": "payload_package.call"}, ["payload_package"]) is None


def test_a_target_that_cannot_be_had_is_named() -> None:
    with pytest.raises(UserError, match=r"model._target_=nowhere.Net: names nothing that can be made \(No module"):
        target_of("model", {"_target_": "nowhere.Net"})
    with pytest.raises(UserError, match=r"model={}: names nothing that can be made .it has no _target_"):
        target_of("model", {})


def test_packages() -> None:
    assert (packages("a"), packages(["a", "b"]), packages(None), packages([])) == (["a"], ["a", "b"], [], [])


@pytest.mark.parametrize(
    "place", [{"data": {"dataset": "payload_package.X"}}, {"a": [{"dataset": "payload_package.X"}]}]
)
def test_a_data_set_is_named_by_its_class_too(payload: Path, place: dict) -> None:
    problem = untrusted(place, [])
    assert problem is not None
    assert "dataset=payload_package.X: code that is not of digits" in problem
    assert not payload.exists()
    assert untrusted({"data": {"dataset": "mnist"}}, []) is None
