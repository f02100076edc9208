"""Image classifiers: a backbone, the average over its last map, and one linear layer."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from benchsuite.data.class_batches import ClassBatch
from benchsuite.models import resnet
from benchsuite.models.detector import Backbone, Trainable
from benchsuite.models.normalise import Normalise
from benchsuite.models.together import normaliser
from benchsuite.settings import Settings


class ResNet(resnet.ResNet):
    """torchvision's ResNet for classification: to its last map, and from scratch where no weights are named, which
    then is what the paper does."""

    levels: Annotated[tuple[Literal[2, 3, 4, 5], ...], Field(min_length=1)] = (5,)

    @override
    def deviations(self) -> tuple[str, ...]:
        return ()


class LinearClassifier(Settings):
    """A classifier of any backbone."""

    backbone: Backbone

    def build(self, num_classes: int) -> "Classifier":
        """Build it on torch's default device, weights drawn from the global generator."""
        return Classifier(self, num_classes)


class Classifier(Trainable[ClassBatch]):
    """Built from `LinearClassifier` for K = `num_classes` classes. A backbone that has a `pool` of its own averages its
    map with that."""

    def __init__(self, settings: LinearClassifier, num_classes: int) -> None:
        super().__init__()
        backbone: Any = settings.backbone.build()
        self.backbone = backbone
        self.normalise = Normalise(backbone.mean, backbone.std)
        self.pool = getattr(backbone, "pool", None) or nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, K] of normalised images [B, 3, H, W]."""
        logits: Tensor = self.fc(self.pool(self.backbone(images)[-1]).flatten(1))
        return logits

    def logits(self, batch: ClassBatch) -> Tensor:
        """float32 [B, K]; the labels are not looked at."""
        images = torch.addcmul(self.normalise.shift, batch.images, self.normalise.scale)
        logits: Tensor = self(images)
        return logits.float()

    def losses(self, batch: ClassBatch) -> dict[str, Tensor]:
        """Cross-entropy, averaged over the images."""
        total = functional.cross_entropy(self.logits(batch), batch.labels, reduction="sum")
        return {"cross_entropy": total / normaliser(len(batch.labels))}
