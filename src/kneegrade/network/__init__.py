"""Knee → GradeLogits: ResNet trunk, feature pooling and grade heads (paper, section 2.1), baselines, ablations."""

from kneegrade.network.model import Attribution, GradeLogits, GradingNetwork, ModelConfig, load_network, model_config_of
from kneegrade.network.pooling import pool_at_landmarks, visible_mean
from kneegrade.network.resnet import Trunk, load_trunk

__all__ = [
    "Attribution",
    "GradeLogits",
    "GradingNetwork",
    "ModelConfig",
    "Trunk",
    "load_network",
    "load_trunk",
    "model_config_of",
    "pool_at_landmarks",
    "visible_mean",
]
