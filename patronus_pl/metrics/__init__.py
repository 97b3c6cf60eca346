"""Numbers that say how good a model is: pure functions on arrays, and torchmetrics where states add up over ranks."""

from patronus_pl.metrics.cache import cached_arrays
from patronus_pl.metrics.classifier import ClassifierFeatures, SmallCNN
from patronus_pl.metrics.disentanglement import DCI, dci
from patronus_pl.metrics.features import (
    InceptionFeatures,
    RandomFeatures,
    distance_name,
    extract_features,
    network_hash,
)
from patronus_pl.metrics.frechet import (
    FeatureStatistics,
    FrechetDistance,
    feature_statistics,
    frechet_distance,
    statistics_distance,
)
from patronus_pl.metrics.image_sets import inception_score, kernel_distance, precision_recall
from patronus_pl.metrics.localisation import PointingGame, pointing_game
from patronus_pl.metrics.probe import LinearProbe, linear_probe, logistic_weights
from patronus_pl.metrics.ranking import auroc
from patronus_pl.metrics.reconstruction import load_lpips, lpips, mean_image_error, mse, psnr, ssim
from patronus_pl.metrics.tables import mean_and_std
from patronus_pl.metrics.tad import TotalAurocDifference, explained_entropy, total_auroc_difference
from patronus_pl.metrics.two_sample import two_sample_auc
from patronus_pl.metrics.weights import WeightsNotFoundError

__all__ = [
    "DCI",
    "ClassifierFeatures",
    "FeatureStatistics",
    "FrechetDistance",
    "InceptionFeatures",
    "LinearProbe",
    "PointingGame",
    "RandomFeatures",
    "SmallCNN",
    "TotalAurocDifference",
    "WeightsNotFoundError",
    "auroc",
    "cached_arrays",
    "dci",
    "distance_name",
    "explained_entropy",
    "extract_features",
    "feature_statistics",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "linear_probe",
    "load_lpips",
    "logistic_weights",
    "lpips",
    "mean_and_std",
    "mean_image_error",
    "mse",
    "network_hash",
    "pointing_game",
    "precision_recall",
    "psnr",
    "ssim",
    "statistics_distance",
    "total_auroc_difference",
    "two_sample_auc",
]
