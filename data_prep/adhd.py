"""EEG of children with ADHD and of controls, while they count the characters of pictures: 19 channels, 128 Hz.

Get the data: https://ieee-dataport.org/open-access/eeg-data-adhd-control-children (doi 10.21227/rzfh-zn36). Licence: CC
BY 4.0. Cite: Nasrabadi AM, Allahverdy A, Samavati M, Mohammadi MR, EEG data for ADHD / control children, IEEE DataPort,
2020, doi 10.21227/rzfh-zn36.

Layout: ``ADHD/vNN.mat`` and ``Control/vNN.mat`` (also ``ADHD_part1`` and the like): one variable a file, time x 19,
in about uV, without rate or names. A file is a child. Label ``group``: ADHD or control, from the folder.

**How long a recording is tells the group** (the task ends when the child has answered): all are cut to the same
length, and shorter ones are refused. The papers' accuracies above 0.9 mostly come from windows of one child on both
sides of a split.

Splits: none is published; an honest one keeps children apart: ``medssl cohort split COHORT --stratify group``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.adapters.recording import Ids, Rejected
from medssl.cohort.finding import files_below, require_folder
from medssl.cohort.reading import SignalItem
from medssl.cohort.recipe import Item, Recipe
from medssl.cohort.signals import SignalPreparation
from medssl.errors import RecipeError

__all__ = ["ADHD"]

CHANNELS = tuple(
    name for row in ("Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2", "F7 F8 T7 T8 P7 P8 Fz Cz Pz") for name in row.split()
)
"""In the order of the columns, from ``Standard-10-20-Cap19new.ced``."""

GROUPS = {"adhd": "ADHD", "control": "control"}


class ADHD(Recipe):
    """Recordings of one length with the label group.

    Args:
        length_s: what is kept of each recording, from its beginning; None keeps all, and so the leak.
        rate_hz: of the stored signals (recorded: 128 Hz).
        band_hz: pass band; None stores it unfiltered.
    """

    kind = "signal"
    modality = "eeg"

    def __init__(
        self,
        *,
        length_s: float | None = 60.0,
        rate_hz: float | None = None,
        band_hz: tuple[float | None, float | None] | None = (0.5, 40.0),
    ) -> None:
        self.length_s = length_s
        self.rate_hz = rate_hz
        self.band_hz = band_hz

    def preparation(self) -> SignalPreparation:
        """Nineteen channels in uV, all recordings equally long."""
        return SignalPreparation(
            rate_hz=self.rate_hz,
            channels=CHANNELS,
            units="uV",
            band_hz=self.band_hz,
            min_s=self.length_s or 0.0,
            max_s=self.length_s,
            long="cut",
        )

    def find(self, source: Path) -> Iterator[Item | Rejected]:
        """Every child, with the group of its folder."""
        files = files_below(require_folder(source, "adhd"), (".mat",))
        if not files:
            raise RecipeError(f"no .mat below '{source}'; recipe 'adhd' wants the folders ADHD and Control")
        for file in files:
            group = next((name for start, name in GROUPS.items() if file.parent.name.lower().startswith(start)), None)
            if group is None:
                yield Rejected(str(file), f"its folder '{file.parent.name}' is neither ADHD nor Control")
                continue
            yield SignalItem(
                file,
                Ids(patient=file.stem, recording=file.stem),
                labels={"group": group},
                rate_hz=128.0,
                units="uV",
                channels=CHANNELS,
            )
