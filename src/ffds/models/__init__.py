"""Networks: a backbone that makes features and a head that classifies them."""

from ffds.models.build import Classifier, build_model
from ffds.models.heads import CosineHead, LinearHead
from ffds.models.resnet_cifar import ResNetCifar

__all__ = ["Classifier", "CosineHead", "LinearHead", "ResNetCifar", "build_model"]
