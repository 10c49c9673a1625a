"""Knee → GradeLogits: trunk, pooling, heads; the network of the paper (section 2.1), its baselines and ablations."""

from kneegrade.network.grading import Attribution, GradeLogits, GradingNetwork
from kneegrade.network.plan import NetworkPlan
from kneegrade.network.pooling import pool_at_landmarks
from kneegrade.network.resnet import Trunk, load_trunk

__all__ = [
    "Attribution",
    "GradeLogits",
    "GradingNetwork",
    "NetworkPlan",
    "Trunk",
    "load_trunk",
    "pool_at_landmarks",
]
