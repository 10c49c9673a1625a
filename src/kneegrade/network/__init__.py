"""Knee → GradeLogits: trunk, keypoint pooling and the network of the paper (section 2.1)."""

from kneegrade.network.kpn import Attribution, GradeLogits, KeypointPoolingNetwork
from kneegrade.network.pooling import pool_at_landmarks
from kneegrade.network.resnet import Trunk, load_trunk

__all__ = ["Attribution", "GradeLogits", "KeypointPoolingNetwork", "Trunk", "load_trunk", "pool_at_landmarks"]
