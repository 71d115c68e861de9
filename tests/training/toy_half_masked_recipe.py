"""The synthetic volumes, of which every second one has no mask."""

from __future__ import annotations

from dataclasses import replace

from toy_volume_recipe import ToyVolumes

from medssl.adapters.recording import Read
from medssl.cohort.recipe import Item


class HalfMasked(ToyVolumes):
    def read(self, item: Item) -> Read:
        found = super().read(item)
        if int(item.source.rsplit("-", 1)[1].split(".")[0]) % 2 == 0:
            return found
        unmasked = [replace(r, labels={k: v for k, v in r.labels.items() if k != "organs"}) for r in found.recordings]
        return Read(unmasked, [])
