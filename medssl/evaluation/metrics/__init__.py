"""Metrics with one definition each; see ``docs/evaluate.md`` for all of them on one page."""

from medssl.evaluation.metrics.catalogue import METRICS, MetricInfo, info_of
from medssl.evaluation.metrics.classification import (
    classification_metrics,
    confusion_counts,
    expected_calibration_error,
    mean_logit,
    multilabel_metrics,
)
from medssl.evaluation.metrics.regression import regression_metrics
from medssl.evaluation.metrics.segmentation import MetricRow, segmentation_metrics

__all__ = [
    "METRICS",
    "MetricInfo",
    "MetricRow",
    "classification_metrics",
    "confusion_counts",
    "expected_calibration_error",
    "info_of",
    "mean_logit",
    "multilabel_metrics",
    "regression_metrics",
    "segmentation_metrics",
]
