"""Losses for long-tailed classification; needs torch and numpy only."""

from ffds.losses.cross_entropy import WeightedCrossEntropyLoss
from ffds.losses.difficulty import DifficultyBalancedLoss
from ffds.losses.ffds import FFDSLoss
from ffds.losses.focal import FocalLoss
from ffds.losses.gcl import GCLLoss
from ffds.losses.influence_balanced import InfluenceBalancedLoss
from ffds.losses.lade import LADELoss
from ffds.losses.ldam import LDAMLoss
from ffds.losses.logit_adjusted import LogitAdjustedLoss, VSLoss
from ffds.losses.proco import ProCoLoss
from ffds.losses.sigmoid import SigmoidFocalLoss
from ffds.losses.weights import class_balanced_weights, inverse_frequency_weights

__all__ = [
    "DifficultyBalancedLoss",
    "FFDSLoss",
    "FocalLoss",
    "GCLLoss",
    "InfluenceBalancedLoss",
    "LADELoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "ProCoLoss",
    "SigmoidFocalLoss",
    "VSLoss",
    "WeightedCrossEntropyLoss",
    "class_balanced_weights",
    "inverse_frequency_weights",
]
