"""From an item that a recipe found to its recordings: adapter, masks on the image's grid, ids and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.recording import Ids, Read, Recording, Rejected
from medssl.cohort.geometry import canonical, default_affine, same_grid, spacing_of
from medssl.cohort.recipe import Item
from medssl.errors import UnreadableRecording

__all__ = ["FmriItem", "SignalItem", "VideoItem", "place_mask", "read_channels", "read_item"]


@dataclass(frozen=True)
class SignalItem(Item):
    """An item whose file does not say everything about its signal.

    Attributes:
        rate_hz: declared rate of a format that has none (.csv, .npy, .mat).
        units: declared unit of such a format.
        channels: those to read, in this order; or the names of unnamed columns.
        key: variable of a .mat, .npz or HDF5 file.
    """

    rate_hz: float | None = None
    units: str | None = None
    channels: tuple[str, ...] | None = None
    key: str | None = None


@dataclass(frozen=True)
class VideoItem(Item):
    """An item whose file does not say everything about its clip, or of which more than grey is wanted.

    Attributes:
        rate_hz: declared frames a second.
        colour: keep RGB.
        tracings: what somebody drew, for the recipe to make masks of: (number of the frame, rows of numbers).
        stated_frames: how many frames a table states; 0 where none does.
    """

    rate_hz: float | None = None
    colour: bool = False
    tracings: tuple[tuple[int, tuple[tuple[float, ...], ...]], ...] = ()
    stated_frames: int = 0


@dataclass(frozen=True)
class FmriItem(Item):
    """A run, and what its file does not say.

    Attributes:
        tr_s: declared repetition time.
        atlas, atlas_labels, radius_mm: of an image in time.
        brain: mask of such an image.
        confounds, motion: table of confounds, and who wrote it where it has no header.
        regions: how many ready series have.
        key: which array of .mat, .npz or HDF5.
        mean_fd: mean framewise displacement in mm that a table states, for series without motion parameters.
    """

    tr_s: float | None = None
    atlas: str = ""
    atlas_labels: str = ""
    radius_mm: float | None = None
    brain: Path | None = None
    confounds: Path | None = None
    motion: str = ""
    regions: int | None = None
    key: str | None = None
    mean_fd: float | None = None


def read_item(
    kind: Literal["volume", "signal", "video"], item: Item, *, fourth_axis: Literal["time", "channel"] = "time"
) -> Read:
    """Read an item with the adapter of its kind and fill in what the recipe knows.

    Masks are put into ``labels`` as arrays on the image's own grid; a mask on another grid, or one that cannot be read,
    rejects the item, since training on a misplaced mask is worse than not having it. One that merely has its axes in
    another order is turned, exactly.

    Args:
        kind: of the recipe.
        item: what to read, and what is known of it.
        fourth_axis: what a fourth axis of a volume file is.

    Returns:
        The recordings (several where the file holds several), and what was refused with its reason.
    """
    try:
        if kind == "volume":
            read = _read_volume(item.path, fourth_axis)
        else:
            read = _read_signal(item) if kind == "signal" else _read_video(item)
        return _finish(read, item)
    except UnreadableRecording as error:
        return Read([], [_rejected(item, error)])


def read_channels(item: Item, names: Sequence[str]) -> Read:
    """Read the files of ``item.path`` as the channels of one volume.

    Raises nothing for bad files: they are rejected, like in :func:`read_item`.
    """
    files = item.path if isinstance(item.path, tuple) else (item.path,)
    try:
        parts = [_one(_read_volume(file), file) for file in files]
        first = parts[0]
        arrays = [first.data, *(place_mask(part, first, "channel") for part in parts[1:])]
        stacked = first.with_(
            data=np.stack(arrays),
            axes="czyx",
            channels=tuple(names),
            units=tuple(p.units[0] if p.units else "" for p in parts),
            source_sha256=hashlib.sha256("".join(p.source_sha256 for p in parts).encode()).hexdigest(),
            notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
        )
        return _finish(Read([stacked], []), item)
    except UnreadableRecording as error:
        return Read([], [_rejected(item, error)])


def _rejected(item: Item, error: UnreadableRecording) -> Rejected:
    elsewhere = error.path and Path(error.path) != Path(item.source)
    return Rejected(item.source, f"{error.reason} ({error.path})" if elsewhere else error.reason)


def place_mask(mask: Recording, image: Recording, name: str) -> NDArray[Any]:
    """The mask's array in the order of the image's spatial axes.

    Raises:
        UnreadableRecording: it lies on another grid; the reason gives both.
    """
    shape = tuple(image.data.shape[i] for i in image.spatial_axes)
    if len(mask.spatial_axes) != 3 or mask.data.ndim != 3:
        raise UnreadableRecording(f"{name} has shape {mask.data.shape}, not that of one volume", mask.source)
    mine, theirs = _affine(mask), _affine(image)
    if mask.data.shape == shape and same_grid(mine, theirs, shape):
        return mask.data
    turned, affine = canonical(mask.data, mine)
    like, like_affine = canonical(np.broadcast_to(np.uint8(0), shape), theirs)
    if turned.shape != like.shape:
        raise UnreadableRecording(f"{name} has {_grid(mask)}, its image {_grid(image)}", mask.source)
    if not same_grid(affine, like_affine, like.shape):
        raise UnreadableRecording(
            f"{name} has the shape of its image but lies elsewhere: first voxel at {_place(affine)} mm, the image's at "
            f"{_place(like_affine)} mm, spacing {_sizes(mask)} and {_sizes(image)} mm",
            mask.source,
        )
    return _turned_back(turned, theirs, shape)


def _turned_back(canonical_array: NDArray[Any], affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[Any]:
    """Undo :func:`canonical`: where each voxel of a grid of ``shape`` and ``affine`` went, read it from there."""
    numbers, _ = canonical(np.arange(int(np.prod(shape))).reshape(tuple(shape)), affine)
    result = np.empty(int(np.prod(shape)), dtype=canonical_array.dtype)
    result[numbers.ravel()] = canonical_array.ravel()
    return result.reshape(tuple(shape))


def _read_volume(path: Path | tuple[Path, ...], fourth_axis: Literal["time", "channel"] = "time") -> Read:
    if isinstance(path, tuple):
        from medssl.adapters.dicom import read_dicom

        return read_dicom(list(path))
    from medssl.adapters.volume import read_volume

    return read_volume(path, fourth_axis=fourth_axis)


def _read_signal(item: Item) -> Read:
    from medssl.adapters.signal import read_signal

    path = item.path[0] if isinstance(item.path, tuple) else item.path
    if isinstance(item, FmriItem):
        from medssl.cohort.fmri_runs import read_run

        return read_run(item)
    if isinstance(item, SignalItem):
        return read_signal(path, rate_hz=item.rate_hz, units=item.units, channels=item.channels, key=item.key)
    return read_signal(path)


def _read_video(item: Item) -> Read:
    from medssl.adapters.echo import read_echo
    from medssl.adapters.echo_frames import read_frame_folder

    rate_hz, colour = (item.rate_hz, item.colour) if isinstance(item, VideoItem) else (None, False)
    if isinstance(item.path, tuple):
        return Read([read_frame_folder(item.path, rate_hz=rate_hz, colour=colour)], [])
    return read_echo(item.path, rate_hz=rate_hz, colour=colour)


def _finish(read: Read, item: Item) -> Read:
    """Ids, labels, site and masks of the item on every recording it gave."""
    rejected = list(read.rejected)
    if not read.recordings and not rejected:
        rejected.append(Rejected(item.source, "it holds no recording"))
    masks = {name: _read_mask(path) for name, path in item.masks.items()}
    recordings = []
    for i, recording in enumerate(read.recordings):
        arrays = {name: place_mask(mask, recording, f"mask '{name}'") for name, mask in masks.items()}
        several = len(read.recordings) > 1
        recordings.append(
            recording.with_(
                ids=_ids(item.ids, recording.ids, i if several else None),
                labels={**recording.labels, **_known(item.labels, recording.labels), **arrays},
                site=item.site or recording.site,
                scanner=item.scanner or recording.scanner,
                source=item.source,
                notes=(*recording.notes, *_mask_notes(masks)),
            )
        )
    return Read(recordings, rejected)


def _read_mask(path: Path) -> Recording:
    from medssl.adapters.masks import read_mask

    return read_mask(path)


def _known(stated: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's labels win over the file's, except where the recipe does not know."""
    return {name: value for name, value in stated.items() if value is not None or name not in read}


def _mask_notes(masks: Mapping[str, Recording]) -> list[str]:
    return [f"mask '{name}': {note}" for name, mask in masks.items() for note in mask.notes]


def _ids(stated: Ids, read: Ids, number: int | None) -> Ids:
    """The recipe's ids, completed by the file's; numbered where one item gave several recordings."""
    merged = Ids(
        stated.patient or read.patient,
        stated.session or read.session,
        stated.recording or read.recording,
        stated.trial or read.trial,
    )
    if number is None or not stated.recording:
        return merged
    return replace(merged, recording=f"{stated.recording}-{number + 1}")


def _one(read: Read, path: Path) -> Recording:
    if len(read.recordings) != 1:
        raise UnreadableRecording(f"one volume is wanted, it holds {len(read.recordings)}", path)
    recording = read.recordings[0]
    if recording.axes != "zyx":
        raise UnreadableRecording(f"one channel is wanted, its axes are '{recording.axes}'", path)
    return recording


def _affine(recording: Recording) -> NDArray[np.float64]:
    if recording.affine is not None:
        return recording.affine
    return default_affine(recording.spacing_mm or (1.0, 1.0, 1.0))


def _grid(recording: Recording) -> str:
    return f"{'x'.join(str(recording.data.shape[i]) for i in recording.spatial_axes)} voxels of {_sizes(recording)} mm"


def _sizes(recording: Recording) -> str:
    return "x".join(f"{v:.3g}" for v in spacing_of(_affine(recording)))


def _place(affine: NDArray[np.float64]) -> str:
    return "({:.1f}, {:.1f}, {:.1f})".format(*affine[:3, 3])
