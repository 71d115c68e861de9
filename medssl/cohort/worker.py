"""What one worker does with one item: read, prepare, write; or only read, for a dry run."""

from __future__ import annotations

import functools
import json
import os
import shutil
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Recording
from medssl.cohort.manifest import event_rows, manifest_row, scalar_labels
from medssl.cohort.preparation import Preparation, Prepared
from medssl.cohort.pseudonyms import Pseudonyms
from medssl.cohort.recipe import Item, Recipe, load_recipe, recipe_class
from medssl.cohort.store import Profile, array_sha256, replace_folder, write_group, write_recording
from medssl.configurable import build
from medssl.errors import MedSSLError, UnreadableRecording

__all__ = ["WORK", "Job", "Outcome", "inspect_item", "prepare_item", "staged_file"]

WORK = ".prepare"
"""Folder inside the cohort where a run keeps its journal and unfinished arrays."""

SHORT_S = 20.0
_SLAB_VALUES = 1 << 22

Outcome = dict[str, Any]
"""Plain data about one item: ``rows`` (manifest rows with ids, ``events`` and ``statistics``), ``rejected``
([source, reason] pairs) and ``crashed`` (True when the reason is a fault that may not occur again)."""


@dataclass(frozen=True)
class Job:
    """What all items of one ``prepare`` have in common; sent to every worker.

    Attributes:
        recipe: shipped name, or path of the user's own file.
        options: of the recipe. preparation: specification of the preparation, overrides applied.
        cohort: folder to write.
        pseudonyms: of ids.
        profile: compression.
    """

    recipe: str
    options: str
    preparation: str
    cohort: str
    pseudonyms: Pseudonyms
    profile: Profile = "fast"

    @classmethod
    def of(cls, recipe: str, options: Mapping[str, Any], preparation: Mapping[str, Any], **rest: Any) -> Job:
        """A job from mappings (kept as JSON, so that a job can be hashed and sent)."""
        return cls(recipe, json.dumps(options, default=str), json.dumps(preparation), **rest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with suppress(Exception):  # told where the recipe is used
            recipe_class(_file(self.recipe))  # items that come with the job may be of a class of the recipe's file


def _file(recipe: str) -> str | Path:
    return Path(recipe) if recipe.endswith(".py") else recipe


@functools.lru_cache(maxsize=4)
def _tools(recipe: str, options: str, preparation: str) -> tuple[Recipe, Preparation]:
    loaded = load_recipe(_file(recipe), json.loads(options))
    loaded.preparation()  # imports the class, so that build() finds it
    return loaded, build(json.loads(preparation), Preparation)  # type: ignore[type-abstract]


def staged_file(cohort: Path, name: str) -> Path:
    """Where a short record waits to be packed."""
    return cohort / WORK / "staged" / f"{name}.npy"


def prepare_item(job: Job, item: Item, name: str) -> Outcome:
    """Read, prepare and write all recordings of one item; any fault of the input becomes a rejection.

    Args:
        job: settings.
        item: what to read.
        name: of the folder in ``arrays/`` that this item, and no other, writes.

    Raises:
        OSError, ValueError: the cohort cannot be written (no space, no permission): no fault of the input.
    """
    try:
        recordings, rejected = _read(job, item)
    except Exception as error:
        return _refusal(item, error)
    temporary = Path(job.cohort) / WORK / "tmp" / f"{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    rows: list[dict[str, Any]] = []
    recipe, preparation = _tools(job.recipe, job.options, job.preparation)
    for index, recording in enumerate(recordings, start=1):
        try:
            prepared = _checked(preparation(recording))
        except Exception as error:
            refusal = _refusal(item, error)
            if refusal["crashed"]:  # the whole item is tried again by the next call
                shutil.rmtree(temporary, ignore_errors=True)
                return refusal
            rejected += refusal["rejected"]
            continue
        place = f"{name}/{index}" if len(recordings) > 1 else name
        row = manifest_row(recording, prepared, modality=recipe.modality or recipe.kind) | _id_columns(job, recording)
        row |= _checksums(prepared) | {"statistics": _statistics(prepared)}
        row |= {"notes": _anonymous(job, item, recording, prepared.notes)}
        row |= {"events": event_rows(prepared.events, row["recording"])}
        rows.append(row | _write(job, prepared, place, temporary, grouped=len(recordings) > 1))
    if temporary.exists():
        replace_folder(temporary, Path(job.cohort) / "arrays" / name)
    return {"rows": rows, "rejected": rejected, "crashed": False}


def inspect_item(job: Job, item: Item, name: str) -> Outcome:
    """Read one item and say what it holds; nothing is prepared or written."""
    try:
        recordings, refused = _read(job, item)
    except Exception as error:
        return _refusal(item, error)
    rows = []
    for recording in recordings:
        row: dict[str, Any] = {
            "axes": recording.axes,
            "shape": list(recording.data.shape),
            "channels": list(recording.channels),
        }
        row |= {"spacing_mm": recording.spacing_mm, "rate_hz": recording.rate_hz, "units": list(recording.units)}
        row |= {"site": recording.site, "scanner": recording.scanner, "notes": list(recording.notes)}
        row |= {
            "masks": sorted(item.masks),
            "n_events": len(recording.events),
            "source_sha256": recording.source_sha256,
        }
        rows.append(row | {"labels": scalar_labels(recording.labels)} | _id_columns(job, recording))
    return {"rows": rows, "rejected": refused, "crashed": False}


def _read(job: Job, item: Item) -> tuple[list[Recording], list[list[str]]]:
    recipe = _tools(job.recipe, job.options, job.preparation)[0]
    read = recipe.read(item)
    recordings = [_completed(recording, item) for recording in read.recordings]
    names = [recording.ids.recording for recording in recordings]
    if len(set(names)) < len(names):
        numbered = enumerate(recordings, start=1)
        recordings = [r.with_(ids=_renamed(r.ids, f"{r.ids.recording}-{i}")) for i, r in numbered]
    if not recordings and not read.rejected:
        raise UnreadableRecording("it holds no recording", item.source)
    return recordings, [list(refused) for refused in read.rejected]


def _completed(recording: Recording, item: Item) -> Recording:
    """What the recipe knows fills what the file does not say."""
    own, given = recording.ids, item.ids
    ids = Ids(
        patient=own.patient or given.patient,
        session=own.session or given.session,
        recording=own.recording or given.recording,
        trial=own.trial or given.trial,
    )
    if not ids.patient.strip() or not ids.recording.strip():
        raise UnreadableRecording("it has no patient or recording id; let the recipe give both", item.source)
    return recording.with_(
        ids=ids,
        labels={**item.labels, **recording.labels},
        site=recording.site or item.site,
        scanner=recording.scanner or item.scanner,
    )


def _renamed(ids: Ids, recording: str) -> Ids:
    return Ids(patient=ids.patient, session=ids.session, recording=recording, trial=ids.trial)


def _refusal(item: Item, error: Exception) -> Outcome:
    known = isinstance(error, UnreadableRecording)
    if not known and os.environ.get("MEDSSL_DEBUG") == "1":
        traceback.print_exception(error)
    first = (str(error).strip().splitlines() or ["no message"])[0][:300]
    reason = error.reason if isinstance(error, UnreadableRecording) else f"{type(error).__name__}: {first}"
    return {"rows": [], "rejected": [[item.source, reason]], "crashed": not isinstance(error, MedSSLError)}


def _checked(prepared: Prepared) -> Prepared:
    """Refuse what the store cannot hold: a fault of the preparation, told in its words."""
    image = prepared.image
    if image.dtype not in (np.dtype(np.int16), np.dtype(np.uint8)) or image.ndim not in (2, 4) or not image.size:
        raise TypeError(
            "prepared image must be non-empty int16 or uint8 (C, Z, Y, X), (C, T, Y, X) or (C, T), not "
            f"{image.dtype} {image.shape}"
        )
    for name, mask in prepared.masks.items():
        if mask.dtype != np.uint8 or mask.shape != image.shape[1:]:
            raise TypeError(f"prepared mask '{name}' must be uint8 {image.shape[1:]}, not {mask.dtype} {mask.shape}")
    return prepared


def _id_columns(job: Job, recording: Recording) -> dict[str, Any]:
    ids = job.pseudonyms.ids(recording.ids)
    return {"patient": ids.patient, "session": ids.session, "recording": ids.recording, "trial": ids.trial}


def _anonymous(job: Job, item: Item, recording: Recording, notes: Iterable[str]) -> list[str]:
    """Notes without the paths and original ids that they may repeat."""
    paths = item.path if isinstance(item.path, tuple) else (item.path,)
    hidden = {text for path in (*paths, Path(item.source)) for text in (str(path), path.name)} | {recording.source}
    if job.pseudonyms.key is not None:
        hidden |= {recording.ids.patient, recording.ids.session, recording.ids.recording}
    words = sorted((word for word in hidden if len(word) > 2), key=len, reverse=True)
    cleaned = []
    for note in notes:
        for word in words:
            note = note.replace(word, "(source)")
        cleaned.append(note)
    return cleaned


def _checksums(prepared: Prepared) -> dict[str, Any]:
    masks = [array_sha256(mask[None]) for mask in prepared.masks.values()]
    return {"sha256": array_sha256(prepared.image), "mask_sha256": masks, "dtype": prepared.image.dtype.name}


def _statistics(prepared: Prepared) -> list[list[float]]:
    """Per channel: count, sum, sum of squares, least and greatest network input. In slabs: volumes may be huge."""
    rows = []
    low, high = prepared.input_range
    for channel, scale, offset in zip(prepared.image, prepared.input_scale, prepared.input_offset, strict=True):
        flat = channel.reshape(-1)
        total = np.zeros(2)
        least, greatest = np.inf, -np.inf
        for start in range(0, flat.size, _SLAB_VALUES):
            values = flat[start : start + _SLAB_VALUES].astype(np.float32) * np.float32(scale) + np.float32(offset)
            np.clip(values, low, high, out=values)
            total += [values.sum(dtype=np.float64), np.square(values).sum(dtype=np.float64)]
            least, greatest = min(least, float(values.min())), max(greatest, float(values.max()))
        rows.append([float(flat.size), float(total[0]), float(total[1]), least, greatest])
    return rows


def _write(job: Job, prepared: Prepared, place: str, temporary: Path, *, grouped: bool) -> dict[str, Any]:
    """Write the arrays of a recording; a short record is set aside to be packed with its like."""
    if _is_short(prepared):
        name = place.replace("/", "+")
        _stage(staged_file(Path(job.cohort), name), prepared.image)
        return {"array": "", "position": -1, "staged": name}
    if grouped:
        write_group(temporary)
    write_recording(temporary / Path(place).name if grouped else temporary, prepared, profile=job.profile)
    return {"array": place, "position": -1}


def _is_short(prepared: Prepared) -> bool:
    plain = prepared.image.ndim == 2 and not prepared.masks and prepared.foreground is None
    return plain and bool(prepared.rate_hz) and prepared.image.shape[1] / float(prepared.rate_hz or 1) <= SHORT_S


def _stage(file: Path, image: NDArray[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as handle:
        np.save(handle, image, allow_pickle=False)
    temporary.replace(file)
