"""Takes a trained network out of the project:  python -m digits.export ckpt_path=.../best.ckpt format=onnx

An exported model takes pixels as files have them, 0 to 255, and normalises them itself (but a `state_dict`, which is
nothing but weights). Before a file gets its name, it is opened again and compared with the checkpoint on every test
image.
"""

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from omegaconf import DictConfig
from pydantic import model_validator

from digits.atomic import atomic_write
from digits.command import command
from digits.errors import UserError
from digits.model_facts import ModelFacts
from digits.onnx_model import BATCH, calibration_images, quantized, to_onnx, with_example
from digits.pictures.reader import Answers, ImageClassifier, load_classifier, onnx_classifier, torch_classifier
from digits.runs.run import newest_checkpoint
from digits.validation import DataPlace, FilePath, Trust, read_settings
from digits.views import TtaSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".pth"}
FACTS_FILE = "facts.json"  # in a .pt2

KNOWN_TOLERANCE = 1e-3  # of the probability of being known

log = logging.getLogger(__name__)


class ExportSettings(TtaSettings):
    """The keys of configs/export.yaml."""

    ckpt_path: FilePath | None
    format: Literal["onnx", "torch_export", "state_dict"]
    quantize: bool
    output: FilePath | None
    data: DataPlace
    trust: Trust
    log_dir: FilePath

    @model_validator(mode="after")
    def _fits_the_format(self) -> Self:
        problem, output, suffix = "", self.output, SUFFIXES[self.format]
        if self.quantize and self.format != "onnx":
            problem = f"quantize=true: for format=onnx, not {self.format}. Leave it out"
        elif self.tta and self.format == "state_dict":
            problem = f"tta={self.tta}: for format=onnx or torch_export; weights alone compute nothing. Leave it out"
        if output and (output.is_dir() or output.suffix != suffix or not output.absolute().parent.is_dir()):
            problem = f"output={output}: give a file that ends with {suffix}, in a folder that exists"
        if problem:
            raise ValueError(problem)
        return self


@command("export", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Writes a checkpoint's network in another format, once what was written gives the checkpoint's answers."""
    settings = read_settings(ExportSettings, cfg)
    suffix = f"{'.tta' if settings.tta else ''}{'.int8' if settings.quantize else ''}{SUFFIXES[settings.format]}"

    from digits.checkpoints import Checkpoint, save_state_dict

    checkpoint = Checkpoint.open(settings.ckpt_path or newest_checkpoint(settings.log_dir), settings.trust)
    output = settings.output or checkpoint.path.with_suffix(suffix)
    facts, gate = checkpoint.facts, checkpoint.gate()
    network = settings.applied(checkpoint.network(), facts)
    data = checkpoint.data(root=settings.data.root and str(settings.data.root))
    log.info("model:   %s, trained on %s", checkpoint.path, facts.dataset)

    with atomic_write(output) as part:
        part.touch()  # a folder without write permission is an error now, not after the work
        log.info("testing: %s images of %s", f"{data.split_sizes['test']:,}", data.title)
        test = _Test(data.splits.test.images, data.splits.test.target, torch_classifier(network, facts, gate=gate))
        log.info("%-13s %7.2f %%", "checkpoint", 100 * test.accuracy)
        match settings.format:
            case "onnx":
                model = to_onnx(network, facts, gate)
                if settings.quantize:
                    test.compare("onnx", onnx_classifier(model), len(model))
                    model = quantized(model, calibration_images(data))
                part.write_bytes(model)
            case "torch_export":
                part.write_bytes(to_pt2(network, facts, gate))
            case "state_dict":
                save_state_dict(network.float(), checkpoint.settings["model"], facts, part, gate)
        if settings.format == "torch_export":
            written = _pt2_classifier(part, facts)
        else:
            written = load_classifier(part, trust=settings.trust)
        name = "onnx int8" if settings.quantize else settings.format
        test.compare(name, written, part.stat().st_size, answers_may_differ=settings.quantize)
    log.info("saved:   %s", output)


def to_pt2(network: "nn.Module", facts: ModelFacts, gate: "nn.Module | None" = None) -> bytes:
    """A network as `torch.export.load` opens it, from pixels 0 to 255 to logits; the facts are in its `facts.json`.

    Arguments as for `to_onnx`. With a gate, it gives two tensors: logits and known.
    """
    import torch

    model, pixels = with_example(network, facts, gate)
    program = torch.export.export(model, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # files of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={FACTS_FILE: facts.to_json()})
    return buffer.getvalue()


def _pt2_classifier(path: Path, facts: ModelFacts) -> ImageClassifier:
    import torch

    model = torch.export.load(path).module()

    def answers_of(output: int) -> Answers:
        @torch.inference_mode()
        def answers(images: np.ndarray) -> np.ndarray:
            found = model(torch.from_numpy(images))
            return (found if isinstance(found, tuple) else (found,))[output].numpy()

        return answers

    return ImageClassifier(answers_of(0), facts, answers_of(1) if facts.reject_below else None)


class _Test:
    """The test images with the checkpoint's answers, to compare exported models with.

    Args:
        images: uint8 of shape (N, C, H, W).
        target: classes (N,).
        checkpoint: answers with the checkpoint's network and gate.
    """

    def __init__(self, images: "Tensor", target: "Tensor", checkpoint: ImageClassifier) -> None:
        self.images, self.target = images.numpy(), target.numpy()
        self.answers, self.known = self._answers(checkpoint.logits), self._answers(checkpoint.known)
        self.accuracy = self._accuracy(self.answers)

    def compare(self, name: str, written: ImageClassifier, size: int, answers_may_differ: bool = False) -> None:
        """Logs the accuracy of a model, its size in bytes and how far its logits are from the checkpoint's.

        Raises:
            UserError: if it gives another answer, or, where answers may differ, logits that are not finite; or if it
                rejects other images.
        """
        answers, known = self._answers(written.logits), self._answers(written.known)
        difference, of_known = np.abs(answers - self.answers).max(), np.abs(known - self.known).max()
        others = int((answers.argmax(axis=1) != self.answers.argmax(axis=1)).sum())
        log.info(
            "%-13s %7.2f %%  %8s kB  other answers: %d  largest difference of a logit: %.2g",
            *(name, 100 * self._accuracy(answers), f"{size / 1000:,.0f}", others, difference),
        )
        if not np.isfinite(difference) or (others and not answers_may_differ) or not of_known < KNOWN_TOLERANCE:
            raise UserError(
                f"{name}: not saved, because it does not compute what the checkpoint does: {others} of"
                f" {len(self.images):,} test images get another answer, logits differ by up to {difference:.2g}, the"
                f" probability of being known by {of_known:.2g}. Try another format"
            )

    def _answers(self, answers: Answers) -> np.ndarray:
        batches = [self.images[i : i + BATCH] for i in range(0, len(self.images), BATCH)]
        return np.concatenate([answers(batch) for batch in batches])  # (N, num_classes) or (N,)

    def _accuracy(self, answers: np.ndarray) -> float:
        return float((answers.argmax(axis=1) == self.target).mean())


if __name__ == "__main__":
    main()
