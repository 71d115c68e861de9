"""The verb ``embed``: every recording of a cohort as one vector, in a Parquet file.

A signal or clip is described by the mean over a few fixed windows, as the frozen protocols do: read faster or slower it
would be another rhythm. A volume is read whole, resized to one window: its windows are crops of different anatomy, and
their mean says little about where things are. ``view`` chooses otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import CohortError, ConfigError, TrainingError
from medssl.evaluation.embedding_files import FORMAT_VERSION, EmbeddingsWriter, differences, read_about
from medssl.evaluation.embedding_sources import Source, is_file, open_source
from medssl.evaluation.whole import PIXEL_GRID, pixel_length, pixels, whole_recording

if TYPE_CHECKING:
    from medssl.cohort import Cohort, CohortInfo

__all__ = ["EmbedSettings", "Reading", "View", "embed", "embed_with", "reading_of", "same_reading"]

View = Literal["auto", "windows", "whole"]
_AT_ONCE = 256  # recordings of one batch of the file
_POOLING = {
    "windows": "mean over the windows of the encoder's pooled features",
    "whole": "the encoder's pooled features of the whole recording, resized to one window",
    "grid": "the recording averaged onto a small grid and standardised",
}


@dataclass(frozen=True)
class EmbedSettings:
    """How recordings are read and encoded.

    Attributes:
        view: ``windows`` averages fixed windows, ``whole`` resizes the recording to one; ``auto``: volumes whole.
        windows: most windows of a recording.
        size: window (z, y, x) or (samples,); by default what ``embed`` says. It does not depend on the machine.
        batch: windows encoded at once.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        allow_mismatch: go on where the cohort has another voxel size or rate than the encoder was trained on.
    """

    view: View = "auto"
    windows: int = 8
    size: tuple[int, ...] | None = None
    batch: int = 16
    accelerator: str = "auto"
    allow_mismatch: bool = False


@dataclass(frozen=True)
class Reading:
    """How a source reads one cohort.

    Attributes:
        view: ``windows``, ``whole``, or ``grid`` for pixels.
        size: of a window, or of the grid.
        windows: most windows of a recording; 1 where it is read whole.
        channels: of the cohort, in the encoder's order; None for all.
        names: of the channels that are seen.
    """

    view: Literal["windows", "whole", "grid"]
    size: tuple[int, ...]
    windows: int
    channels: tuple[int, ...] | None
    names: tuple[str, ...]


def embed(
    encoder: str,
    cohort: Path,
    out: Path,
    *,
    view: View = "auto",
    windows: int = 8,
    size: Sequence[int] | None = None,
    batch: int = 16,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    allow_mismatch: bool = False,
) -> Path:
    """Embed every recording of a cohort: one row each in a Parquet file, with ids and labels.

    Vectors are as the encoder gives them, of any length; `medssl search` compares them by their cosine. The file says
    which encoder made it and how. One that was made by another encoder, or otherwise, is never overwritten.

    Args:
        encoder: a run, ``untrained:RUN`` (its architecture with random weights) or ``pixels`` (no network).
        cohort: a prepared cohort.
        out: the file, ``.parquet``.
        view: ``windows`` is the mean over a few fixed windows, ``whole`` the recording resized to one window; ``auto``
            reads volumes whole and signals and video through windows.
        windows: most windows of a recording.
        size: window (z, y, x), (frames, y, x) or (samples,); by default that of pre-training for whole recordings
            where it is known, else at most 64 voxels a side, 16 frames of 112 x 112, or 10 s.
        batch: windows encoded at once.
        accelerator: where the encoder runs.
        allow_mismatch: go on where the cohort has another voxel size or rate than the encoder was trained on.

    Returns:
        ``out``.

    Raises:
        MedSSLError: no such encoder or cohort, they do not fit, or ``out`` holds something else.
    """
    from medssl.cohort import Cohort

    if not is_file(str(out)):
        raise ConfigError(f"'{out}' must end in .parquet")
    if is_file(encoder):
        raise ConfigError(f"'{encoder}' holds embeddings already; give what makes them: a run, untrained:RUN or pixels")
    settings = EmbedSettings(view, windows, None if size is None else tuple(size), batch, accelerator, allow_mismatch)
    return embed_with(open_source(encoder), Cohort(cohort), Path(out), settings)


def embed_with(
    source: Source, cohort: Cohort, out: Path, settings: EmbedSettings, reading: Reading | None = None
) -> Path:
    """As ``embed``, with an opened source; a file that holds the very same embeddings is left as it is.

    Args:
        reading: how the cohort is read; by default as ``reading_of`` decides.

    Raises:
        MedSSLError: see ``embed``.
    """
    from medssl.progress import track

    if not len(cohort):
        raise CohortError(f"'{cohort.path}' holds no recording")
    how = reading or reading_of(source, cohort, settings)
    about = _about(source, cohort, how)
    if out.exists() and _already(out, about):
        return out
    writer = EmbeddingsWriter(cohort, about, about["dimension"])
    with writer.written(out) as file, track(len(cohort), f"embedding with {source.name}", unit="recordings") as bar:
        for first, features in _batches(source, cohort, how, settings):
            broken = ~np.isfinite(features).all(axis=1)
            if broken.any():
                name = cohort.manifest["recording"].iloc[first + int(broken.argmax())]
                raise TrainingError(
                    f"the features of recording {name} are not finite; the encoder '{source.name}' cannot be used"
                )
            file.write_table(writer.rows(first, features))
            bar.advance(len(features))
    return out


def reading_of(source: Source, cohort: Cohort, settings: EmbedSettings, like: CohortInfo | None = None) -> Reading:
    """How a source reads a cohort.

    Args:
        like: pixels take the channels of this cohort by name; None those of ``cohort``.

    Raises:
        ConfigError: it does not fit.
    """
    from medssl.encoders.base import InputSpec
    from medssl.training.contract import match_input
    from medssl.training.heads import choose_size
    from medssl.training.settings import FinetuneSettings
    from medssl.training.targets import every_recording

    if settings.windows < 1 or settings.batch < 1:
        raise ConfigError(f"windows {settings.windows}, batch {settings.batch}: both must be 1 or more")
    info = cohort.info
    name = f"'{cohort.path}'"
    if source.encoder is None:
        seen = None if like is None else InputSpec(like.kind, like.channels, ())
        found = match_input(seen, info, name=name)
        return Reading("grid", PIXEL_GRID[info.kind], 1, found.channels, found.names)
    network = source.encoder
    found = match_input(
        source.inputs, info, allow_mismatch=settings.allow_mismatch, any_channels=network.any_channels, name=name
    )
    whole = info.kind == "volume" if settings.view == "auto" else settings.view == "whole"
    # windows keep the scale of the recording; a whole one has that of the window anyway, and best the encoder's own
    wanted = settings.size or (found.size if whole and len(found.size) == network.dims else None)
    chosen = choose_size(network, every_recording(cohort), FinetuneSettings(size=wanted, accelerator="cpu"))
    network.check_input(len(found.names), chosen)
    if whole:
        return Reading("whole", chosen, 1, found.channels, found.names)
    return Reading("windows", chosen, settings.windows, found.channels, found.names)


def _about(source: Source, cohort: Cohort, how: Reading) -> dict[str, Any]:
    from medssl import __version__

    info = cohort.info
    width = pixel_length(info.kind, len(how.names)) if source.encoder is None else source.encoder.out_dim
    return {
        "format": "embeddings", "format_version": FORMAT_VERSION, "encoder": source.describe(), "dimension": width,
        "pooling": _POOLING[how.view], "view": how.view, "size": list(how.size), "windows": how.windows,
        "channels": list(how.names), "channel_indices": None if how.channels is None else list(how.channels),
        "cohort": {
            "name": cohort.path.resolve().name, "fingerprint": info.fingerprint, "kind": info.kind,
            "modality": info.modality, "n_recordings": len(cohort),
        },
        "software": {"medssl": __version__},
    }  # fmt: skip


def _already(out: Path, about: Mapping[str, Any]) -> bool:
    """True where the file holds just this.

    Raises:
        ConfigError: it holds something else.
    """
    other = differences(read_about(out), about)
    if other:
        raise ConfigError(
            f"'{out}' holds other embeddings (they differ in {', '.join(other)}); give another file, or delete it"
        )
    return True


def _batches(
    source: Source, cohort: Cohort, how: Reading, settings: EmbedSettings
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, features) of as many recordings at a time as stay small."""
    from medssl.training.windows import Recordings

    for first in range(0, len(cohort), _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, len(cohort)))
        recordings = Recordings(cohort, channels=how.channels, rows=rows, cache_gb=0)
        if source.encoder is None:
            yield first, np.stack([pixels(recordings, int(row)) for row in rows])
        elif how.view == "whole":
            yield first, _of_wholes(source, recordings, rows, how, settings)
        else:
            yield first, _of_windows(source, cohort, rows, how, settings)


def _of_windows(
    source: Source, cohort: Cohort, rows: NDArray[np.int64], how: Reading, settings: EmbedSettings
) -> NDArray[np.float32]:
    from medssl.evaluation.probes import features
    from medssl.training.targets import every_recording

    assert source.encoder is not None
    return features(
        source.encoder, every_recording(cohort), rows, size=how.size, channels=how.channels, windows=how.windows,
        batch=settings.batch, device=_device(settings),
    )  # fmt: skip


def _of_wholes(
    source: Source, recordings: Any, rows: NDArray[np.int64], how: Reading, settings: EmbedSettings
) -> NDArray[np.float32]:
    import torch

    assert source.encoder is not None
    device = _device(settings)
    network = source.encoder.to(device).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), settings.batch):
            wholes = [whole_recording(recordings, int(r), how.size) for r in rows[start : start + settings.batch]]
            x = torch.from_numpy(np.stack(wholes)).to(device)
            parts.append(network(x).pooled.float().cpu().numpy())
    return np.concatenate(parts)


def _device(settings: EmbedSettings) -> str:
    import torch

    from medssl.training.fitting import is_cpu

    return "cpu" if is_cpu(settings.accelerator) or not torch.cuda.is_available() else "cuda"


def same_reading(about: Mapping[str, Any]) -> Reading:
    """How a file's embeddings were read, to read the same cohort so again.

    >>> same_reading({"view": "whole", "size": [8], "windows": 1, "channel_indices": None, "channels": ["I"]}).size
    (8,)
    """
    chosen = about["channel_indices"]
    return Reading(
        about["view"], tuple(about["size"]), about["windows"], None if chosen is None else tuple(chosen),
        tuple(about["channels"]),
    )  # fmt: skip
