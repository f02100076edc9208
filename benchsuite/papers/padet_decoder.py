"""PADet's encoder and decoder (arXiv 1908.03295, section 3, figure 3). That page of the paper is lost but for its end:
what stood there is a choice, marked as such.

Shapes: E_i, D_i, P_i maps [B, C, H_i, W_i] of the encoder, of the decoder, and of what everything is predicted from.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from typing_extensions import override

from benchsuite.errors import InputError
from benchsuite.models.fpn import Levels, Neck


class EncoderDecoder(Neck):
    """Maps E_1 … E_levels, those of the backbone and what follows them, and a decoder from the coarsest to the finest.

    choice: an extra block of the encoder is CBR1-`squeeze`, CBR3-`extra` of stride 2.
    """

    levels: Annotated[int, Field(ge=1)] = 5
    channels: PositiveInt = 256
    squeeze: PositiveInt = 256
    extra: PositiveInt = 512

    @override
    def build(self, channels: Sequence[int], strides: Sequence[int]) -> "Decoder":
        """Build it. InputError where the backbone has more maps than the encoder is to have."""
        if len(channels) > self.levels:
            raise InputError(f"neck.levels: {self.levels}, but the backbone alone gives {len(channels)}; raise it")
        return Decoder(self, channels, strides)


class Decoder(Levels):
    """P_1 … P_levels, and one more of half the last one's size."""

    def __init__(self, settings: EncoderDecoder, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        width, extras = settings.channels, settings.levels - len(channels)
        widths = [*channels, *[settings.extra] * extras]
        self.extras = nn.ModuleList(
            nn.Sequential(cbr(1, before, settings.squeeze), cbr(3, settings.squeeze, settings.extra, stride=2))
            for before in widths[len(channels) - 1 : -1]
        )
        # choice: CBR1 for every skip connection ("each … takes the same structure").
        self.laterals = nn.ModuleList(cbr(1, each, width) for each in widths)
        self.ups = nn.ModuleList(cbr(1, width, width) for _ in widths[1:])
        self.smooth = nn.ModuleList(cbr(3, width, width) for _ in range(settings.levels + 1))
        self.channels = (width,) * (settings.levels + 1)
        self.strides = (*strides, *(strides[-1] << step for step in range(1, extras + 2)))

    @override
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """P_i [B, `channels`, H_i, W_i]. InputError where the last map has a single cell: it cannot be halved."""
        encoded = list(maps)
        for block in self.extras:
            encoded.append(block(encoded[-1]))
        decoded = [self.laterals[-1](encoded[-1])]
        for lateral, up, skip in zip(self.laterals[-2::-1], self.ups, encoded[-2::-1], strict=True):
            # D_i = CBR1(E_i) + CBR1(up(D_{i+1})), bilinear
            raised = interpolate(decoded[0], skip.shape[-2:], mode="bilinear", align_corners=False)
            decoded.insert(0, lateral(skip) + up(raised))
        # "directly down-sampling": choice: 2×2 maximum without padding, so that 3 cells become the 1 of sec. 3.3.
        if min(decoded[-1].shape[-2:]) < 2:
            raise InputError(f"neck.levels: {len(decoded)} leave a map of one cell to halve; enlarge the input")
        decoded.append(max_pool2d(decoded[-1], 2))
        if self.training and decoded[-1].numel() == decoded[-1].shape[1]:
            raise InputError("solver.batch: BatchNorm needs more than one image where a map has one cell; raise it")
        # choice: up- and downsampling take D_i; "a CBR3 following each decoded layer" makes P_i.
        return [smooth(level) for smooth, level in zip(self.smooth, decoded, strict=True)]


def cbr(kernel: int, in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    """CBRk-n: a k×k convolution with n channels, BatchNorm, ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(msra(conv), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def msra(conv: nn.Conv2d) -> nn.Conv2d:
    """He et al.'s initial weights, N(0, 2 / fan in) (sec. 3.3 "Training")."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
