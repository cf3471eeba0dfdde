"""Shows what a network looks at:  python -m digits.explain images=photo.png ckpt_path=...

Its saliency (on which pixels an answer rests), the filters of a layer, or a layer's maps of a picture.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from omegaconf import DictConfig
from pydantic import model_validator

from digits.command import command
from digits.errors import UserError
from digits.pictures.answers import ImagePaths, output_names, read_files, report_failures
from digits.validation import FilePath, Name, Settings, Trust, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from digits.checkpoints import Checkpoint
    from digits.networks import RawPixels
    from digits.pictures.reader import ImageClassifier, Prediction
    from digits.runs.run import Run

log = logging.getLogger(__name__)
METHODS = {"integrated_gradients": "integrated gradients", "grad_cam": "Grad-CAM"}
MOST_NAMES = 40  # of layers, in the line that lists them


class ExplainSettings(Settings):
    """The keys of configs/explain.yaml."""

    what: Literal["saliency", "filters", "features"]
    images: ImagePaths | None
    ckpt_path: FilePath | None
    layer: Name | None
    mode: Literal["auto", "digit", "line"]
    method: Literal["integrated_gradients", "grad_cam"]
    trust: Trust
    log_dir: FilePath

    @model_validator(mode="after")
    def _what_needs_what(self) -> Self:
        if self.what == "filters" and self.images is not None:
            raise ValueError("what=filters: shows the network alone; leave images= out, or ask for what=features")
        if self.what != "filters" and self.images is None:
            raise ValueError(f"images=null: what={self.what} shows pictures: give a file, a folder or a pattern")
        if self.what == "saliency" and self.layer is not None:
            raise ValueError(f"layer={self.layer}: is for what=filters and what=features")
        return self


@command("explain")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a folder with figures: one for each answer, or one of a layer's filters."""
    settings = read_settings(ExplainSettings, cfg)

    from digits import figures
    from digits.checkpoints import Checkpoint
    from digits.pictures.reader import torch_classifier
    from digits.runs.run import newest_checkpoint

    run.save_config(cfg)
    checkpoint = Checkpoint.open(settings.ckpt_path or newest_checkpoint(settings.log_dir), settings.trust)
    facts = checkpoint.facts
    classifier = torch_classifier(checkpoint.network(), facts)
    log.info("model:  %s, trained on %s", checkpoint.path, facts.dataset)
    run.update(ckpt_path=str(checkpoint.path))

    if settings.what == "saliency":
        _draw_answers(settings, run, classifier, _saliency_figure(classifier.model, checkpoint, settings.method))
    else:
        layers = Layers(classifier.model, (facts.channels, facts.image_size, facts.image_size))
        name = layers.chosen(settings.layer, settings.what)
        run.update(layer=name)
        log.info("layer:  %s, %s", name, layers.modules[name])
        if settings.what == "filters":
            weights = layers.filters[name]
            run.save_figure("filters", figures.filters(weights, f"Filters of {name}", layers.sees_colours(name)))
            log.info("saved:  %s", run.folder)
        else:
            _draw_answers(settings, run, classifier, _features_figure(layers, name))


Draw = Callable[["Prediction", str], "Figure"]  # from an answer and its file's name


def _draw_answers(settings: ExplainSettings, run: "Run", classifier: "ImageClassifier", draw: Draw) -> None:
    """Reads the pictures, and draws a figure for each answer."""
    assert settings.images is not None
    answers = list(read_files(settings.images, lambda path: classifier.read(path, settings.mode)))
    read = [answer.reading.answers if answer.reading else [] for answer in answers]
    said = {}
    for answer, predictions, names in zip(
        answers, read, output_names(settings.images, list(map(len, read))), strict=True
    ):
        for prediction, name in zip(predictions, names, strict=True):
            run.save_figure(name, draw(prediction, answer.path.name))
        reason = answer.reading.reason if answer.reading else answer.error
        said[str(answer.path)] = ", ".join(map(str, predictions)) or reason
        log.info("%s: %s", answer.path, said[str(answer.path)])
    run.update(answers=said)
    log.info("saved:  %s", run.folder)
    report_failures(answers)


def _saliency_figure(model: "RawPixels", checkpoint: "Checkpoint", method: str) -> Draw:
    from digits import figures

    class_names = checkpoint.facts.class_names

    def draw(prediction: "Prediction", file: str) -> "Figure":
        named = {prediction.label: prediction.probability}
        if prediction.runner_up:
            named[prediction.runner_up] = prediction.runner_up_probability
        maps = [attribution(model, prediction.image, class_names.index(name), method) for name in named]
        title = f"{file}: what speaks for and against, by {METHODS[method]}"
        return figures.explanation(prediction.image, named, maps, title)

    return draw


def _features_figure(layers: "Layers", name: str) -> Draw:
    from digits import figures

    def draw(prediction: "Prediction", file: str) -> "Figure":
        maps = layers.features(name, prediction.image)
        return figures.feature_maps(prediction.image, maps, f"{file}, read as {prediction}: the maps of {name}")

    return draw


class Layers:
    """The layers of a network by name, as far as they can be shown.

    A layer has maps if it gives one tensor (B, C, H, W) of square maps, larger than a pixel; it has filters if it is a
    convolution with kernels larger than a pixel.

    Args:
        model: from pixels in 0..255 to logits.
        shape: of an image: (C, H, W).

    Attributes:
        modules: those that are asked when the network is, in the order in which they first are.
        filters: weights (filters, channels, height, width) by the layer's name.
        maps: names of layers with maps.
    """

    def __init__(self, model: "RawPixels", shape: tuple[int, int, int]) -> None:
        import torch
        from torch import nn

        from digits.resized import inner

        self.model = model
        network = inner(model.network)
        known = {name: module for name, module in network.named_modules() if name}
        found = self._outputs(known, torch.zeros(1, *shape))
        self.modules = {name: known[name] for name in found}
        self.maps = [
            name for name, output in found.items() if output.ndim == 4 and 1 < output.shape[2] == output.shape[3]
        ]
        self.convolutions = [name for name, one in self.modules.items() if isinstance(one, nn.Conv2d)]
        self.filters: Mapping[str, np.ndarray] = {
            name: known[name].weight.detach().float().numpy()
            for name in self.convolutions
            if max(known[name].kernel_size) > 1
        }

    def chosen(self, name: str | None, what: str) -> str:
        """The layer of that name; by default the first convolution that can be shown.

        Raises:
            UserError: if it cannot be shown, or no layer can.
        """
        shown = list(self.filters if what == "filters" else self.maps)
        kind = "convolution with filters larger than a pixel" if what == "filters" else "layer that gives maps"
        if not shown:
            raise UserError(f"what={what}: {type(self.model.network).__name__} has no {kind}; take what=saliency")
        if name is None:
            return next((one for one in shown if one in self.convolutions), shown[0])
        if name not in shown:
            more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
            raise UserError(f"layer={name}: no {kind}; there are {', '.join(shown[:MOST_NAMES])}{more}")
        return name

    def sees_colours(self, name: str) -> bool:
        """Whether a filter's three channels are red, green and blue: those of the first convolution."""
        return name == self.convolutions[0] and self.filters[name].shape[1] == 3

    def features(self, name: str, image: np.ndarray) -> np.ndarray:
        """A layer's maps (channels, height, width) of an image, uint8 of shape (C, H, W)."""
        import torch

        found = self._outputs({name: self.modules[name]}, torch.from_numpy(image).float()[None])
        return found[name][0].float().numpy()

    def _outputs(self, modules: "Mapping[str, nn.Module]", pixels: "Tensor") -> "dict[str, Tensor]":
        """What each of the modules gives when it is asked first, if that is one tensor."""
        import torch

        found: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_: object, __: object, output: object) -> None:
                if torch.is_tensor(output) and name not in found:
                    found[name] = output.clone()  # as the next layer may change it in place

            return hook

        handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
        try:
            with torch.inference_mode():
                self.model(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return found


def attribution(model: "RawPixels", image: np.ndarray, label: int, method: str = "integrated_gradients") -> np.ndarray:
    """How much each pixel speaks for a class (above 0) or against it (below), by Captum.

    Integrated gradients (Sundararajan et al., https://arxiv.org/abs/1703.01365) go from the black image to this one,
    and sum up to the difference of the class's logits between the two. Grad-CAM (Selvaraju et al.,
    https://arxiv.org/abs/1610.02391) weighs the last feature maps, is as coarse as they are, and shows only what speaks
    for a class.

    Args:
        model: from pixels in 0..255 to logits.
        image: uint8 of shape (C, H, W).
        label: the number of the class.
        method: `integrated_gradients` or `grad_cam`.

    Returns:
        float32 of shape (H, W), summed over the channels.
    """
    import torch
    from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam

    pixels = torch.from_numpy(image).float()[None]  # (1, C, H, W)
    if method == "grad_cam":
        coarse = LayerGradCam(model, _feature_maps(model.network)).attribute(
            pixels, target=label, relu_attributions=True
        )
        parts = LayerAttribution.interpolate(coarse, pixels.shape[2:], "bilinear")
    else:
        parts = IntegratedGradients(model).attribute(pixels, target=label, n_steps=100, internal_batch_size=25)
    return parts[0].sum(dim=0).detach().float().numpy()


def _feature_maps(network: "nn.Module") -> "nn.Module":
    """The part that gives the last maps (C, H, W) before the classes: `features` here and in torchvision, `layer4` in
    its ResNets, else the last convolution.

    Raises:
        UserError: if the network has none of them.
    """
    from torch import nn

    from digits.resized import inner

    network = inner(network)
    named = [getattr(network, name) for name in ("features", "layer4") if hasattr(network, name)]
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not named and not convolutions:
        raise UserError(f"method=grad_cam: {type(network).__name__} has no convolution; take integrated_gradients")
    return named[0] if named else convolutions[-1]


if __name__ == "__main__":
    main()
