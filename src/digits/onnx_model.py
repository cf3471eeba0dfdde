"""Networks as ONNX models, with floats or with 8-bit integers."""

import copy
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.model_facts import ModelFacts

if TYPE_CHECKING:
    from onnx import GraphProto
    from torch import Tensor, nn

    from digits.data import DigitsDataModule

BATCH = 500
CALIBRATION_IMAGES = 1000


def to_onnx(network: "nn.Module", facts: ModelFacts, gate: "nn.Module | None" = None) -> bytes:
    """A network as one ONNX model: input `pixels`, uint8 (batch, C, H, W) from 0 to 255; output `logits`.

    With a gate it has another output, `known`: the logit (batch,) of being one of the classes at all. The metadata
    `digits` holds the facts as JSON.

    Args:
        network: from normalised images to logits; it stays as it is.
        facts: about the network.
        gate: a `digits.gate.Gate`, if there is one.
    """
    import onnx_ir.passes.common
    import torch

    for library in ("onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.WARNING)  # at INFO they report each node
    model, pixels = with_example(network, facts, gate)
    program = torch.onnx.export(
        model,
        (pixels,),
        dynamo=True,
        input_names=["pixels"],
        output_names=["logits", "known"] if gate else ["logits"],
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
        f" {len(facts.class_names)}){' and the logit (batch,) of being one of the classes' if gate else ''}. The model"
        " normalises them. The metadata `digits` holds the rest as JSON."
    )
    return program.model_proto.SerializeToString()


def quantized(model: bytes, images: np.ndarray) -> bytes:
    """An ONNX model whose convolutions and linear layers compute with 8-bit integers.

    Static, not dynamic: the ranges of the activations are measured once, on training images. Dynamic quantisation
    needs no images, because it measures the ranges of each image again, but its integer convolutions are 2 to 4 times
    slower on batches than those with floats.

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
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            output,
            Images(),
            # Pooling and addition on integers cost more than they save.
            op_types_to_quantize=["Conv", "Gemm"],
            nodes_to_exclude=sorted(_needed_for(graph, "known") - _needed_for(graph, "logits")),  # the gate is small
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7 bits of weight: sums of 8-bit products overflow on chips without VNNI, and the model may run on one.
            reduce_range=True,
            # Logits beyond those of the images measured would all become the same.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return output.read_bytes()


def _needed_for(graph: "GraphProto", output: str) -> set[str]:
    """The names of the nodes that a value is computed by."""
    found: set[str] = set()
    wanted = {output}
    for node in reversed(graph.node):  # which are in the order in which they are computed
        if wanted.intersection(node.output):
            found.add(node.name)
            wanted.update(node.input)
    return found


def calibration_images(data: "DigitsDataModule") -> np.ndarray:
    """Training images for `quantized`, from all over the set: uint8 (N, C, H, W), N up to 1,000."""
    images = data.splits.train.images
    return images[:: max(1, len(images) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES].numpy()


def with_example(
    network: "nn.Module", facts: ModelFacts, gate: "nn.Module | None" = None
) -> tuple["nn.Module", "Tensor"]:
    """What an exporter needs: the network for raw pixels, in float32, and images of its form to trace it with."""
    import torch

    from digits.networks import Gated, RawPixels

    model: nn.Module = RawPixels(copy.deepcopy(network), facts.mean, facts.std)
    if gate:
        model = Gated(model, copy.deepcopy(gate))
    model = model.float().eval().cpu()
    model.to(memory_format=torch.contiguous_format)  # a .pt2 warns of any other
    # Given one image, the exporter would take that number for fixed.
    return model, torch.zeros(2, facts.channels, facts.image_size, facts.image_size, dtype=torch.uint8)
