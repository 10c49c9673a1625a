"""Knee → GradeLogits: trunk, feature pooling and grade heads (paper, section 2.1), baselines, ablations, ensembles."""

from kneegrade.network.efficientnet import EfficientNetTrunk
from kneegrade.network.ensemble import Ensemble, load_network, load_report_network
from kneegrade.network.evidence import evidence_of
from kneegrade.network.model import Attribution, GradeLogits, GradingNetwork
from kneegrade.network.model_config import ModelConfig, model_config_of
from kneegrade.network.pooling import pool_at_landmarks, visible_mean
from kneegrade.network.resnet import Trunk, load_trunk

__all__ = [
    "Attribution",
    "EfficientNetTrunk",
    "Ensemble",
    "GradeLogits",
    "GradingNetwork",
    "ModelConfig",
    "Trunk",
    "evidence_of",
    "load_network",
    "load_report_network",
    "load_trunk",
    "model_config_of",
    "pool_at_landmarks",
    "visible_mean",
]
