"""Knee → GradeLogits: trunk, pooling, heads; the network of the paper (section 2.1), its baselines and ablations."""

from kneegrade.network.grading import Attribution, GradeLogits, GradingNetwork, load_network, plan_of
from kneegrade.network.plan import NetworkPlan
from kneegrade.network.pooling import pool_at_landmarks, visible_mean
from kneegrade.network.resnet import Trunk, load_trunk

__all__ = [
    "Attribution",
    "GradeLogits",
    "GradingNetwork",
    "NetworkPlan",
    "Trunk",
    "load_network",
    "load_trunk",
    "plan_of",
    "pool_at_landmarks",
    "visible_mean",
]
