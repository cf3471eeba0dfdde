"""Takes a trained network out of the project:  python -m digits.export ckpt_path=.../best.ckpt format=onnx

What leaves takes pixels as files have them, 0 to 255, and normalises them itself (but not a `state_dict`, which is
nothing but weights). Before a file gets its name, it is opened again and compared with the checkpoint on every test
image.
"""

import copy
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from digits.atomic import atomic_write
from digits.command import command
from digits.errors import UserError
from digits.model_facts import ModelFacts
from digits.pictures.reader import load_classifier, onnx_classifier, torch_classifier
from digits.runs.run import newest_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from digits.data import DigitsDataModule

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "state_dict": ".pth"}
FACTS_FILE = "facts.json"  # in a .pt2
BATCH = 500
CALIBRATION_IMAGES = 1000

Logits = Callable[[np.ndarray], np.ndarray]

log = logging.getLogger(__name__)


@command("export", keeps_run=False)
def main(cfg: DictConfig) -> None:
    """Writes a checkpoint's network in another format, once what was written gives the checkpoint's answers."""
    if cfg.format not in SUFFIXES:
        raise UserError(f"format={cfg.format}: there is none. There are: {', '.join(SUFFIXES)}")
    if cfg.quantize and cfg.format != "onnx":
        raise UserError(f"quantize=true: for format=onnx, not {cfg.format}. Leave it out")
    checkpoint_path = Path(str(cfg.ckpt_path)).expanduser() if cfg.ckpt_path else newest_checkpoint(cfg.log_dir)
    output = _output(checkpoint_path, cfg)

    from digits.checkpoints import Checkpoint

    checkpoint = Checkpoint.open(checkpoint_path)
    network, facts = checkpoint.network(), checkpoint.facts
    data = checkpoint.data(root=cfg.data.root)
    log.info("of:      %s, trained on %s", checkpoint_path, facts.dataset)

    with atomic_write(output) as part:
        part.touch()  # a folder that may not be written to shows now, not after the work
        log.info("testing: %s images of %s", f"{data.split_sizes['test']:,}", data.title)
        test = _Test(data.splits.test.images, data.splits.test.target, torch_classifier(network, facts).logits)
        log.info("%-13s %7.2f %%", "checkpoint", 100 * test.accuracy)
        match cfg.format:
            case "onnx":
                model = to_onnx(network, facts)
                if cfg.quantize:
                    test.compare("onnx", onnx_classifier(model, output).logits, len(model))
                    model = quantized(model, calibration_images(data))
                part.write_bytes(model)
                logits = load_classifier(part).logits
            case "torch_export":
                part.write_bytes(to_pt2(network, facts))
                logits = _pt2_logits(part)
            case "state_dict":
                to_pth(network, checkpoint.settings["model"], facts, part)
                logits = _pth_logits(part)
        name = "onnx int8" if cfg.quantize else cfg.format
        test.compare(name, logits, part.stat().st_size, answers_may_differ=cfg.quantize)
    log.info("saved:   %s", output)


def to_onnx(network: "nn.Module", facts: ModelFacts) -> bytes:
    """A network as one ONNX model: input `pixels`, uint8 (batch, C, H, W) from 0 to 255; output `logits`.

    The metadata `digits` holds the facts as JSON.

    Args:
        network: from normalised images to logits; it stays as it is.
        facts: about the network.
    """
    import onnx_ir.passes.common
    import torch

    for library in ("onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.WARNING)  # at INFO they tell of each node
    model, pixels = _with_example(network, facts)
    program = torch.onnx.export(
        model,
        (pixels,),
        dynamo=True,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None  # as it would be without dynamo
    # Each node says where in which file of this machine it comes from.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props["digits"] = facts.to_json()
    size = f"{facts.channels}, {facts.image_size}, {facts.image_size}"
    program.model.doc_string = (
        f"Pixels (batch, {size}) from 0 to 255, in the form of {facts.dataset}, to logits (batch,"
        f" {len(facts.class_names)}). They are normalised in here. The metadata `digits` says the rest as JSON."
    )
    return program.model_proto.SerializeToString()


def quantized(model: bytes, images: np.ndarray) -> bytes:
    """An ONNX model whose convolutions and linear layers compute with 8-bit integers.

    Static, not dynamic: the ranges of the activations are measured once, on training images. Dynamic quantisation,
    which measures them anew for each image, needs no images, but its integer convolutions are slower than those with
    floats (2 to 4 times on batches).

    Args:
        model: as `to_onnx` gives it.
        images: to measure the ranges on, uint8 of shape (N, C, H, W).
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{"pixels": images[i : i + BATCH]} for i in range(0, len(images), BATCH)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, output = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        # The exporter has folded batch norm into the convolutions already.
        quant_pre_process(onnx.load_from_string(model), prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            Images(),
            # Pooling and addition on integers cost more than they save.
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7 bits of weight: sums of 8-bit products overflow on chips without VNNI, and this one may not be the last.
            reduce_range=True,
            # Logits beyond those of the images measured would all become the same.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return output.read_bytes()


def calibration_images(data: "DigitsDataModule") -> np.ndarray:
    """Training images for `quantized`, from all over the set: uint8 (N, C, H, W), N up to 1,000."""
    images = data.splits.train.images
    return images[:: max(1, len(images) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES].numpy()


def to_pt2(network: "nn.Module", facts: ModelFacts) -> bytes:
    """A network as `torch.export.load` opens it, from pixels 0 to 255 to logits; the facts are in its `facts.json`.

    Arguments as for `to_onnx`.
    """
    import torch

    model, pixels = _with_example(network, facts)
    program = torch.export.export(model, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # files of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={FACTS_FILE: facts.to_json()})
    return buffer.getvalue()


def to_pth(network: "nn.Module", model: dict[str, Any], facts: ModelFacts, path: Path) -> None:
    """Writes a network's `state_dict`, in float32; arguments as for `digits.checkpoints.save_state_dict`."""
    from digits.checkpoints import save_state_dict

    save_state_dict(copy.deepcopy(network).float(), model, facts, path)


def _with_example(network: "nn.Module", facts: ModelFacts) -> tuple["nn.Module", "Tensor"]:
    """The network for raw pixels, in float32, and images of its form to follow through it."""
    import torch

    from digits.networks import RawPixels

    model = RawPixels(copy.deepcopy(network), facts.mean, facts.std).float().eval().cpu()
    model.to(memory_format=torch.contiguous_format)  # a .pt2 warns of any other
    # Of one image, the exporter would take the number for fixed.
    return model, torch.zeros(2, facts.channels, facts.image_size, facts.image_size, dtype=torch.uint8)


def _pt2_logits(path: Path) -> Logits:
    import torch

    model = torch.export.load(path).module()

    @torch.inference_mode()
    def logits(images: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(images)).numpy()

    return logits


def _pth_logits(path: Path) -> Logits:
    """Of a new network with the weights in the file."""
    from digits.checkpoints import open_state_dict

    return torch_classifier(*open_state_dict(path)).logits


class _Test:
    """The test images, and what the checkpoint answers to them.

    Args:
        images: uint8 of shape (N, C, H, W).
        target: classes (N,).
        logits: of the checkpoint's network.
    """

    def __init__(self, images: "Tensor", target: "Tensor", logits: Logits) -> None:
        self.images, self.target = images.numpy(), target.numpy()
        self.answers = self._answers(logits)
        self.accuracy = self._accuracy(self.answers)

    def compare(self, name: str, logits: Logits, size: int, answers_may_differ: bool = False) -> None:
        """Says how good a model of so many bytes is, and how far from the checkpoint.

        Raises:
            UserError: if it gives another answer, or, where answers may differ, something that is no number.
        """
        answers = self._answers(logits)
        difference = np.abs(answers - self.answers).max()
        others = int((answers.argmax(axis=1) != self.answers.argmax(axis=1)).sum())
        log.info(
            "%-13s %7.2f %%  %8s kB  other answers: %d  largest difference of a logit: %.2g",
            *(name, 100 * self._accuracy(answers), f"{size / 1000:,.0f}", others, difference),
        )
        if not np.isfinite(difference) or (others and not answers_may_differ):
            raise UserError(
                f"{name}: not saved, because it is not the checkpoint: {others} of {len(self.images):,} test"
                f" images get another answer, logits differ by up to {difference:.2g}. Another format may do better"
            )

    def _answers(self, logits: Logits) -> np.ndarray:
        batches = [self.images[i : i + BATCH] for i in range(0, len(self.images), BATCH)]
        return np.concatenate([logits(batch) for batch in batches])  # (N, num_classes)

    def _accuracy(self, answers: np.ndarray) -> float:
        return float((answers.argmax(axis=1) == self.target).mean())


def _output(checkpoint: Path, cfg: DictConfig) -> Path:
    """Where the export goes.

    Raises:
        UserError: if there is no such folder, or the name does not fit the format.
    """
    suffix = SUFFIXES[cfg.format]
    if cfg.output is None:
        return checkpoint.with_suffix(f".int8{suffix}" if cfg.quantize else suffix)
    output = Path(str(cfg.output)).expanduser()
    if output.is_dir():
        raise UserError(f"output={output}: is a folder. Give a file: output={output / checkpoint.stem}{suffix}")
    if output.suffix != suffix:
        raise UserError(f"output={output}: format={cfg.format} makes a {suffix} file. Give a name that ends so")
    if not output.parent.is_dir():
        raise UserError(f"output={output}: there is no folder {output.parent}. Make it, or give another")
    return output


if __name__ == "__main__":
    main()
