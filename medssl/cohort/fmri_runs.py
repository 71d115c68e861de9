"""What recipes of fMRI share: how a run is read, and what all runs have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medssl.adapters.fmri import is_bold, read_fmri, stated_tr
from medssl.adapters.fmri_atlas import read_atlas
from medssl.adapters.recording import Read
from medssl.cohort.reading import FmriItem
from medssl.cohort.recipe import Item
from medssl.errors import MedSSLError

__all__ = ["common_settings", "first_path", "read_run"]

_LOOK_AT = 20


def first_path(item: Item) -> Path:
    """The file of a run."""
    return item.path[0] if isinstance(item.path, tuple) else item.path


def read_run(item: FmriItem) -> Read:
    """Read a run with all that is known of it.

    Raises:
        UnreadableRecording, ConfigError: as :func:`medssl.adapters.fmri.read_fmri`.
    """
    read = read_fmri(
        first_path(item),
        tr_s=item.tr_s,
        atlas=item.atlas or None,
        atlas_labels=item.atlas_labels,
        radius_mm=item.radius_mm,
        mask=item.brain,
        confounds=item.confounds,
        motion=item.motion,
        regions=item.regions,
        key=item.key,
    )
    if item.mean_fd is None:
        return read
    return Read([r.with_(quality={**r.quality, "mean_fd": item.mean_fd}) for r in read.recordings], read.rejected)


def common_settings(items: Iterable[Any], *, atlas: str = "") -> Mapping[str, Any]:
    """Settings of :class:`medssl.cohort.fmri.FmriPreparation` that follow from the runs.

    ``tr_s`` is the repetition time of all runs where they have one, else the longest: coming down loses only what lies
    above half the new rate (a band-pass has removed that already), coming up would invent samples. ``regions`` and
    ``atlas`` are those of the atlas of images; of ready series the number that most of the first twenty have, under the
    name given. Runs that cannot be read have no say; they are rejected later, with their reason.

    Args:
        items: what a recipe found; anything but :class:`FmriItem` is passed over.
        atlas: name of the atlas of ready series.
    """
    runs = [item for item in items if isinstance(item, FmriItem)]
    times = {round(tr, 6) for item in runs if (tr := stated_tr(first_path(item), item.tr_s)) is not None}
    found: dict[str, Any] = {"tr_s": max(times) if times else None, "atlas": atlas}
    image = next((item for item in runs if item.atlas and is_bold(first_path(item))), None)
    if image is not None:
        regions = read_atlas(image.atlas, labels=image.atlas_labels, radius_mm=image.radius_mm)
        return found | {"regions": len(regions), "atlas": regions.name}
    counts: Counter[int] = Counter()
    for item in runs[:_LOOK_AT]:
        try:
            counts.update(len(recording.data) for recording in read_run(item).recordings)
        except MedSSLError:
            continue
    return found | {"regions": counts.most_common(1)[0][0] if counts else None}
