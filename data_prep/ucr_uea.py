"""Any set of the UCR and UEA archives of time-series classification, in the formats .ts and .arff.

Get the data: https://www.timeseriesclassification.com/ (a zip a set). Licence: of each set; the archives are for
research. Cite: Dau HA et al., The UCR time series archive, IEEE/CAA J Autom Sinica 6(6):1293-1305, 2019; Bagnall A et
al., The UEA multivariate time series classification archive, arXiv 1811.00075, 2018.

Layout: ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` (or ``.arff``; where both are there, ``.ts`` is read). A series is a
recording with the label ``class``; regression sets have none. Gaps (``?``) are NaN. No rate stands in the files:
``rate_hz``, by default one sample a second.

Splits: ``split`` is the published one: ``medssl cohort split COHORT --name official --test-where split=test``. **Which
series are of one person is not told**: each is its own patient here, so results may be about people seen in training
(in the sets made from MIT-BIH or Bonn they are).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected, sha256_of
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError, UnreadableRecording

__all__ = ["UCRUEA"]

NAME = re.compile(r"(.+)_(TRAIN|TEST)\.(ts|arff)", re.IGNORECASE)


class _Series(NamedTuple):
    data: NDArray[np.float32]
    label: str | None


class UCRUEA(Recipe):
    """Series with the labels class and split.

    Args:
        rate_hz: samples a second, which the files do not tell.
        modality: a word for people (``"ecg"``, ``"eeg"``).
        standardise: ``recording`` scales each series; ``none`` keeps its values (many sets are scaled already).
    """

    kind = "signal"

    def __init__(self, *, rate_hz: float = 1.0, modality: str = "series", standardise: str = "recording") -> None:
        self.rate_hz = rate_hz
        self.modality = modality
        self.standardise = standardise

    def preparation(self) -> SignalPreparation:
        """All channels, gaps interpolated."""
        return SignalPreparation(standardise=self.standardise, max_nan=0.5)  # type: ignore[arg-type]

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Both parts of every set."""
        found: dict[tuple[str, str], Path] = {}
        for file in files_below(require_folder(source, "ucr_uea"), (".arff", ".ts")):
            match = NAME.fullmatch(file.name)
            if match and not _is_one_dimension(file):
                key = (match[1], match[2].lower())
                found[key] = min(found.get(key, file), file, key=lambda f: f.suffix.lower() != ".ts")
        if not found:
            raise RecipeError(
                f"no NAME_TRAIN.ts or .arff below '{source}'; recipe 'ucr_uea' wants the unpacked zip of a set"
            )
        for (name, split), file in found.items():
            recording = f"{name}-{split}"
            yield Item(file, Ids(patient=recording, recording=recording), labels={"split": split})

    def read(self, item: Item) -> Read:
        """Every series of a file."""
        assert isinstance(item.path, Path)
        series = list(_ts(item.path) if item.path.suffix.lower() == ".ts" else _arff(item.path))
        digest = sha256_of(item.path)
        return Read([self._recording(item, number, one, digest) for number, one in enumerate(series)], [])

    def _recording(self, item: Item, number: int, series: _Series, digest: str) -> Recording:
        name = f"{item.ids.recording}-{number:05d}"
        return Recording(
            data=series.data,
            axes="ct",
            rate_hz=self.rate_hz,
            channels=tuple(f"channel_{c + 1}" for c in range(len(series.data))),
            units=("",) * len(series.data),
            ids=Ids(patient=name, recording=name),
            labels={**item.labels, "class": series.label},
            source=item.source,
            source_sha256=digest,
            notes=("whose series it is was not published; it counts as a patient",),
        )


def _is_one_dimension(file: Path) -> bool:
    """``NAMEDimension1_TRAIN.arff``: one channel of a set that also stands in one file."""
    return re.search(r"Dimension\d+_", file.name) is not None


def _ts(file: Path) -> Iterator[_Series]:
    """Series of a .ts file: channels parted by colons, values by commas, the class at the end."""
    labelled, in_data = False, False
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableRecording(f"not a readable text: {error}", file) from error
    for place, line in enumerate(lines, start=1):
        words = line.strip().split()
        if not words or words[0].startswith("#"):
            continue
        if in_data:
            yield _ts_series(line.strip(), labelled, file, place)
            continue
        key, value = words[0].lower(), words[1].lower() if len(words) > 1 else ""
        if key == "@timestamps" and value == "true":
            raise UnreadableRecording("its series carry time stamps; only regular ones are read", file)
        labelled = labelled or (key == "@classlabel" and value == "true")
        in_data = key == "@data"


def _ts_series(line: str, labelled: bool, file: Path, place: int) -> _Series:
    parts = line.split(":")
    label = parts.pop().strip() if labelled else None
    try:
        rows = [[float(v) if v.strip() not in ("?", "NaN") else np.nan for v in p.split(",")] for p in parts]
    except ValueError as error:
        raise UnreadableRecording(f"line {place} holds what is no number: {error}", file) from error
    if not rows or len({len(row) for row in rows}) != 1:
        raise UnreadableRecording(f"the channels of line {place} have different lengths", file)
    return _Series(np.array(rows, dtype=np.float32), label)


def _arff(file: Path) -> Iterator[_Series]:
    """Series of an .arff file: attributes of one series, or one relational attribute a row of which is a channel."""
    from scipy.io import arff

    try:
        table, about = arff.loadarff(file)
    except Exception as error:  # a foreign parser on a foreign file: anything can come
        raise UnreadableRecording(f"not a readable .arff: {error}", file) from error
    names = list(about.names())
    nominal = about.types()[-1] == "nominal"
    values = names[:-1] if nominal else names
    for row in table:
        label = row[names[-1]].decode() if nominal else None
        if about.types()[0] == "relational":
            data = np.array([list(channel) for channel in row[names[0]]], dtype=np.float32)
        else:
            data = np.array([[float(row[name]) for name in values]], dtype=np.float32)
        yield _Series(data, label)
