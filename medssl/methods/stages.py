"""Training in stages: each batch holds recordings that all earlier stages took for alike (MCL)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.configurable import Configurable
from medssl.encoders.base import Encoder, encoder_folder, load_encoder
from medssl.encoders.concatenated import Concatenated
from medssl.errors import CheckpointError, CohortError, ConfigError
from medssl.methods.pure_batches import merged
from medssl.views.base import to_input

if TYPE_CHECKING:
    import pandas as pd

    from medssl.methods.base import Readable

__all__ = ["StageClusters", "Stages", "encoded", "of_column", "of_features", "spread_starts"]

WINDOWS_AT_ONCE = 32


class StageClusters(NamedTuple):
    """What one stage says of N recordings.

    Attributes:
        digits: (N,) cluster of each, -1 where it has none.
        distances: (k, k) between clusters.
    """

    digits: NDArray[np.int64]
    distances: NDArray[np.float64]


class Stages(Configurable):
    """Multistage contrastive learning: find what earlier stages have not found yet (MCL, Zhang et al., ECCV 2024).

    The features of each earlier stage's encoder are clustered, and every batch is drawn from one cluster of all stages
    together, so that negatives share what is already known and cannot be told apart by it. What such a run exports are
    the earlier encoders and its own, ``Concatenated``. Columns of the manifest serve as a first stage without a run:
    with ``scanner``, say, no batch mixes scanners, so that the scanner is no help.

    What the clusters are is written into the last run's folder (``clusters/``), so that all devices, and a resumed run,
    agree on them.

    Args:
        runs: pre-training runs of the earlier stages, the oldest first; all that the newest was built on.
        columns: of the manifest (a label, site, scanner), whose values are clusters; they come before the runs.
        clusters: k of every run's features; there are at most that to the power of the stages, and the smallest are
            merged until each fills a batch.
        windows: most windows or crops of a recording whose features are averaged.
        device: that computes the features; ``auto`` takes a GPU if there is one.
    """

    def __init__(
        self,
        *,
        runs: tuple[str, ...] = (),
        columns: tuple[str, ...] = (),
        clusters: int = 10,
        windows: int = 4,
        device: str = "auto",
    ) -> None:
        if not runs and not columns:
            raise ConfigError("Stages needs runs of earlier stages, or columns of the manifest; leave it out for none")
        if clusters < 2 or windows < 1:
            raise ConfigError(f"Stages needs at least 2 clusters and 1 window, not {clusters} and {windows}")
        self.runs, self.columns = tuple(Path(run) for run in runs), tuple(columns)
        self.clusters, self.windows, self.device = clusters, windows, device

    def encoders(self, source: Readable) -> list[Encoder]:
        """The encoder that each earlier stage trained, the oldest first.

        Raises:
            CheckpointError: no finished run, or one that was built on stages which are not named.
            ConfigError: it was trained on other channels, another rate or voxel size than ``source``.
        """
        found: list[Encoder] = []
        for place, run in enumerate(self.runs):
            encoder, inputs = load_encoder(run)
            info = source.cohorts[0].info
            for what in ("kind", "channels", "rate_hz", "spacing_mm"):
                if getattr(inputs, what) != getattr(info, what):
                    raise ConfigError(
                        f"the stage '{run}' was trained with {what} {getattr(inputs, what)}, but the cohort has "
                        f"{getattr(info, what)}; all stages need cohorts that were prepared alike"
                    )
            if isinstance(encoder, Concatenated):
                if len(encoder.encoders) > place + 1:
                    raise CheckpointError(
                        f"'{run}' was itself trained in {len(encoder.encoders)} stages; name the runs of all of them, "
                        "the oldest first"
                    )
                encoder = list(encoder.encoders)[-1]  # type: ignore[assignment]
            found.append(encoder)
        return found

    def cluster(
        self, source: Readable, encoders: Sequence[Encoder], *, size: Sequence[int], batch: int
    ) -> NDArray[np.int64]:
        """(N,) cluster of every recording of ``source``, each of at least ``batch`` recordings.

        Args:
            source: what will be read.
            encoders: see ``encoders``.
            size: window or crop that they see.
            batch: recordings of a batch on all devices.

        Raises:
            CohortError: no such column.
            ConfigError: there are fewer recordings than one batch.
        """
        count = len(source.places)
        if count < batch:
            raise ConfigError(
                f"training in stages draws whole batches, but a batch of {batch} is more than the {count} recordings; "
                "lower the batch size"
            )
        found = [of_column(source.manifest, column) for column in self.columns]
        if encoders:
            found += self._of_runs(source, encoders, tuple(size))
        return merged(np.stack([c.digits for c in found], axis=1), [c.distances for c in found], batch)

    def _of_runs(self, source: Readable, encoders: Sequence[Encoder], size: tuple[int, ...]) -> list[StageClusters]:
        kept = self.runs[-1] / "clusters" / f"{self._fingerprint(source, size)}.npz"
        if not kept.is_file():
            made = [self._of_run(source, encoder, size) for encoder in encoders]
            if not _keep(kept, made):
                return made
        with np.load(kept, allow_pickle=False) as file:  # another process may have been first: all take the same
            return [StageClusters(file[f"digits{i}"], file[f"distances{i}"]) for i in range(len(encoders))]

    def _of_run(self, source: Readable, encoder: Encoder, size: tuple[int, ...]) -> StageClusters:
        features = encoded(encoder, source, size, windows=self.windows, device=_device(self.device))
        return of_features(features, self.clusters)

    def _fingerprint(self, source: Readable, size: tuple[int, ...]) -> str:
        """Stands for everything that the clusters of the runs depend on."""
        facts = {
            "encoders": [hashlib.sha256(_weights(run).read_bytes()).hexdigest() for run in self.runs],
            "cohorts": [c.info.fingerprint for c in source.cohorts],
            "places": hashlib.sha256(np.asarray(source.places, np.int64).tobytes()).hexdigest(),
            "settings": [size, self.clusters, self.windows],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def of_column(manifest: pd.DataFrame, name: str) -> StageClusters:
    """The values of a column, or of the label of that name, as clusters; all are equally far from each other.

    Raises:
        CohortError: no such column, or nothing in it.
    """
    import pandas as pd

    column = next((c for c in (f"label_{name}", name) if c in manifest), None)
    if column is None or manifest[column].isna().all():
        problem = "no column" if column is None else "nothing in the column"
        known = ", ".join(map(str, manifest))
        raise CohortError(f"the manifest has {problem} '{name}' to make clusters of; its columns are: {known}")
    digits, values = pd.factorize(manifest[column].map(str, na_action="ignore"), sort=True)
    return StageClusters(digits.astype(np.int64), 1.0 - np.eye(len(values)))


def of_features(features: NDArray[np.float32], clusters: int) -> StageClusters:
    """k-means of features at unit length, and the distances between its centres.

    Args:
        features: (N, D).
        clusters: k, or N where that is less.
    """
    from sklearn.cluster import MiniBatchKMeans

    length = np.linalg.norm(features, axis=1, keepdims=True)
    model = MiniBatchKMeans(min(clusters, len(features)), max_iter=100, tol=1e-5, n_init=3, random_state=0)
    digits = model.fit_predict(features / np.maximum(length, 1e-12))
    centres = model.cluster_centers_.astype(np.float64)
    return StageClusters(digits.astype(np.int64), np.linalg.norm(centres[:, None] - centres, axis=-1))


@torch.no_grad()
def encoded(
    encoder: Encoder, source: Readable, size: tuple[int, ...], *, windows: int, device: torch.device
) -> NDArray[np.float32]:
    """Pooled features of every recording of ``source``, the mean over its windows: (N, D) float32.

    Args:
        encoder: put into evaluation mode here, and left on the CPU.
        source: what is read, a few windows at a time.
        size: of a window or crop.
        windows: most of a recording, see ``spread_starts``.
        device: that computes.
    """
    encoder = encoder.to(device).eval()
    total = np.zeros((len(source.places), encoder.out_dim), np.float32)
    count = np.zeros((len(source.places), 1), np.float32)
    for owners, stored, fields in _batches(source, size, windows):
        batch = {key: torch.from_numpy(value).to(device) for key, value in fields.items()}
        x = to_input(torch.from_numpy(stored).to(device), batch).squeeze(1)
        np.add.at(total, owners, encoder(x).pooled.float().cpu().numpy())
        np.add.at(count, owners, 1)
    encoder.cpu()
    return total / count


def _batches(
    source: Readable, size: tuple[int, ...], windows: int
) -> Iterator[tuple[list[int], NDArray[Any], dict[str, NDArray[Any]]]]:
    """Owners (b), stored integers (b, 1, C, *size), and their ``input_fields``, stacked."""
    owners: list[int] = []
    crops: list[NDArray[Any]] = []
    fields: list[dict[str, NDArray[Any]]] = []
    for place, (cohort, row) in enumerate(source.places):
        reader = source.cohorts[cohort].reader(row)
        of_recording = reader.input_fields()
        for start in spread_starts(reader.shape, size, windows):
            owners.append(place)
            crops.append(reader.read(start, size)[None])
            fields.append(of_recording)
        if len(owners) >= WINDOWS_AT_ONCE or place == len(source.places) - 1:
            yield owners, np.stack(crops), {key: np.stack([f[key] for f in fields]) for key in fields[0]}
            owners, crops, fields = [], [], []


def spread_starts(shape: Sequence[int], size: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Windows spread evenly along the axis that they cover least, from end to end, and in the middle of the others.

    >>> spread_starts((25,), (10,), 4), spread_starts((25, 9), (10, 5), 1), spread_starts((6,), (10,), 4)
    ([(0,), (8,), (15,)], [(7, 2)], [(-2,)])
    """
    spare = [n - e for n, e in zip(shape, size, strict=True)]
    middle = [s // 2 for s in spare]
    axis = int(np.argmax([n / e for n, e in zip(shape, size, strict=True)]))
    number = min(most, math.ceil(shape[axis] / size[axis]))
    if number < 2:
        return [tuple(middle)]
    along = [round(i * spare[axis] / (number - 1)) for i in range(number)]
    return [(*middle[:axis], start, *middle[axis + 1 :]) for start in along]


def _device(name: str) -> torch.device:
    if name == "auto":
        # each process of a node computes on its own GPU, where several train together
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _weights(run: Path) -> Path:
    return encoder_folder(run) / "encoder.safetensors"


def _keep(file: Path, made: Sequence[StageClusters]) -> bool:
    """Write clusters, unless another process did so in the meantime; False where the folder cannot be written to."""
    arrays: dict[str, Any] = {f"digits{i}": c.digits for i, c in enumerate(made)}
    arrays |= {f"distances{i}": c.distances for i, c in enumerate(made)}
    try:
        file.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            written = Path(folder) / file.name
            np.savez(written, **arrays)
            os.link(written, file)
    except FileExistsError:
        pass
    except OSError as error:
        print(f"the clusters cannot be kept in '{file.parent}' and are made anew each time: {error}", file=sys.stderr)
        return False
    return True
