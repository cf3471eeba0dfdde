"""The ink network as the file that ships: ONNX with weights of 16 bits."""

import numpy as np
import onnx
import onnx_ir.passes.common
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from digits.ink.network import InkNetwork


class _Deployed(nn.Module):
    """With probabilities in place of logits."""

    def __init__(self, network: InkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        ink, cells = self.network(pixels.float())
        middle, rest = cells[:, :1].sigmoid(), cells[:, 1:]
        offset_and_sine, kinds = rest[:, :3], rest[:, 3:].softmax(dim=1)
        return ink.sigmoid()[:, 0], torch.cat([middle, offset_and_sine, kinds], dim=1)


def to_onnx(network: InkNetwork) -> bytes:
    """The network as ONNX, for pictures whose height and width are multiples of 32.

    Input `pixels`: uint8 (1, 3, H, W); outputs `ink` (1, H, W) and `cells` (1, C, H/4, W/4).
    """
    model = _Deployed(network).eval().to(memory_format=torch.contiguous_format)
    program = torch.onnx.export(
        model,
        (torch.zeros(1, 3, 128, 160, dtype=torch.uint8),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["ink", "cells"],
        dynamic_shapes=({2: 32 * torch.export.Dim("rows", min=2), 3: 32 * torch.export.Dim("columns", min=2)},),
        verbose=False,
    )
    assert program is not None  # as it would be without dynamo
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    _halve(proto.graph)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _halve(graph: onnx.GraphProto) -> None:
    """Stores the weights with 16 bits; ONNX Runtime turns them into 32 when it opens the file."""
    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 64:
            name = tensor.name
            graph.initializer.remove(tensor)
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
