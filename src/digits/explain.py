"""Draws on which pixels an answer rests:  python -m digits.explain images=photo.png ckpt_path=..."""

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from omegaconf import DictConfig

from digits.command import command
from digits.errors import UserError
from digits.pictures.answers import ImagePaths, output_names, read_files, report_failures
from digits.validation import FilePath, Settings, Trust, read_settings

if TYPE_CHECKING:
    from torch import nn

    from digits.networks import RawPixels
    from digits.runs.run import Run

log = logging.getLogger(__name__)
METHODS = {"integrated_gradients": "integrated gradients", "grad_cam": "Grad-CAM"}


class ExplainSettings(Settings):
    """The keys of configs/explain.yaml."""

    images: ImagePaths
    ckpt_path: FilePath | None
    mode: Literal["auto", "digit", "line"]
    method: Literal["integrated_gradients", "grad_cam"]
    trust: Trust
    log_dir: FilePath


@command("explain")
def main(cfg: DictConfig, run: "Run") -> None:
    """Leaves a folder with a figure for each answer: the digit, what speaks for it and for the runner-up."""
    settings = read_settings(ExplainSettings, cfg)

    from digits import figures
    from digits.checkpoints import Checkpoint
    from digits.networks import RawPixels
    from digits.pictures.reader import torch_classifier
    from digits.runs.run import newest_checkpoint

    run.save_config(cfg)
    checkpoint = Checkpoint.open(settings.ckpt_path or newest_checkpoint(settings.log_dir), settings.trust)
    network, facts = checkpoint.network(), checkpoint.facts
    classifier = torch_classifier(network, facts)
    model = RawPixels(network, facts.mean, facts.std).float().eval()
    log.info("model:  %s, trained on %s", checkpoint.path, facts.dataset)
    run.update(ckpt_path=str(checkpoint.path))

    answers = list(read_files(settings.images, lambda path: classifier.read(path, settings.mode)))
    read = [answer.reading.answers if answer.reading else [] for answer in answers]
    said = {}
    for answer, predictions, names in zip(
        answers, read, output_names(settings.images, list(map(len, read))), strict=True
    ):
        for prediction, name in zip(predictions, names, strict=True):
            named = {prediction.label: prediction.probability}
            if prediction.runner_up:
                named[prediction.runner_up] = prediction.runner_up_probability
            numbers = map(facts.class_names.index, named)
            maps = [attribution(model, prediction.image, number, settings.method) for number in numbers]
            title = f"{answer.path.name}: what speaks for and against, by {METHODS[settings.method]}"
            run.save_figure(name, figures.explanation(prediction.image, named, maps, title))
        reason = answer.reading.reason if answer.reading else answer.error
        said[str(answer.path)] = ", ".join(map(str, predictions)) or reason
        log.info("%s: %s", answer.path, said[str(answer.path)])
    run.update(answers=said)
    log.info("saved:  %s", run.folder)
    report_failures(answers)


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
