"""PADet's encoder and decoder (arXiv 1908.03295, section 3, figure 3). That page of the paper is lost but for its end:
what stood there is a choice, marked as such.

Shapes: E_i, D_i, P_i maps [B, C, H_i, W_i] of the encoder, of the decoder, and of what everything is predicted from.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d
from typing_extensions import override

from benchsuite.errors import InputError
from benchsuite.models.fpn import Levels, Neck
from benchsuite.models.together import several


class EncoderDecoder(Neck):
    """Maps E_1 … E_levels, those of the backbone and what follows them, and a decoder from the coarsest to the finest.

    choice: an extra block of the encoder is CBR1-`squeeze`, CBR3-`extra` of stride 2; a skip connection is
    CBR`lateral`; the last level is the maximum of 2×2 cells without padding, so that 3 become the 1 of sec. 3.3 (`down`
    "every-other" is FPN's, which makes 2 of 3); what goes up and down between levels is D_i, or P_i (`passes`).
    """

    levels: Annotated[int, Field(ge=1)] = 5
    channels: PositiveInt = 256
    squeeze: PositiveInt = 256
    extra: PositiveInt = 512
    lateral: Literal[1, 3] = 1
    down: Literal["max", "every-other"] = "max"
    passes: Literal["D", "P"] = "D"

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
        self.settings = settings
        width, extras = settings.channels, settings.levels - len(channels)
        widths = [*channels, *[settings.extra] * extras]
        self.extras = nn.ModuleList(
            nn.Sequential(cbr(1, before, settings.squeeze), cbr(3, settings.squeeze, settings.extra, stride=2))
            for before in widths[len(channels) - 1 : -1]
        )
        self.laterals = nn.ModuleList(cbr(settings.lateral, each, width) for each in widths)
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
        # From coarse to fine: D_i, then P_i = CBR3(D_i), "following each decoded layer".
        decoded = [self.laterals[-1](encoded[-1])]
        levels = [self.smooth[-2](decoded[0])]
        passed = decoded if self.settings.passes == "D" else levels
        parts = zip(self.laterals[-2::-1], self.ups, self.smooth[-3::-1], encoded[-2::-1], strict=True)
        for lateral, up, smooth, skip in parts:
            # D_i = CBR1(E_i) + CBR1(up(D_{i+1})), bilinear
            raised = interpolate(passed[-1], skip.shape[-2:], mode="bilinear", align_corners=False)
            decoded.append(lateral(skip) + up(raised))
            levels.append(smooth(decoded[-1]))
        return [*reversed(levels), self.smooth[-1](self.down(passed[0]))]

    def down(self, last: Tensor) -> Tensor:
        """The extra level, "directly down-sampling" the last one."""
        if self.settings.down == "every-other":
            halved = last[:, :, ::2, ::2]
        elif min(last.shape[-2:]) < 2:
            raise InputError(f"neck.levels: {self.settings.levels} leave one cell to halve; enlarge the input")
        else:
            halved = max_pool2d(last, 2)
        if self.training and halved.numel() == halved.shape[1] and not several():
            raise InputError("solver.batch: BatchNorm needs more than one image where a map has one cell; raise it")
        return halved


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
