"""Pruning of weights: masks by magnitude, N:M and Wanda, training under them, sparse storage.

Start at `prune_model` (model.py); the rules that choose weights are in masks.py and wanda.py.
"""

from .feature_norms import collect_feature_norms
from .masks import global_masks, magnitude_scores, n_m_mask, unstructured_mask
from .model import PruningReport, prune_model
from .sparse_storage import NMSparseTensor, compress
from .training import MaskedTraining, apply_masks
from .wanda import FeatureNorms, wanda_scores

__all__ = [
    "FeatureNorms",
    "MaskedTraining",
    "NMSparseTensor",
    "PruningReport",
    "apply_masks",
    "collect_feature_norms",
    "compress",
    "global_masks",
    "magnitude_scores",
    "n_m_mask",
    "prune_model",
    "unstructured_mask",
    "wanda_scores",
]
