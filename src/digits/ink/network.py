"""The ink network: from a picture to the ink on it, the middle of each mark, its kind, and how the lines are turned."""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from digits.ink.marks import SEPARATORS

KINDS = 1 + len(SEPARATORS)
CELL = 4  # pixels: the middles, offsets, kinds and angles are given for cells of this size
OFFSET_UNIT = 32  # pixels of an offset of 1
MULTIPLE = 32  # of which height and width have to be one


class _Block(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        conv = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Block(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class InkNetwork(nn.Module):
    """A U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) that adds its skip connections.

    Args:
        widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 96)) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Block(3, widths[0], 2), _Block(widths[0], widths[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_Block(into, out, 2), _Residual(out)) for into, out in itertools.pairwise(widths)
        )
        self.across = nn.ModuleList(nn.Conv2d(out, into, 1) for into, out in itertools.pairwise(widths))
        self.up = nn.ModuleList(_Block(into, into) for into in widths[:-1])
        self.cells = nn.Sequential(_Block(widths[1], widths[1]), nn.Conv2d(widths[1], 4 + KINDS, 1))
        self.ink = nn.Conv2d(widths[0], 4, 3, padding=1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps pixels (B, 3, H, W) from 0 to 255 to logits of the ink (B, 1, H, W), and cells (B, 4 + KINDS, H/4, W/4).

        The channels of the cells: logit of a middle, offset to the middle across and down, sine of the angle, logits
        of the kinds.
        """
        x = self.stem(pixels / 127.5 - 1)
        levels = [x]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for i in reversed(range(len(self.up))):
            skip = levels[i]
            x = F.interpolate(self.across[i](x), size=skip.shape[2:], mode="nearest")
            x = self.up[i](x + skip)
            if i == 1:
                cells = self.cells(x)
        return F.pixel_shuffle(self.ink(x), 2), cells
