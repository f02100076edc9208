"""Detectors in fixed shapes and as ONNX files (POD, section 1: "fixed and integral grid sampling locations")."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pod_cases import Tiny, statistics
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, nms

from benchsuite.data.batch import Batch
from benchsuite.engine.store import Store
from benchsuite.errors import InputError
from benchsuite.models.detector import Detector, Edit
from benchsuite.models.fpn import Fpn, PooledFpn
from benchsuite.models.nms import grouped_nms
from benchsuite.models.postprocess import Candidates, Hard, PostProcess, Soft, Voting
from benchsuite.models.rcnn import FasterRcnn, FasterRcnnC4
from benchsuite.models.retinanet import Head, RetinaNet
from benchsuite.models.static import Static
from benchsuite.papers.pod import Fd, Gsl
from benchsuite.papers.pod_decompose import Dilations, decompose
from benchsuite.recipe.loading import select
from benchsuite.verbs.export import Discrepancy, Exported, check, discrepancy, export, write
from benchsuite.verbs.plan import make_plan
from benchsuite.verbs.summaries import print_export

FRAME = 64, 96
POST = PostProcess(score_threshold=0.05, per_level=60, per_image=15)
FD = Fd(dilations=Dilations(layers={
    "R31": decompose(0.46, 1.7, 16), "R41": decompose(1.7, 2.9, 32), "R51": decompose(2.02, 0.98, 64)
}))  # fmt: skip


def detector(kind: str, edit: Edit = FD) -> Detector:
    """With scores spread over the classes and boxes near their anchors, as a trained one has."""
    torch.manual_seed(0)
    few = {"before_nms": 40, "after_nms": 20}
    network: Any
    if kind == "retinanet":
        network = RetinaNet(backbone=Tiny(edits=(edit,)), neck=Fpn(channels=8), head=Head(channels=8, depth=1)).build(3)
        nn.init.zeros_(network.head.cls_logits.bias)
        nn.init.normal_(network.head.cls_logits.weight)
    elif kind == "c4":
        network = FasterRcnnC4.model_validate({"backbone": Tiny(levels=(4, 5), edits=(edit,)), "rpn": {"test": few}})
    else:
        network = FasterRcnn.model_validate({
            "backbone": Tiny(levels=(2, 3, 4, 5), edits=(edit,)), "neck": PooledFpn(channels=8), "hidden": 16,
            "rpn": {"test": few},
        })  # fmt: skip
    if kind != "retinanet":
        network = network.build(3)
        nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=1e-3 if kind == "c4" else 0.1)
        nn.init.normal_(network.rpn.head.cls_logits.weight, std=0.01)
    statistics(network)
    return network  # type: ignore[no-any-return]  # of settings typed above


def pictures() -> list[tuple[Tensor, Tensor]]:
    """One that fills the frame and one that does not."""
    images = torch.randint(256, (2, 1, 3, *FRAME), dtype=torch.uint8)
    images[1, :, :, 50:] = 0
    return [(images[0], torch.tensor([[64, 96]])), (images[1], torch.tensor([[50, 80]]))]


LIMITS = [{"per_level": 60}, {"per_level": None, "per_class": 40}, {"per_class": 7}]


@pytest.mark.parametrize("exporting", [False, True], ids=["eager", "exporting"])
@pytest.mark.parametrize("limits", LIMITS, ids=["level", "class", "both"])
@pytest.mark.parametrize("kind", ["retinanet", "c4", "fpn"])
def test_fixed_shapes_find_what_the_detector_finds(
    kind: str, limits: dict[str, int | None], exporting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as an exporter goes through: with RoIs that are no proposals."""
    post = POST.model_copy(update=limits)
    network = Static(detector(kind), post, FRAME, 3)
    for image, size in pictures():
        with torch.inference_mode():
            theirs = network.detect(image, size)
            monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
            mine = network(image, size)
            monkeypatch.undo()
        real = theirs[2] >= 0
        assert real.any() and mine[0].shape == theirs[0].shape
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert discrepancy(theirs, mine, post).boxes_px < 1e-5


class Fixed(Detector):
    """A user's own detector: two boxes, whatever it sees."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError  # it only detects here

    def candidates(self, batch: Batch, post: PostProcess) -> Candidates:
        shift = batch.images.float().mean((1, 2, 3)) * 0
        boxes = torch.tensor([[1.0, 2, 30, 40], [2, 2, 30, 40]]) + shift.view(-1, 1, 1)
        return Candidates(boxes, torch.tensor([[0.5, 0.75]]) + shift.view(-1, 1), torch.tensor([[1, 1]]))


def test_any_detector_is_exported_by_its_candidates(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason=f"{module} is not installed (benchsuite[export])")
    network = Static(Fixed(), POST, FRAME, 2)
    write(network, FRAME, tmp_path / "model.onnx")
    found = check(network, tmp_path / "model.onnx", pictures())
    assert (found.detections, found.boxes_px, found.scores) == (2, 0, 0), "one of each picture is left"


def test_nms_by_groups() -> None:
    torch.manual_seed(0)
    corners = 20 * torch.rand(40, 2)
    boxes, scores, groups = torch.cat((corners, corners + 15), 1), torch.rand(40), torch.randint(3, (40,))
    expected = set()
    for group in range(3):
        mine = ((groups == group) & (scores > 0.3)).nonzero().squeeze(1)
        expected |= set(mine[nms(boxes[mine], scores[mine], 0.5)].tolist())
    assert set(grouped_nms(boxes, scores, groups, 3, 0.5, 0.3).tolist()) == expected


@pytest.mark.parametrize(
    "kind", ["retinanet", pytest.param("c4", marks=pytest.mark.slow), pytest.param("fpn", marks=pytest.mark.slow)]
)
def test_a_file_of_standard_operators(kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (benchsuite[export])")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (benchsuite[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (benchsuite[export])")
    network = Static(detector(kind), POST, FRAME, 3)
    operators = write(network, FRAME, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert not [name for name in operators if "Deform" in name or "GridSample" in name]
    assert operators["NonMaxSuppression"] == (1 if kind == "retinanet" else 2)
    dilations = {tuple(attribute.ints) for node in model.graph.node if node.op_type == "Conv"
                 for attribute in node.attribute if attribute.name == "dilations"}  # fmt: skip
    assert {(1, 2), (2, 3), (2, 1)} <= dilations, "of the plan"
    found = check(network, tmp_path / "model.onnx", pictures())
    assert found.pictures == 2 and found.detections > 5
    assert found.boxes_px < 1e-3 and found.scores < 1e-4


# --- how two lists of detections are held against each other

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [0, 0, 0, 0]])
FOUND = BOXES, torch.tensor([0.9, 0.8, 0.7, 0.0]), torch.tensor([0, 1, 0, -1])


def test_agreement() -> None:
    assert discrepancy(FOUND, FOUND, POST) == Discrepancy(1, 3, 0.0, 0.0)
    swapped = tuple(part[torch.tensor([1, 0, 2, 3])] for part in FOUND)
    found = discrepancy(FOUND, (swapped[0], swapped[1], swapped[2]), POST)
    assert (found.detections, found.boxes_px, found.scores) == (3, 0.0, 0.0), "whatever their order"
    moved = (BOXES + torch.tensor([0.25, 0, 0, 0]), FOUND[1] + 1e-3, FOUND[2])
    assert discrepancy(FOUND, moved, POST).boxes_px == pytest.approx(0.25)
    assert discrepancy(FOUND, moved, POST).scores == pytest.approx(1e-3, rel=1e-3)


def test_what_is_missing_is_infinitely_far() -> None:
    other_class = (FOUND[0], FOUND[1], torch.tensor([2, 1, 0, -1]))
    for pair in ((FOUND, other_class), (other_class, FOUND)):
        assert discrepancy(*pair, POST).boxes_px == torch.inf
    low = (FOUND[0], torch.tensor([0.9, 0.05005, 0.7, 0.0]), FOUND[2])
    cut = (FOUND[0], torch.tensor([0.9, 0.0, 0.7, 0.0]), torch.tensor([0, -1, 0, -1]))
    found = discrepancy(low, cut, POST)
    assert (found.boxes_px, found.detections) == (0, 2), "but not at the threshold"


def test_detections_of_nearly_one_score_are_compared() -> None:
    equal = (FOUND[0][:3], torch.tensor([0.5, 0.5, 0.5]), FOUND[2][:3])
    assert discrepancy(equal, equal, POST) == Discrepancy(1, 3, 0.0, 0.0)
    moved = (equal[0] + 1e-4, equal[1], equal[2])
    assert discrepancy(equal, moved, POST).boxes_px == pytest.approx(1e-4, rel=0.1)


# --- bad input, one line each


def test_refuses_gsl_networks() -> None:
    with pytest.raises(InputError, match="predicts from each picture; export the FD network") as raised:
        Static(detector("retinanet", Gsl()), POST, FRAME, 3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("post", [PostProcess(nms=Soft()), PostProcess(nms=Hard(), vote=Voting())])
def test_refuses_what_has_no_fixed_shapes(post: PostProcess) -> None:
    with pytest.raises(InputError, match="only hard NMS without voting"):
        Static(detector("retinanet"), post, FRAME, 3)


def test_refuses_operators_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed (benchsuite[export])")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (benchsuite[export])")

    class Deforming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = DeformConv2d(3, 2, 3, padding=1)

        def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            offsets = image.new_zeros(1, 18, *FRAME, dtype=torch.float)
            return self.conv(image.float(), offsets), size, size

    with pytest.raises(InputError, match="export: has ") as raised:
        write(Deforming(), FRAME, tmp_path / "model.onnx")  # type: ignore[arg-type]
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("pod-table2/retina-50-fd", "was not run at tier smoke"),
        ("har-table4/resnet-50-ha-ms", "tested in several sizes"),
    ],
)
def test_refuses_rows(row: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason=f"{module} is not installed (benchsuite[export])")
    monkeypatch.chdir(tmp_path)
    recipe, _, name = row.partition("/")
    plan = make_plan(select([recipe]), "smoke", rows=[name])
    with pytest.raises(InputError, match=told):
        export(plan, Store(tmp_path / "runs"), tmp_path / "model.onnx", 1)


def test_says_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    plan = make_plan(select(["pod-table2"]), "smoke", rows=["retina-50-fd"])
    with pytest.raises(InputError, match=r"needs onnx; install it with: pip install 'benchsuite\[export\]'"):
        export(plan, Store(tmp_path / "runs"), tmp_path / "model.onnx", 1)


@pytest.mark.parametrize(
    ("detections", "told"), [(7, "scores within 1e-07 of torch's"), (0, "nothing to hold against")]
)
def test_agreement_over_nothing_is_not_called_one(
    detections: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_export(Exported("model.onnx", (96, 128), {"Conv": 3}, 4, detections, 2e-5, 1e-7))
    assert told in " ".join(capsys.readouterr().out.split())
