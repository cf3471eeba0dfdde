"""The parts that a user may bring: network, loss and metrics, made from plain settings and tried out."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from digits.errors import UserError, one_line_errors
from digits.metrics import MetricEntry, metric_collection
from digits.networks import Whitening
from digits.resized import Resized, inner
from digits.runs.run import Run
from digits.targets import check_kind, parameters_of, target_of

RESIZED = f"{Resized.__module__}.{Resized.__qualname__}"

log = logging.getLogger(__name__)


def network_settings(
    model: Mapping[str, Any], shape: Mapping[str, int], image_size: int | None = None, channels: int | None = None
) -> dict[str, Any]:
    """The settings of a network for images and classes of a shape: its class gets what it has parameters for.

    Args:
        model: `_target_` and arguments.
        shape: `in_channels`, `num_classes` and `image_size` of the data.
        image_size: that the network is to get, if not the data's: the images are resized.
        channels: that the network is to get, if not the data's: grey is repeated.
    """
    needs = {**shape, "image_size": image_size or shape["image_size"], "in_channels": channels or shape["in_channels"]}
    takes = parameters_of(target_of("model", model))
    further = any(one.kind == one.VAR_KEYWORD for one in takes.values())  # as torchvision's and timm's have it
    known = {name: needs[name] for name in needs if name in takes or (further and name == "num_classes")}
    settings = {**model, **known}
    if not (image_size or channels):
        return settings
    return {"_target_": RESIZED, "network": settings, "image_size": image_size, "channels": channels}


def without_pretraining(model: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a network that is to get other weights: without what asks timm or torchvision for theirs."""
    return {
        name: without_pretraining(value) if isinstance(value, Mapping) else value
        for name, value in model.items()
        if not (name == "pretrained" and value is True) and not (name == "weights" and isinstance(value, str))
    }


def make_network(
    settings: Mapping[str, Any],
    pretrained: str | None,
    freeze: Sequence[str | int],
    images: Callable[[], Tensor] | None = None,
) -> nn.Module:
    """A network, perhaps with weights to start from, and with parts that are not trained.

    Args:
        settings: as `network_settings` has them.
        pretrained: as of `load_pretrained`.
        freeze: patterns of the names of parameters, or of the modules that have them.
        images: gives normalised ones (B, C, H, W), if it has a `Whitening` to fit.

    Raises:
        UserError: if it is no network, the file has no weights that fit, or a pattern fits no name.
    """
    check_kind("model", settings, target_of("model", settings), nn.Module)
    network = instantiate(settings, _convert_="all")
    check_kind("model", settings, type(network), nn.Module)
    for layer in network.modules():
        if images and isinstance(layer, Whitening):
            _fit(layer, network, images())
    if pretrained:
        load_pretrained(inner(network), Path(str(pretrained)).expanduser())
    for pattern in freeze:
        _freeze(inner(network), str(pattern))
    return network


def _fit(layer: Whitening, network: nn.Module, images: Tensor) -> None:
    """Fits it to what it gets when the network gets the images."""
    hook = layer.register_forward_pre_hook(lambda layer, inputs: layer.fit(inputs[0]))
    with torch.no_grad():
        network.eval()(images)
    hook.remove()
    network.train()


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Gives a network the weights of a file that fit by name and shape, and logs the names of those that do not.

    The file is a checkpoint of this project's, a run's folder, or a `state_dict` of anybody's.

    Raises:
        UserError: if the file cannot be read, or nothing in it fits.
    """
    own = network.state_dict()
    with one_line_errors(f"pretrained={path}", "no file of weights"):
        file = Run(path).checkpoint if path.is_dir() else path
        content = torch.load(file or path, map_location="cpu", weights_only=True)
        weights = {str(name): value for name, value in dict(content.get("state_dict", content)).items()}
    # By the names in a file of weights alone, in a checkpoint, and in one of a network that gets other images.
    candidates = [
        {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
            and isinstance(value, Tensor)
            and value.shape == getattr(own.get(name.removeprefix(prefix)), "shape", None)
        }
        for prefix in ("", "network.", "network.network.")
    ]
    fitting = max(candidates, key=len)
    if not fitting:
        raise UserError(f"pretrained={path}: none of its {len(weights)} weights fits a {type(network).__name__}")
    network.load_state_dict(fitting, strict=False)
    rest = ", ".join(name for name in own if name not in fitting) or "none"
    log.info("pretrained: %s of %s weights are from %s; the others: %s", len(fitting), len(own), path, rest)


def _freeze(network: nn.Module, pattern: str) -> None:
    frozen = [
        (name, parameter)
        for name, parameter in network.named_parameters()
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    ]
    if not frozen:
        parts = ", ".join(name for name, _ in network.named_children())
        raise UserError(f"freeze={pattern}: fits no parameter. There are {parts} and what is in them")
    for _, parameter in frozen:
        parameter.requires_grad_(False)
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()  # or batch norm would still learn its statistics


def loss_settings(loss: Mapping[str, Any], target: np.ndarray | None, num_classes: int) -> dict[str, Any]:
    """The settings of a loss, with `class_weights=balanced` made a list and the number of classes where it takes one.

    Args:
        loss: `_target_` and arguments.
        target: (N,) classes of the training images, for their weights; None: not known yet.
        num_classes: number of classes.
    """
    settings = dict(loss)
    if "num_classes" in parameters_of(target_of("loss", loss)):
        settings["num_classes"] = num_classes
    if settings.get("class_weights") == "balanced":
        from sklearn.utils import compute_class_weight  # here, as it takes a second

        classes = np.arange(num_classes)
        with one_line_errors("loss.class_weights=balanced", "needs training images of each class"):
            weights = compute_class_weight("balanced", classes=classes, y=classes if target is None else target)
        settings["class_weights"] = weights.tolist()
    return settings


def rehearse(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    entries: Iterable[MetricEntry],
    shape: Mapping[str, int],
    names: Mapping[str, str],
    mixed: bool = False,
) -> None:
    """Asks a network, a loss and metrics about two random images, so that a wrong one shows before any data is read.

    Args:
        network: in training mode; its statistics are changed.
        loss: of it.
        entries: the metric list.
        shape: `in_channels`, `num_classes` and `image_size`.
        names: what to call `model` and `loss` in an error.
        mixed: whether training mixes images or has a teacher, so that the loss gets probabilities (B, num_classes).

    Raises:
        UserError: naming the part that fails, or gives something of the wrong shape.
    """
    size, classes, problem = shape["image_size"], shape["num_classes"], ""
    images = torch.randn(2, shape["in_channels"], size, size)
    target = torch.arange(2) % classes
    with one_line_errors(
        names["model"], f"fails on images of shape {tuple(images.shape)} (model_input gives it others)"
    ):
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(f"{names['model']}: gives {given} for 2 images, not logits of shape {(2, classes)}")
    targets = (
        f"probabilities, as a mixing or a teacher makes them, of shape {(2, classes)}"
        if mixed
        else "targets of shape (2,)"
    )
    with one_line_errors(names["loss"], f"fails on logits of shape {(2, classes)} and {targets}"):
        value = loss(logits, nn.functional.one_hot(target, classes).float() if mixed else target)
        if value.shape not in ((), (2,)) or not value.is_floating_point():
            problem = f"{names['loss']}: gives {value.dtype} of shape {tuple(value.shape)}, not a loss for each image"
        elif any(parameter.requires_grad for parameter in network.parameters()) and not value.requires_grad:
            problem = f"{names['loss']}: has no gradient: it cannot be minimised"
    for one in entries:
        name = f"metrics.{one.name}._target_={one.metric['_target_']}"
        with one_line_errors(name, f"fails on logits of shape {(2, classes)} and targets of shape (2,)"):
            found = metric_collection(one.stages[0], classes, [one])
            found.update(logits.detach().float(), target)
            computed = found.compute()[f"{one.stages[0]}/{one.name}"]
            if not isinstance(computed, Tensor) or computed.numel() != 1:
                problem = f"{name}: gives no single number. Give an average, or another metric"
    if problem:
        raise UserError(problem)
