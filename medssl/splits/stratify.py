"""Which stratum each patient belongs to, for splits and label budgets: from classes, numbers, events or masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medssl.errors import SplitError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from medssl.cohort import Cohort

__all__ = ["patient_strata", "strata"]

Task = Literal["segmentation", "classification", "regression"]
LABEL = "label_"
_TERTILES = ("low", "middle", "high")
_FEW_VALUES = 10


def strata(
    cohort: Cohort, target: str, task: Task | str | None = None, *, patients: Iterable[str] | None = None
) -> dict[str, str]:
    """patient → stratum of every patient that has the target.

    Args:
        cohort: to look in.
        target: a label, a kind of event, or a mask.
        task: says how a numeric label is meant; None decides by its values.
        patients: only these (give the development patients, so that tertiles and rarity are not taken from test
            patients).

    Raises:
        SplitError: nothing of that name in the cohort, or nobody has it.
    """
    manifest = cohort.manifest
    if patients is not None:
        manifest = manifest[manifest["patient"].isin(set(patients))]
    return patient_strata(manifest, cohort.events, target, task)


def patient_strata(
    manifest: pd.DataFrame, events: pd.DataFrame | None, target: str, task: Task | str | None = None
) -> dict[str, str]:
    """patient → stratum, for the patients of ``manifest`` that have the target.

    * classes: the rarest class among the patient's recordings (rarest: had by fewest patients, then fewest times);
    * several labels: the rarest positive one, ``"none"`` where there is none;
    * events (beats): the rarest value that the patient has;
    * numbers: tertile of the patient's mean; masks: tertile of the patient's foreground volume.
    """
    column = LABEL + target
    if column in manifest and task != "segmentation":
        found = _of_label(manifest, column, task)
    elif task != "segmentation" and events is not None and target in set(events["kind"]):
        found = _of_events(manifest, events, target)
    elif any(target in (names if names is not None else ()) for names in manifest.get("masks", ())):
        found = _tertiles(_volumes(manifest, target))
    else:
        raise SplitError(unknown_name("target", target, _targets(manifest, events)))
    if not found:
        raise SplitError(f"no patient has a value of '{target}'; choose another target")
    return found


def _targets(manifest: pd.DataFrame, events: pd.DataFrame | None) -> set[str]:
    labels = {c.removeprefix(LABEL) for c in manifest.columns if c.startswith(LABEL)}
    masks = {m for names in manifest.get("masks", ()) if names is not None for m in names}
    return labels | masks | (set(events["kind"]) if events is not None else set())


def _of_label(manifest: pd.DataFrame, column: str, task: Task | str | None) -> dict[str, str]:
    pairs = [(str(p), v) for p, v in zip(manifest["patient"], manifest[column], strict=True) if not _unknown(v)]
    values = [v for _, v in pairs]
    if any(isinstance(v, list | tuple | np.ndarray) for v in values):
        return _rarest((p, [str(x) for x in v]) for p, v in pairs)
    if _is_number(values, task):
        return _tertiles(_means((p, float(v)) for p, v in pairs))
    return _rarest((p, [_class_name(v)]) for p, v in pairs)


def _unknown(value: Any) -> bool:
    if isinstance(value, list | tuple | np.ndarray):
        return False
    return value is None or value != value  # NaN is not itself


def _is_number(values: list[Any], task: Task | str | None) -> bool:
    if not all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values):
        return False
    if task == "regression":
        return True
    return task != "classification" and len(set(values)) > _FEW_VALUES


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _of_events(manifest: pd.DataFrame, events: pd.DataFrame, kind: str) -> dict[str, str]:
    owner = dict(zip(manifest["recording"], manifest["patient"].astype(str), strict=True))
    chosen = events[(events["kind"] == kind) & events["recording"].isin(owner)]
    counts = chosen.groupby(["recording", "value"], sort=True).size().reset_index(name="n")
    rows = zip(counts["recording"], counts["value"], counts["n"], strict=True)
    return _rarest((owner[recording], [str(value)] * int(n)) for recording, value, n in rows)


def _rarest(pairs: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    has: dict[str, set[str]] = {}
    times: dict[str, int] = {}
    for patient, values in pairs:
        has.setdefault(patient, set()).update(values)
        for value in values:
            times[value] = times.get(value, 0) + 1
    patients = {value: sum(value in own for own in has.values()) for value in times}
    return {
        patient: min(own, key=lambda v: (patients[v], times[v], v)) if own else "none" for patient, own in has.items()
    }


def _means(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for patient, value in pairs:
        values.setdefault(patient, []).append(value)
    return {patient: float(np.mean(own)) for patient, own in values.items()}


def _volumes(manifest: pd.DataFrame, mask: str) -> dict[str, float]:
    """Foreground of each patient in mm³ (voxels where the voxel size is unknown), over all recordings with the mask."""
    total: dict[str, float] = {}
    columns = (manifest["patient"], manifest["masks"], manifest["mask_voxels"], manifest["spacing_mm"])
    for patient, masks, voxels, spacing in zip(*columns, strict=True):
        if masks is None or mask not in list(masks):
            continue
        counts: Mapping[str, Mapping[str, int]] = json.loads(voxels) if isinstance(voxels, str) else voxels
        size = float(np.prod(spacing)) if spacing is not None and len(spacing) else 1.0
        total[str(patient)] = total.get(str(patient), 0.0) + size * sum(counts.get(mask, {}).values())
    return total


def _tertiles(values: Mapping[str, float]) -> dict[str, str]:
    if not values:
        return {}
    edges = np.quantile(list(values.values()), (1 / 3, 2 / 3))
    return {patient: _TERTILES[int(np.searchsorted(edges, value, side="left"))] for patient, value in values.items()}
