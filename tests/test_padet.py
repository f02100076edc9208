"""PADet's anchors, costs, decoder and aligned features against padet.spec 7 and formulas of the text."""

from typing import Any

import pytest
import torch
from padet_cases import ROWS, SIDE, detector, grid, randomised, settings, squares
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d

from benchsuite.errors import InputError
from benchsuite.models.cost import parameters
from benchsuite.models.default_boxes import DefaultBoxes
from benchsuite.papers.padet import PADet
from benchsuite.papers.padet_alignment import split
from benchsuite.papers.padet_decoder import EncoderDecoder

MAPS384, MAPS512 = (48, 24, 12, 6, 3, 1), (64, 32, 16, 8, 4, 2, 1)
FRAC512 = (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06)
BOXES512 = {"kind": "default_boxes.DefaultBoxes", "scales": FRAC512, "ratios": [[2, 3]] * 5 + [[2]] * 2}
RESNET = {"kind": "resnet.ResNet", "depth": 101}
LARGE: dict[str, Any] = {"neck": {"kind": "padet_decoder.EncoderDecoder", "levels": 6}, "anchors": BOXES512}


# Anchors and costs


@pytest.mark.parametrize(
    ("boxes", "sides", "frame", "levels"),
    [
        (PADet().anchors, MAPS384, 384, [13824, 3456, 864, 216, 36, 4]),
        (DefaultBoxes.model_validate(BOXES512 | {"kind": "default_boxes.DefaultBoxes"}), MAPS512, 512,
         [24576, 6144, 1536, 384, 96, 16, 4]),
    ],
)  # fmt: skip
def test_anchors_of_each_level(boxes: Any, sides: tuple[int, ...], frame: int, levels: list[int]) -> None:
    per_cell = boxes.per_cell(len(sides))
    assert per_cell == (6,) * (len(sides) - 2) + (4, 4)
    assert [side * side * count for side, count in zip(sides, per_cell, strict=True)] == levels
    assert len(grid(boxes, sides, frame)) == sum(levels) == {384: 18_400, 512: 32_756}[frame]


def test_first_and_last_anchors() -> None:
    found = grid(PADet().anchors, MAPS384, 384)
    centres, sides = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    assert centres[:6].flatten().tolist() == pytest.approx([4.0] * 12)
    shapes = [(26.88, 26.88), (39.3483, 39.3483), (38.0141, 19.0070), (19.0070, 38.0141), (46.5575, 15.5192),
              (15.5192, 46.5575)]  # fmt: skip
    assert sides[:6].tolist() == [pytest.approx(shape, abs=1e-3) for shape in shapes]
    assert centres[-4:].flatten().tolist() == pytest.approx([192.0] * 8, abs=1e-3)
    last = [(334.08, 334.08), (367.0164, 367.0164), (472.4605, 236.2302), (236.2302, 472.4605)]
    assert sides[-4:].tolist() == [pytest.approx(shape, abs=1e-2) for shape in last]
    # where levels start: centres of the first cells
    assert [centres[start, 0].item() for start in (0, 13_824, 17_280, 18_144, 18_360, 18_396)] == pytest.approx(
        [384 / side / 2 for side in MAPS384]
    )


@pytest.mark.parametrize(
    ("row", "changes", "classes", "total"),
    [
        ("base", {}, 80, 36_469_216), ("c", {}, 80, 36_542_976), ("r", {}, 80, 36_764_256), ("cr", {}, 80, 36_838_016),
        ("implicit", {}, 80, 37_003_976), ("xl", {}, 80, 36_838_952), ("xs", {}, 80, 36_838_952),
        ("xlxs", {}, 80, 36_839_816), ("full", {}, 80, 36_839_056), ("r-fa", {}, 80, 36_765_296),
        ("full", {}, 20, 32_413_456), ("full", LARGE, 20, 36_109_512), ("full", LARGE, 80, 41_364_912),
        ("full", {"backbone": RESNET}, 80, 64_229_776), ("full", {"backbone": RESNET} | LARGE, 80, 68_755_632),
        ("full", {"alignment": {"kind": "padet.Disentangled", "kernel": 3}}, 80, 36_838_016 + 8_720),
    ],
)  # fmt: skip
def test_parameters(row: str, changes: dict[str, Any], classes: int, total: int) -> None:
    with torch.device("meta"):
        built = PADet.model_validate({"kind": "padet.PADet", **ROWS[row], **changes}).build(classes).eval()
        frame = 512 if "neck" in changes else 384
        assert built.anchor_count(torch.empty(1, 3, frame, frame)) == {384: 18_400, 512: 32_756}[frame]
    assert parameters(built) == total


def test_shapes_at_384() -> None:
    with torch.device("meta"):
        built = PADet.model_validate({"kind": "padet.PADet", **ROWS["full"]}).build(80).eval()
        seen: list[torch.Size] = []
        for head in built.heads:
            if head.fam.offsets is not None:
                head.fam.offsets.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
        found = built(torch.empty(2, 3, 384, 384))
    assert found.p.shape == (2, 18_400) and found.x.shape == found.t.shape == (2, 18_400, 4)
    assert found.c.shape == (2, 18_400, 81) and found.maps == squares(MAPS384)
    assert seen == [(2, 18, side, side) for side in MAPS384[:4]], "not on the last two levels"


# Decoder


def test_decoder_is_its_formula() -> None:
    torch.manual_seed(0)
    neck = EncoderDecoder(levels=4, channels=8, squeeze=6, extra=10).build((5, 7), (8, 16))
    assert neck.channels == (8,) * 5 and neck.strides == (8, 16, 32, 64, 128)
    maps = [torch.randn(2, 5, 20, 12), torch.randn(2, 7, 10, 6)]
    e3 = neck.extras[0](maps[1])
    e4 = neck.extras[1](e3)
    assert e3.shape == (2, 10, 5, 3) and e4.shape == (2, 10, 3, 2)
    raised = None
    decoded: list[Tensor] = []
    for place, encoded in reversed(list(enumerate([*maps, e3, e4]))):
        total = neck.laterals[place](encoded)
        if raised is not None:
            total = total + neck.ups[len(decoded) - 1](interpolate(raised, encoded.shape[2:], mode="bilinear"))
        raised = total
        decoded.insert(0, total)
    decoded.append(max_pool2d(decoded[-1], 2))
    # the norms' running statistics were moved twice, which training does not look at
    for level, smooth, expected in zip(neck(maps), neck.smooth, decoded, strict=True):
        torch.testing.assert_close(level, smooth(expected))


def test_other_readings_of_the_decoder() -> None:
    """Each switch against its formula."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 12, 12), torch.randn(2, 5, 6, 6), torch.randn(2, 5, 3, 3)]

    def built(**changes: Any) -> Any:
        return EncoderDecoder(levels=3, channels=8, **changes).build((5, 5, 5), (8, 16, 32))

    assert built(down="every-other")(maps)[-1].shape[2:] == (2, 2), "FPN's makes 2 cells of 3"
    wide = built(lateral=3)
    assert [conv.kernel_size for conv, *_ in wide.laterals] == [(3, 3)] * 3
    neck = built(passes="P")
    top = neck.smooth[2](neck.laterals[2](maps[2]))
    middle = neck.laterals[1](maps[1]) + neck.ups[0](interpolate(top, (6, 6), mode="bilinear"))
    found = neck(maps)
    torch.testing.assert_close(found[1], neck.smooth[1](middle))
    torch.testing.assert_close(found[3], neck.smooth[3](max_pool2d(top, 2)))


def test_decoder_refuses() -> None:
    with pytest.raises(InputError, match="the backbone alone gives 3; raise it"):
        EncoderDecoder(levels=2).build((8, 8, 8), (8, 16, 32))
    neck = EncoderDecoder(levels=2, channels=4).build((4, 4), (8, 16))
    with pytest.raises(InputError, match="leave one cell to halve; enlarge the input"):
        neck([torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 1, 1)])
    one = [torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 2, 2)]
    with pytest.raises(InputError, match=r"solver\.batch: BatchNorm needs more than one image"):
        neck(one)
    assert len(neck.eval()(one)) == 3


# Feature alignment


def fam(row: str = "full") -> Any:
    return detector(row).heads[0].fam


@pytest.mark.parametrize("row", ["implicit", "xl", "xs", "xlxs", "full"])
def test_fam_starts_as_a_convolution(row: str) -> None:
    unit = fam(row).eval()
    features, adjusted = torch.randn(2, 8, 9, 7), torch.randn(2, 24, 9, 7)
    expected = unit.norm(conv2d(features, unit.conv.weight, padding=1)).relu()
    torch.testing.assert_close(unit(features, adjusted), expected, rtol=1e-4, atol=1e-4)
    assert not any(parameter.any() for parameter in unit.offsets.parameters())


def test_a_constant_offset_moves_by_a_cell() -> None:
    """c = (dy, dx) = (1, 0): interior rows equal the plain output one row lower."""
    unit = fam().eval()
    with torch.no_grad():
        unit.offsets.location.bias.copy_(torch.tensor([1.0, 0.0]))
    features = torch.randn(1, 8, 9, 9)
    plain = unit.norm(conv2d(features, unit.conv.weight, padding=1)).relu()
    moved = unit(features, torch.zeros(1, 24, 9, 9))
    torch.testing.assert_close(moved[:, :, 1:-2], plain[:, :, 2:-1], rtol=1e-4, atol=1e-4)


def test_disentangled_offsets_are_c_for_every_point_and_the_rest() -> None:
    offsets = randomised(fam().offsets)
    adjusted = torch.randn(2, 24, 5, 4)
    location, shape = split(adjusted, offsets.detach)
    found = offsets(torch.empty(0), adjusted).view(2, 9, 2, 5, 4)
    rest = offsets.shape(shape).view(2, 9, 2, 5, 4)
    for point in range(9):
        torch.testing.assert_close(found[:, point] - rest[:, point], offsets.location(location))


def test_what_each_source_reads() -> None:
    """X_l is dx, dy of every anchor, X_s dw, dh; as a loop over anchors reads them."""
    torch.manual_seed(0)
    features, adjusted = torch.randn(1, 8, 3, 3), torch.randn(1, 24, 3, 3)
    location = torch.stack([adjusted[:, 4 * anchor + d] for anchor in range(6) for d in (0, 1)], dim=1)
    shape = torch.stack([adjusted[:, 4 * anchor + d] for anchor in range(6) for d in (2, 3)], dim=1)
    read = {"xl": location, "xs": shape, "xlxs": torch.cat((location, shape), 1), "implicit": features}
    for row, expected in read.items():
        offsets = randomised(fam(row).offsets)
        torch.testing.assert_close(offsets(features, adjusted), offsets.conv(expected))
        assert offsets.conv.in_channels == expected.shape[1] and offsets.conv.out_channels == 18


@pytest.mark.parametrize("row", ["xl", "xs", "xlxs", "full"])
def test_gradients_through_offsets(row: str) -> None:
    """Convolutions at zero pass none to X_l and X_s but learn themselves; later both; none with `detach`."""

    def gradients(unit: Any) -> tuple[float, float]:
        torch.manual_seed(3)
        adjusted = torch.randn(2, 24, 6, 6, requires_grad=True)
        (unit(torch.randn(2, 8, 6, 6), adjusted) * torch.randn(2, 8, 6, 6)).sum().backward()
        learnt = sum(parameter.grad.abs().sum().item() for parameter in unit.offsets.parameters())
        return 0.0 if adjusted.grad is None else adjusted.grad.abs().sum().item(), learnt

    passed, learnt = gradients(fam(row))
    assert passed == 0 and learnt > 0
    unit = fam(row)
    randomised(unit.offsets)
    assert min(gradients(unit)) > 0
    detached = detector(row, alignment={**ROWS[row]["alignment"], "detach": True}).heads[0].fam
    randomised(detached.offsets)
    passed, learnt = gradients(detached)
    assert passed == 0 and learnt > 0


def test_other_readings_of_apm_and_offsets() -> None:
    """A prior, shared APMs, offsets that do not start at 0, clipped anchors."""
    rare = detector("cr", scoring={"prior": 0.01})
    assert all(apm.score.bias.sigmoid().sub(0.01).abs().max() < 1e-6 for apm in rare.apms)
    shared, own = detector("cr", apm_shared=True), detector("cr")
    assert len({id(apm) for apm in shared.apms}) == 2, "one for six anchors a cell, one for four"
    assert parameters(own) - parameters(shared) == (8 * 9 + 1) * 5 * (6 + 4)
    assert fam("full").offsets.shape.weight.abs().max() == 0
    random = detector("full", alignment={"kind": "padet.Disentangled", "std": 0.01}).heads[0].fam
    assert 0 < random.offsets.shape.weight.std() < 0.02
    base = settings("base").anchors
    clipped = grid(base.model_copy(update={"clip": True}), (8, 4, 2, 1), SIDE)
    assert torch.equal(clipped, grid(base, (8, 4, 2, 1), SIDE).clamp(0, SIDE))


def test_without_alignment_the_same_convolution_or_none() -> None:
    plain, without = detector("cr"), detector("cr", unaligned="identity")
    assert all(head.fam.offsets is None for head in plain.heads)
    assert all(head.fam is None for head in without.heads)
    partly = detector("full", unaligned="identity")
    assert [head.fam is not None for head in partly.heads] == [True, True, False, False]
    everywhere = detector("full", unaligned_levels=0)
    assert all(head.fam.offsets is not None for head in everywhere.heads)


def test_rows_start_from_the_same_weights() -> None:
    base = detector("base").state_dict()
    for row in ROWS:
        other = detector(row).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in base.items()), row
