"""POD: Peng, Sun, Zhang, Tan, Yan, "POD: Practical Object Detection with Scale-Sensitive Network", ICCV 2019, arXiv
1909.02225. A network with learnt global scales (GSL) tells the dilations of a fast one (FD).

    sec. 3.1, fig. 2      Gsl, GslConv, ScalePredictor; `mix` and `deform`, two exact ways to sample
    sec. 3.2, fig. 3      pod_decompose.decompose; Fd, FdConv
    sec. 3.3, fig. 4, 5   FdConv.cut, transfer
    sec. 3.1, 4.1, 4.4    pod_jobs: measuring the scales, both trainings

Shapes: B samples of I images (I = B; in the head of a C4 detector samples are the images' regions of interest), C
channels in and O out, H × W cells in and H' × W' out, S scales: I, or 1 for all samples. All pairs are (h, w).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, softplus
from torchvision.models.resnet import Bottleneck
from torchvision.ops import deform_conv2d

from benchsuite.errors import InputError
from benchsuite.models.detector import Edit, Features
from benchsuite.models.resnet import ResNetFeatures
from benchsuite.models.together import moments
from benchsuite.papers.pod_decompose import Dilations, SubConv

Init: TypeAlias = Literal["near_one", "he"]
Reduce: TypeAlias = Literal["centre", "sum"]
Backend: TypeAlias = Literal["mix", "deform"]
Cell: TypeAlias = tuple[int, int]


def bottlenecks(features: Features) -> dict[str, Bottleneck]:
    """The blocks whose 3×3 (`conv2`) the paper changes: all of conv3, conv4 and conv5 (sec. 3.1), by name: R31 is the
    first block of conv3. InputError for a backbone without bottlenecks of torchvision's."""
    stages = list(features.stages)[2:] if isinstance(features, ResNetFeatures) else []
    found = {
        f"R{stage}{number}": block
        for stage, blocks in enumerate(stages, 3)
        for number, block in enumerate(blocks.children(), 1)
        if isinstance(block, Bottleneck) and isinstance(block.conv2, nn.Conv2d)
    }
    if not found:
        raise InputError(
            "backbone.edits: POD's edits change the 3×3 convolutions of bottlenecks, of which this backbone has none; "
            "use resnet.ResNet with depth 50 or 101"
        )
    return found


# --- section 3.1: the global scale learner


class Gsl(Edit):
    """Every 3×3 of conv3, conv4 and conv5 samples at a learnt scale (sec. 3.1).

    init     how the predictors' weights are drawn: `near_one` N(0, 0.01²), `he` N(0, 2 / C), the paper's word
    backend  how to sample; both are exact, and by default the faster one is chosen batch by batch
    """

    init: Init = "near_one"
    backend: Backend | None = None

    def apply(self, features: Features) -> Sequence[nn.Module]:
        """Replace the convolutions, keeping their weights; the predictors are new."""
        added = []
        for name, block in bottlenecks(features).items():
            block.conv2 = conv = GslConv(block.conv2, name, self.init, self.backend)
            added.append(conv.predictor)
        return added


class GslConv(nn.Module):
    """A 3×3 convolution that samples its input at a scale (d_h, d_w), predicted for each image from the input itself:
    y(p) = Σ_{i,j ∈ {-1,0,1}} w_ij x(s p + (i d_h, j d_w)), bilinear between cells, zero outside the map.

    rois_per_image  in the head of a C4 detector: how many of the samples belong to each image (models.rcnn)
    scales          the scales of the last pass, [I, 2]
    used            how the last pass was computed
    """

    recomputed = True
    no_export = "samples at a scale that it predicts from each picture; export the FD network that is made of it"

    def __init__(self, conv: nn.Conv2d, name: str, init: Init = "near_one", backend: Backend | None = None) -> None:
        super().__init__()
        assert conv.kernel_size == (3, 3) and conv.dilation == (1, 1) and conv.groups == 1 and conv.bias is None
        self.name, self.stride, self.backend = name, (conv.stride[0], conv.stride[1]), backend
        self.weight = conv.weight
        self.predictor = ScalePredictor(conv.in_channels, init)
        self.rois_per_image: list[int] | None = None
        self.scales: Tensor | None = None
        self.used: Backend | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H', W'], whose size does not depend on the scale."""
        scales = self.predictor(x, self.rois_per_image)
        self.scales = scales.detach()
        known = not x.is_meta and (self.backend == "mix" or (self.backend is None and counts_cheaply(x)))
        cells = cells_of(self.scales) if known else []
        self.used = "mix" if known and (self.backend or len(cells) <= MIX_CELLS) else "deform"
        if self.rois_per_image is not None and len(scales) > 1:
            scales = scales[owners(self.rois_per_image, x.device)]
        if self.used == "mix":
            return mix(x, self.weight, scales, self.stride, cells)
        return deform(x, self.weight, scales, self.stride)

    def observe(self) -> dict[str, Tensor]:
        """Mean scale of the last pass, and its deviation over the images."""
        if self.scales is None:
            return {}
        values = torch.cat(moments(self.scales)).unbind()
        return dict(zip(("scale_h", "scale_w", "spread_h", "spread_w"), values, strict=True))


class ScalePredictor(nn.Linear):
    """Global average pooling and a linear layer: the scale (d_h, d_w) of each image (sec. 3.1, fig. 2).

    choice: d = softplus(z + ln(e - 1)), which is positive and 1 for z = 0; the paper says nothing of the range. Weights
    start small, so that scales start near the dilation 1 of the pretrained weights, but not at it: there the bilinear
    gradient is one-sided, and a predictor may never move.
    choice: an image of a C4 head has the mean of its regions' pooled features, and so one scale; 1 without a region.
    choice: padding counts in the mean.
    """

    shift = math.log(math.e - 1)

    def __init__(self, channels: int, init: Init = "near_one") -> None:
        super().__init__(channels, 2)
        if init == "he":
            nn.init.kaiming_normal_(self.weight)
        else:
            nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, rois_per_image: Sequence[int] | None = None) -> Tensor:
        """[B, C, H, W] to [I, 2], in the weights' precision: a rounded scale would be another cell."""
        pooled = x.mean((2, 3), dtype=self.weight.dtype)
        if rois_per_image is not None:
            counts = torch.tensor(rois_per_image, device=x.device).unsqueeze(1)
            sums = pooled.new_zeros(len(counts), pooled.shape[1])
            pooled = sums.index_add(0, owners(rois_per_image, x.device), pooled) / counts.clamp(min=1)
        weight, bias = self.weight, self.bias
        scales = softplus((pooled.unsqueeze(1) * weight).sum(2) + bias + self.shift)  # not autocast, as linear is
        return scales if rois_per_image is None else torch.where(counts > 0, scales, torch.ones_like(scales))

    def fix(self, scale: tuple[float, float]) -> None:
        """Let every image have `scale`, positive."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(torch.tensor(scale, dtype=torch.double).expm1().log() - self.shift)


def owners(rois_per_image: Sequence[int], device: torch.device) -> Tensor:
    """The image of each sample, int64 [B]."""
    counts = torch.tensor(rois_per_image, device=device)
    return torch.repeat_interleave(counts, output_size=sum(rois_per_image))


MIX_CELLS = 8
"""Up to so many cells `mix` is chosen. It takes them one after the other; on a CPU that is 2 to 5 times as fast as
`deform` even where each of 8 samples has a cell of its own (benchmarks/pod.py)."""


def counts_cheaply(x: Tensor) -> bool:
    """Whether scales may be looked at in between; a GPU's host would wait for them at every layer."""
    return x.device.type == "cpu"


def cells_of(scales: Tensor) -> list[Cell]:
    """The distinct (⌊d_h⌋, ⌊d_w⌋) of scales [S, 2]: scales of one cell sample between the same whole dilations."""
    return [(a, b) for a, b in torch.unique(_floor(scales).long(), dim=0).tolist()]


def _floor(scales: Tensor) -> Tensor:
    """Whole parts [S, 2]; what is not a number has 0, for the loss to be none either."""
    return scales.detach().floor().nan_to_num(0).clamp(max=1e6)


def mix(x: Tensor, weight: Tensor, scales: Tensor, stride: Cell, cells: Sequence[Cell]) -> Tensor:
    """The sampling as shifts of the whole map: what each of the nine taps sees is a mean of the map, shifted by the
    whole dilations around the scale and weighted by its fractions; a 1×1 convolution of all nine is the 3×3.

    The same as the weighted mean of four dilated convolutions at a quarter of their products. Exact because taps are at
    -1, 0 and 1 alone: one fraction serves both ends. Scales [S, 2] lie in `cells`.
    """
    if len(cells) == 1:
        return _mix_one(x, weight, scales, stride, cells[0])
    lower = _floor(scales)
    rows = [(lower == lower.new_tensor(cell)).all(1).nonzero().squeeze(1) for cell in cells]
    parts = [_mix_one(x[mine], weight, scales[mine], stride, cell) for mine, cell in zip(rows, cells, strict=True)]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def _mix_one(x: Tensor, weight: Tensor, scales: Tensor, stride: Cell, cell: Cell) -> Tensor:
    f_h, f_w = (scales - scales.new_tensor(cell)).to(x.dtype).view(-1, 2, 1, 1, 1).unbind(1)
    taps = [tap for row in _taps(x, f_h, cell[0], stride[0], 2) for tap in _taps(row, f_w, cell[1], stride[1], 3)]
    return conv2d(torch.cat(taps, dim=1), weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None])


def _taps(x: Tensor, fraction: Tensor, lower: int, stride: int, axis: int) -> list[Tensor]:
    """What the taps -1, 0 and 1 of one direction see: `x` shifted along `axis` by `lower` + `fraction` cells back, not
    at all, and forth, every `stride`-th cell."""
    lower = min(lower, x.shape[axis])  # no tap but the centre sees the map from so far away
    edge = lower + 1
    padded = pad(x, (0, 0, edge, edge) if axis == 2 else (edge, edge))
    count = (x.shape[axis] - 1) // stride * stride + 1

    def shifted(cells: int) -> Tensor:
        window = padded.narrow(axis, edge + cells, count)
        return window[:, :, ::stride] if axis == 2 else window[:, :, :, ::stride]

    back = torch.lerp(shifted(-lower), shifted(-edge), fraction)
    return [back, shifted(0), torch.lerp(shifted(lower), shifted(edge), fraction)]


def deform(x: Tensor, weight: Tensor, scales: Tensor, stride: Cell) -> Tensor:
    """The sampling as a deformable convolution whose offsets are the same everywhere, for any scales [S, 2]."""
    away = (scales - 1).to(weight.dtype).unsqueeze(2) * torch.arange(-1, 2, device=x.device)  # [S, 2, 3]
    dy, dx = away[:, 0, :, None].expand(-1, 3, 3), away[:, 1, None, :].expand(-1, 3, 3)
    height, width = ((side - 1) // step + 1 for side, step in zip(x.shape[2:], stride, strict=True))
    offsets = torch.stack((dy, dx), dim=3).view(-1, 18, 1, 1).expand(len(x), -1, height, width)
    # in full precision: an offset rounded to bf16 is off by up to 1/32 of a cell at scale 8
    y: Tensor = deform_conv2d(x.to(weight.dtype), offsets, weight, stride=stride, padding=1)
    return y.to(x.dtype)


# --- section 3.2: the fast-deployment network


class Fd(Edit):
    """Every 3×3 of conv3, conv4 and conv5 is replaced by the sub-convolutions that its scale was decomposed to.

    dilations  by layer; exactly those of the backbone
    reduce     what a single tap becomes of three: the `centre`, as the paper says, or their `sum`, which keeps what
               a dilation of 0 computes
    """

    dilations: Dilations
    reduce: Reduce = "centre"

    def apply(self, features: Features) -> Sequence[nn.Module]:
        """Replace the convolutions; the new weights are cut from theirs. InputError where they are another's."""
        blocks = bottlenecks(features)
        for name in [*blocks, *self.dilations.layers]:
            if name not in blocks or name not in self.dilations.layers:
                raise InputError(f"dilations: are of another backbone: it has {_listed(self.dilations.layers)}, this "
                                 f"one has {_listed(blocks)}; decompose this detector's own scales")  # fmt: skip
        for name, block in blocks.items():
            parts = self.dilations.layers[name]
            planned, there = sum(part.channels for part in parts), block.conv2.out_channels
            if planned != there:
                raise InputError(f"dilations: {name} has {planned} channels, the backbone {there}; decompose this "
                                 "detector's own scales")  # fmt: skip
            block.conv2 = FdConv(block.conv2, parts, self.reduce)
        return ()


def _listed(layers: Mapping[str, object]) -> str:
    names = list(layers)
    return f"{len(names)} layers, {names[0]} to {names[-1]}" if names else "no layer"


class FdConv(nn.Module):
    """One or two convolutions with integral dilations side by side, lower before upper: the norm after them and all
    later layers see the output channels in their old order."""

    def __init__(self, conv: nn.Conv2d, parts: Sequence[SubConv], reduce: Reduce = "centre") -> None:
        super().__init__()
        self.planned, self.reduce = tuple(parts), reduce
        with torch.device("meta"):  # no weights are drawn
            self.parts = nn.ModuleList(_sub_conv(conv, part) for part in parts)
        for part, weight in zip(self.parts, self.cut(conv.weight.detach()), strict=True):
            part.weight = nn.Parameter(weight.clone(), conv.weight.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, O, H', W']."""
        outputs = [part(x) for part in self.parts]
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]

    def cut(self, weight: Tensor) -> list[Tensor]:
        """The parts of a 3×3 weight [O, C, 3, 3] (sec. 3.3, fig. 4 and 5): the lower part has the first channels, the
        upper one the last; of a direction with one tap it has the centre."""
        cuts = []
        ends = [0]
        for part in self.planned:
            ends.append(ends[-1] + part.channels)
        for part, (first, last) in zip(self.planned, pairwise(ends), strict=True):
            taps = weight[first:last]
            for axis, width in enumerate(part.kernel, 2):
                if width == 1:
                    taps = taps.narrow(axis, 1, 1) if self.reduce == "centre" else taps.sum(axis, keepdim=True)
            cuts.append(taps)
        return cuts


def _sub_conv(conv: nn.Conv2d, part: SubConv) -> nn.Conv2d:
    steps = max(1, part.dilation[0]), max(1, part.dilation[1])
    return nn.Conv2d(
        conv.in_channels, part.channels, part.kernel, (conv.stride[0], conv.stride[1]), part.dilation, steps, bias=False
    )


# --- section 3.3: weight transfer


def transfer(detector: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a GSL or a plain network as the FD network `detector` takes it: 3×3 weights cut, predictors dropped,
    everything else as it is. What does not fit stays in, for strict loading to refuse."""
    mapped = dict(state)
    for path, module in detector.named_modules():
        if isinstance(module, FdConv):
            for name in ("weight", "bias"):
                mapped.pop(f"{path}.predictor.{name}", None)
            if (weight := mapped.pop(f"{path}.weight", None)) is not None:
                mapped |= {f"{path}.parts.{number}.weight": part for number, part in enumerate(module.cut(weight))}
    return mapped
