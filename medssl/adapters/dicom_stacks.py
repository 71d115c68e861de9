"""From loose DICOM frames to regular grids: grouping, sorting along the normal, repeats, gaps and tilt.

Only positions and orientations count; file names and InstanceNumber do not decide where a slice lies. A grid that
is not regular is refused with the gaps and the files, never stacked as if it were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medssl.adapters.dicom_frame import Frame
from medssl.adapters.dicom_header import DicomFile
from medssl.adapters.recording import Rejected
from medssl.errors import UnreadableRecording

__all__ = ["ORDER", "Stack", "arrange", "groups", "named"]

# What puts several images of one position in order, best first. The last is a mere counter: copies differ in it too.
ORDER = ("temporal position", "trigger time", "acquisition time", "acquisition", "b value", "instance number")
REPEAT_INDEX = ("temporal position", "acquisition")
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
GAP_TOLERANCE = 0.05  # of the regular gap: headers round positions, e.g. 3.312 and 3.313 mm
TILT_DEGREES = 0.1
Columns = list[list[Frame]]
Same = Callable[[Frame, Frame], bool]


@dataclass(slots=True)
class Stack:
    """A regular grid of frames.

    Attributes:
        frames: ``[t][z]``, z along the slice normal.
        affine: (4, 4), columns z, y, x; RAS+ millimetres. Columns are not perpendicular under gantry tilt.
        frame_times: seconds of each ``t`` where the headers tell them.
        notes: repairs and peculiarities.
        rejected: frames that were left out, with the reason.
    """

    frames: list[list[Frame]]
    affine: NDArray[np.float64]
    frame_times: NDArray[np.float64] | None = None
    notes: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def named(frames: Iterable[Frame], limit: int = 30) -> str:
    """The distinct file names of frames, for a message."""
    names = list(dict.fromkeys(frame.path.name for frame in frames))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def groups(files: Sequence[DicomFile]) -> list[list[Frame]]:
    """Frames that may form one volume: same matrix, voxel size, orientation, stack, echo and complex part."""
    by_kind: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for file in files:
        for frame in file.frames:
            spacing = (round(frame.spacing[0], 4), round(frame.spacing[1], 4))
            by_kind[(file.modality, file.shape, file.colour, spacing, frame.part)].append(frame)
    return [cluster for frames in by_kind.values() for cluster in _by_orientation(frames)]


def _by_orientation(frames: list[Frame]) -> list[list[Frame]]:
    clusters: list[list[Frame]] = []
    for frame in frames:
        for cluster in clusters:
            if np.abs(cluster[0].orientation - frame.orientation).max() < 2e-3:  # about 0.1 degrees
                cluster.append(frame)
                break
        else:
            clusters.append([frame])
    return clusters


def arrange(frames: list[Frame], *, same: Same, where: Path) -> list[Stack]:
    """Puts the frames of one group on regular grids.

    Args:
        frames: frames of one size and orientation (see :func:`groups`).
        same: whether two frames hold the same values.
        where: folder or file, for messages.

    Returns:
        One stack, or one for every repeat where repeats cover different slices.

    Raises:
        UnreadableRecording: slices are missing, unevenly spaced or out of line, or several images of one position
            cannot be told apart; the reason names gaps and files.
    """
    columns, copies = _without_copies(_levels(frames, where))
    notes = [f"duplicate files left out: {named(copies)}"] if copies else []
    stack = Stack([], np.eye(4), notes=notes)
    key = ""
    if max(map(len, columns)) > 1:
        columns, key = _repeats(columns, same, stack)
    if len({len(column) for column in columns}) > 1:
        return _by_repeat(columns, key, same, where)
    if len(columns[0]) > 1 and not key:
        raise UnreadableRecording(
            f"{len(columns[0])} different images at each of {len(columns)} positions and nothing in the headers tells "
            f"them apart ({named(f for c in columns for f in c)})",
            where,
        )
    stack.frames = [list(phase) for phase in zip(*columns, strict=True)]
    stack.affine = _affine(stack.frames[0], stack.notes, where)
    if key:
        stack.notes.append(f"{len(stack.frames)} images a position, ordered by {key}")
        stack.frame_times = _times(stack.frames, key)
    return [stack]


def _levels(frames: list[Frame], where: Path) -> Columns:
    """Frames by position along the normal, ascending."""
    normal = np.cross(*frames[0].orientation)
    heights = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(heights, kind="stable")
    tolerance = 0.02 * frames[0].slice_mm or 0.01
    columns: Columns = [[frames[order[0]]]]
    for before, now in pairwise(order):
        if heights[now] - heights[before] > tolerance:
            columns.append([])
        columns[-1].append(frames[now])
    for column in columns:
        aside = max(float(np.linalg.norm(frame.position - column[0].position)) for frame in column)
        if aside > tolerance + min(frames[0].spacing):
            raise UnreadableRecording(f"images at one height lie {aside:.1f} mm apart ({named(column)})", where)
    return columns


def _without_copies(columns: Columns) -> tuple[Columns, list[Frame]]:
    """Drops frames whose SOPInstanceUID was seen before."""
    seen: set[tuple[str, int]] = set()
    kept: Columns = []
    copies: list[Frame] = []
    for column in columns:
        kept.append([])
        for frame in column:
            identity = (frame.instance, frame.index)
            if frame.instance and identity in seen:
                copies.append(frame)
            else:
                seen.add(identity)
                kept[-1].append(frame)
    return kept, copies


def _repeats(columns: Columns, same: Same, stack: Stack) -> tuple[Columns, str]:
    """Settles positions with several images: phases in order, or copies left out. Returns the columns and the key."""
    key = _distinguishing(columns, ORDER[:-1])
    if not key:
        unique = [_distinct(column, same) for column in columns]
        if len({len(column) for column in unique}) == 1 and unique != columns:
            dropped = [f for c, u in zip(columns, unique, strict=True) for f in c if f not in u]
            stack.notes.append(f"identical images left out: {named(dropped)}")
            columns = unique
    if not key and max(map(len, columns)) > 1:
        lossless = [[frame for frame in column if not frame.lossy] for column in columns]
        if all(len(column) == 1 for column in lossless):
            lossy = [f for c, u in zip(columns, lossless, strict=True) for f in c if f not in u]
            stack.rejected += [
                Rejected(str(f.path), "a lossily compressed copy of an image that is here losslessly") for f in lossy
            ]
            stack.notes.append(f"lossily compressed copies left out: {named(lossy)}")
            columns = lossless
    if not key and max(map(len, columns)) > 1:
        key = _distinguishing(columns, ORDER)
    if not key:
        return columns, ""
    return [sorted(column, key=lambda frame: frame.times[key]) for column in columns], key


def _distinct(column: list[Frame], same: Same) -> list[Frame]:
    kept: list[Frame] = []
    for frame in column:
        if not any(same(frame, other) for other in kept):
            kept.append(frame)
    return kept


def _distinguishing(columns: Columns, keys: Sequence[str]) -> str:
    """The first key by which every position's images differ, all positions having equally many; else empty."""
    if len({len(column) for column in columns}) > 1:
        return ""
    return next((key for key in keys if _tells_apart(columns, key)), "")


def _tells_apart(columns: Columns, key: str) -> bool:
    return all(
        all(key in frame.times for frame in column) and len({frame.times[key] for frame in column}) == len(column)
        for column in columns
    )


def _by_repeat(columns: Columns, key: str, same: Same, where: Path) -> list[Stack]:
    """Positions with unequally many images: one volume a repeat where the headers number the repeats."""
    frames = [frame for column in columns for frame in column]
    key = key or next((name for name in REPEAT_INDEX if _tells_apart(columns, name)), "")
    if not key:
        counts = [len(column) for column in columns]
        usual = max(set(counts), key=counts.count)
        odd = [frame for column in columns if len(column) != usual for frame in column]
        raise UnreadableRecording(
            f"{min(counts)} to {max(counts)} different images a position, and nothing numbers the repeats "
            f"({named(odd)})",
            where,
        )
    stacks: list[Stack] = []
    for value in sorted({frame.times[key] for frame in frames}):
        for stack in arrange([f for f in frames if f.times[key] == value], same=same, where=where):
            stack.notes.append(f"repeats cover different slices: this volume is {key} {value:g}")
            stacks.append(stack)
    return stacks


def _affine(frames: list[Frame], notes: list[str], where: Path) -> NDArray[np.float64]:
    """Voxel → RAS millimetres of the slices in order; checks that they are evenly spaced and in line."""
    first = frames[0]
    normal = np.cross(*first.orientation)
    positions = np.stack([frame.position for frame in frames])
    if len(frames) == 1:
        if not first.slice_mm:
            notes.append("a single slice without thickness: 1 mm assumed")
        else:
            notes.append("a single slice: its thickness is taken as the spacing")
        step = normal * (first.slice_mm or 1.0)
    else:
        _check_gaps(frames, np.diff(positions @ normal), notes, where)
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        ideal = positions[0] + np.arange(len(frames))[:, None] * step
        aside = float(np.abs((positions - ideal) - ((positions - ideal) @ normal)[:, None] * normal).max())
        if aside > 0.1 + 0.1 * min(first.spacing):
            raise UnreadableRecording(f"slices are out of line by up to {aside:.1f} mm ({named(frames)})", where)
        tilt = _tilt(step, normal)
        if tilt > TILT_DEGREES:
            notes.append(f"gantry tilt of {tilt:.1f} degrees: slices are sheared, and so is the affine")
    affine = np.eye(4)
    affine[:3, 0] = step * LPS_TO_RAS
    affine[:3, 1] = first.orientation[1] * first.spacing[0] * LPS_TO_RAS
    affine[:3, 2] = first.orientation[0] * first.spacing[1] * LPS_TO_RAS
    affine[:3, 3] = positions[0] * LPS_TO_RAS
    return affine + 0.0  # no negative zeros


def _tilt(step: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    cosine = float(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0))
    return float(np.degrees(np.arccos(cosine)))


def _check_gaps(frames: list[Frame], gaps: NDArray[np.float64], notes: list[str], where: Path) -> None:
    regular = float(np.median(gaps))
    spread = float(np.abs(gaps - regular).max())
    if spread > GAP_TOLERANCE * regular:
        raise UnreadableRecording(_gap_reason(frames, gaps), where)
    if spread > 0.01 * regular:
        notes.append(f"slice gaps of {gaps.min():.3f} to {gaps.max():.3f} mm taken as evenly {gaps.mean():.3f} mm")


def _gap_reason(frames: list[Frame], gaps: NDArray[np.float64]) -> str:
    base = float(gaps.min())
    counts = np.round(gaps / base)
    if np.abs(gaps - counts * base).max() <= GAP_TOLERANCE * base and np.median(counts) == 1:
        holes = [
            f"{int(counts[i]) - 1} between {frames[i].path.name} and {frames[i + 1].path.name} ({gaps[i]:.2f} mm apart)"
            for i in np.flatnonzero(counts > 1)
        ]
        return f"slices are missing: {'; '.join(holes)}, where {base:.2f} mm is regular"
    normal = np.cross(*frames[0].orientation)
    tilt = _tilt(frames[-1].position - frames[0].position, normal)
    tilted = f", with a gantry tilt of {tilt:.1f} degrees" if tilt > TILT_DEGREES else ""
    listed = ", ".join(f"{gap:.2f}" for gap in gaps[:20]) + (", ..." if len(gaps) > 20 else "")
    return f"uneven gaps between slices ({listed} mm){tilted}: {named(frames)}"


def _times(phases: list[list[Frame]], key: str) -> NDArray[np.float64] | None:
    """Seconds of each phase, averaged over the slices: after the trigger, or from the first acquisition."""
    for name in dict.fromkeys((key, "trigger time", "acquisition time")):
        if name not in ("trigger time", "acquisition time"):
            continue
        if all(name in frame.times for phase in phases for frame in phase):
            times: NDArray[np.float64] = np.array([[frame.times[name] for frame in phase] for phase in phases]).mean(
                axis=1
            )
            if np.all(np.diff(times) > 0):
                return times if name == "trigger time" else times - times[0]
    return None
