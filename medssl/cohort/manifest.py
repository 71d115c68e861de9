"""The manifest: one row a recording in ``recordings.parquet``, one row an event in ``events.parquet``.

Both are written in batches and never held whole, so their size is bounded by the disk. Columns are specified in
``docs/formats.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.adapters.recording import Event, Recording
from medssl.cohort.preparation import Prepared

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EVENTS",
    "LABEL",
    "QUALITY",
    "RECORDINGS",
    "LabelKinds",
    "event_rows",
    "labels_of",
    "manifest_row",
    "scalar_labels",
    "stored_labels",
    "write_events",
    "write_manifest",
]

RECORDINGS = "recordings.parquet"
EVENTS = "events.parquet"
LABEL = "label_"
QUALITY = "quality_"

_TEXT = ("recording", "patient", "session", "trial", "modality", "axes", "site", "scanner", "array", "sha256")
_BATCH_ROWS = 1000


def manifest_row(recording: Recording, prepared: Prepared, *, modality: str) -> dict[str, Any]:
    """The row of one recording, without ids, checksums and place, as plain JSON-able values."""
    return {
        "modality": modality,
        "axes": prepared.axes,
        "shape": list(prepared.image.shape[1:]),
        "spacing_mm": None if prepared.spacing_mm is None else [float(s) for s in prepared.spacing_mm],
        "rate_hz": None if prepared.rate_hz is None else float(prepared.rate_hz),
        "channels": list(prepared.channels),
        "units": list(prepared.units),
        "site": recording.site,
        "scanner": recording.scanner,
        "scale": _floats(prepared.scale),
        "offset": _floats(prepared.offset),
        "input_scale": _floats(prepared.input_scale),
        "input_offset": _floats(prepared.input_offset),
        "input_range": [float(v) for v in prepared.input_range],
        "fill": int(prepared.fill),
        "affine": None if prepared.affine is None else _floats(prepared.affine.ravel()),
        "masks": list(prepared.masks),
        "mask_voxels": {name: _voxels(mask) for name, mask in prepared.masks.items()},
        "n_samples": int(prepared.image.shape[1]) if "t" in prepared.axes else None,
        "source_sha256": recording.source_sha256,
        "notes": list(prepared.notes),
        "quality": {name: float(value) for name, value in prepared.quality.items()},
        "labels": scalar_labels(recording.labels),
    }


def _floats(values: Any) -> list[float]:
    return [float(v) for v in np.asarray(values).ravel()]


def _voxels(mask: Any) -> dict[str, int]:
    counts = np.bincount(mask.ravel(), minlength=1)
    return {str(value): int(counts[value]) for value in np.flatnonzero(counts) if value}


def scalar_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``Recording.labels`` belongs in the manifest: everything but arrays, as plain values; NaN is unknown."""
    plain: dict[str, Any] = {}
    for name, value in labels.items():
        if isinstance(value, np.ndarray) and value.ndim:
            continue
        item = value.item() if isinstance(value, np.generic | np.ndarray) else value
        if isinstance(item, float) and math.isnan(item):
            item = None
        plain[name] = [str(v) for v in item] if isinstance(item, list | tuple | set | frozenset) else item
    return plain


def event_rows(events: Iterable[Event], recording: str) -> list[list[Any]]:
    """Events as ``[recording, onset_s, duration_s, kind, value, channel]``, by onset."""
    rows = [[recording, float(e.onset_s), float(e.duration_s), e.kind, e.value, e.channel] for e in events]
    return sorted(rows, key=lambda r: (r[1], r[3], r[4], r[5]))


class LabelKinds:
    """Finds out, row by row, what kind each label column is: ``number``, ``class`` or ``multilabel``."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def add(self, labels: Mapping[str, Any]) -> None:
        """Take note of one recording's labels."""
        for name, value in labels.items():
            kinds = self._seen.setdefault(name, set())
            if isinstance(value, list):
                kinds.add("multilabel")
            elif isinstance(value, bool) or not isinstance(value, int | float | None):
                kinds.add("class")
            elif value is not None:
                kinds.add("number")

    def kinds(self) -> dict[str, str]:
        """Column → kind; a column that mixes kinds takes the more general one; one never filled is a class."""
        order = ("multilabel", "class", "number")
        return {n: next((k for k in order if k in seen), "class") for n, seen in sorted(self._seen.items())}


def _as_kind(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "number":
        return float(value)
    if kind == "multilabel":
        return value if isinstance(value, list) else [str(value)]
    return str(value)


def stored_labels(labels: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """One recording's labels as the manifest holds them; unknown ones left out."""
    stored = {name: _as_kind(labels.get(name), kind) for name, kind in kinds.items()}
    return {name: value for name, value in stored.items() if value is not None}


def labels_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The labels in a row read from the manifest; unknown ones left out."""
    return {k.removeprefix(LABEL): v for k, v in record.items() if k.startswith(LABEL) and v is not None}


def _schema(labels: Mapping[str, str], quality: Iterable[str]) -> pa.Schema:
    import pyarrow as pa

    text, number, numbers, texts = pa.string(), pa.float64(), pa.list_(pa.float64()), pa.list_(pa.string())
    columns: list[tuple[str, pa.DataType]] = [(name, text) for name in _TEXT]
    columns += [("shape", pa.list_(pa.int64())), ("spacing_mm", numbers), ("rate_hz", number)]
    columns += [("channels", texts), ("units", texts)]
    columns += [(n, numbers) for n in ("scale", "offset", "input_scale", "input_offset", "input_range", "affine")]
    columns += [("fill", pa.int32()), ("n_samples", pa.int64()), ("position", pa.int64())]
    columns += [("masks", texts), ("mask_sha256", texts), ("mask_voxels", text)]
    columns += [("source_sha256", text), ("notes", texts)]
    columns += [(QUALITY + name, number) for name in sorted(quality)]
    columns += [(LABEL + name, {"number": number, "class": text, "multilabel": texts}[k]) for name, k in labels.items()]
    return pa.schema(columns, metadata={"format_version": "1"})


def write_manifest(
    file: Path, rows: Iterable[Mapping[str, Any]], *, labels: Mapping[str, str], quality: Iterable[str]
) -> None:
    """Write ``recordings.parquet`` batch by batch; ``labels`` and ``quality`` name the variable columns."""
    names = sorted(quality)

    def flat() -> Iterator[dict[str, Any]]:
        for row in rows:
            yield {
                **row,
                "mask_voxels": json.dumps(row["mask_voxels"], sort_keys=True),
                **{QUALITY + n: row["quality"].get(n) for n in names},
                **{LABEL + n: v for n, v in stored_labels(row["labels"], labels).items()},
            }

    _write_batches(file, flat(), _schema(labels, names))


def write_events(file: Path, rows: Iterable[list[Any]]) -> None:
    """Write ``events.parquet`` from the lists of ``event_rows``, in the order of the manifest."""
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    types = (text, number, number, text, text, text)
    names = ("recording", "onset_s", "duration_s", "kind", "value", "channel")
    schema = pa.schema(list(zip(names, types, strict=True)), metadata={"format_version": "1"})
    _write_batches(file, (dict(zip(names, row, strict=True)) for row in rows), schema, batch_rows=50_000)


def _write_batches(
    file: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema, *, batch_rows: int = _BATCH_ROWS
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = file.with_name(f".{file.name}.writing")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while batch := list(islice(rows, batch_rows)):
            columns = {name: [row.get(name) for row in batch] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
    temporary.replace(file)
