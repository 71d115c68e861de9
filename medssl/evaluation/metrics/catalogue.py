"""What each metric is called, which unit it has, which direction is better and what its worst value is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEADLINE", "METRICS", "MetricInfo", "info_of"]


@dataclass(frozen=True)
class MetricInfo:
    """One metric.

    Attributes:
        name: as in tables and files.
        title: for people.
        unit: ``"mm"``, ``"ml"`` or ``""`` (a share or a coefficient).
        higher_is_better: direction.
        worst: value a failed run counts as; None where it depends on the data (a distance or an error without bound).
        meaning: one clause for the report.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    worst: float | None
    meaning: str


_ALL = (
    MetricInfo("dice", "Dice", "", True, 0.0, "overlap of predicted and reference mask, 1 is perfect"),
    MetricInfo(
        "dice_ed", "Dice, ED", "", True, 0.0, "Dice in the traced frames with the largest outline of their clip"
    ),
    MetricInfo(
        "dice_es", "Dice, ES", "", True, 0.0, "Dice in the traced frames with the smallest outline of their clip"
    ),
    MetricInfo("dice_pooled", "pooled Dice", "", True, 0.0, "Dice over the pixels of all traced frames together"),
    MetricInfo("dice_pooled_ed", "pooled Dice, ED", "", True, 0.0, "the same of the largest outlines"),
    MetricInfo("dice_pooled_es", "pooled Dice, ES", "", True, 0.0, "the same of the smallest outlines"),
    MetricInfo("jaccard", "Jaccard", "", True, 0.0, "what prediction and reference share, of what either has"),
    MetricInfo("dice_oracle", "Dice, oracle", "", True, 0.0, "each object at its own best threshold: an upper bound"),
    MetricInfo("jaccard_oracle", "Jaccard, oracle", "", True, 0.0, "each object at its own best threshold"),
    MetricInfo("dice_best", "Dice, best threshold", "", True, 0.0, "the best one for the test objects: optimistic"),
    MetricInfo("jaccard_best", "Jaccard, best threshold", "", True, 0.0, "the best one for the test objects"),
    MetricInfo("nsd", "NSD", "", True, 0.0, "share of boundary voxels within the tolerance of the other boundary"),
    MetricInfo("hd95_mm", "HD95", "mm", False, None, "95th percentile of boundary distances, worse direction"),
    MetricInfo("masd_mm", "MASD", "mm", False, None, "mean of the two directed mean boundary distances"),
    MetricInfo("volume_error", "volume error", "", False, None, "(predicted − reference volume) / reference volume"),
    MetricInfo("volume_error_ml", "volume error", "ml", False, None, "predicted − reference volume"),
    MetricInfo("area_error", "area error", "", False, None, "(predicted − reference area) / reference area"),
    MetricInfo("macro_f1", "macro-F1", "", True, 0.0, "F1 averaged over the classes that occur in the test patients"),
    MetricInfo("balanced_accuracy", "balanced accuracy", "", True, 0.0, "recall averaged over the classes that occur"),
    MetricInfo("accuracy", "accuracy", "", True, 0.0, "share of cases with the right class"),
    MetricInfo(
        "auroc", "AUROC", "", True, 0.0, "chance that a positive case scores above a negative one; 0.5 is chance"
    ),
    MetricInfo("auprc", "AUPRC", "", True, 0.0, "average precision; chance is the prevalence"),
    MetricInfo("kappa", "κ", "", True, -1.0, "agreement beyond chance (Cohen)"),
    MetricInfo("f1", "F1", "", True, 0.0, "harmonic mean of precision and recall"),
    MetricInfo("recall", "recall", "", True, 0.0, "share of the cases of a class that were found"),
    MetricInfo("ece", "ECE", "", False, 1.0, "mean gap between confidence and accuracy over 15 bins"),
    MetricInfo("brier", "Brier score", "", False, 2.0, "mean squared error of the probabilities"),
    MetricInfo(
        "map", "mAP", "", True, 0.0, "mean average precision: whether items of the class come first in rankings"
    ),
    MetricInfo("recall_at_1", "recall@1", "", True, 0.0, "share of items whose nearest one has their class"),
    MetricInfo("recall_at_5", "recall@5", "", True, 0.0, "share of items with their class among the 5 nearest"),
    MetricInfo("recall_at_10", "recall@10", "", True, 0.0, "share of items with their class among the 10 nearest"),
    MetricInfo("mae", "MAE", "", False, None, "mean absolute error, in the target's unit"),
    MetricInfo("rmse", "RMSE", "", False, None, "root mean squared error, in the target's unit"),
    MetricInfo("r2", "R²", "", True, None, "variance explained beyond always answering the training mean"),
    MetricInfo("pearson", "Pearson r", "", True, -1.0, "linear correlation of prediction and target"),
    MetricInfo("slope", "bias slope", "", False, None, "slope of the error over the target; 0 is unbiased"),
)

METRICS: dict[str, MetricInfo] = {info.name: info for info in _ALL}

HEADLINE: dict[str, str] = {
    "segmentation": "dice", "classification": "macro_f1", "regression": "mae", "retrieval": "map",
}  # fmt: skip
"""The metric on which the claim of a study rests, per task; retrieval is the protocol's."""


def info_of(key: str) -> MetricInfo:
    """The metric behind a key such as ``"dice"`` or ``"dice/1"``; an unknown one is described by its own name.

    >>> info_of("hd95_mm/1").unit
    'mm'
    """
    name = key.partition("/")[0]
    return METRICS.get(name, MetricInfo(name, name, "", True, None, name))
