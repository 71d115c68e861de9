"""Exports an encoder (and decoder) while training goes on: a reader (or a kill) never meets half of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from medssl.encoders.base import Encoder, InputSpec, encoder_folder, save_encoder
from medssl.errors import CheckpointError

__all__ = ["Filled", "export_encoder", "fill_decoder", "joined_marks", "labels_note", "patient_marks"]

DECODER = "decoder.safetensors"


class Filled(NamedTuple):
    """What became of a decoder's tensors (weights, and buffers of norms).

    Attributes:
        loaded: names of those that came from a pre-training run.
        fresh: names of those that are as they were initialised.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors of the decoder come from pre-training, {len(self.fresh)} are fresh"


def export_encoder(
    encoder: Encoder,
    folder: Path,
    inputs: InputSpec,
    provenance: Mapping[str, Any],
    decoder: nn.Module | None = None,
) -> None:
    """``save_encoder`` into a folder beside, and the decoder's weights if there is one; then move each into place."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".encoder-"))
    try:
        save_encoder(encoder, beside, inputs, provenance)
        if decoder is not None:
            _save(decoder, beside / DECODER)
        # weights first: a description always has its weights
        for file in sorted(beside.iterdir(), key=lambda f: (f.suffix == ".json", f.name)):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def fill_decoder(decoder: nn.Module, source: str | Path) -> Filled | None:
    """Copy the decoder of a pre-training run, as far as names and shapes agree; classifiers stay fresh.

    Args:
        decoder: filled in place.
        source: a run directory, or the folder that holds ``encoder.json``.

    Returns:
        What was copied; None where the run has no decoder.

    Raises:
        CheckpointError: a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = encoder_folder(source)
    if not (folder / DECODER).is_file():
        return None
    try:
        found = load_file(folder / DECODER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{folder / DECODER}' is damaged ({error}); export or copy the run again") from error
    own = decoder.state_dict()
    taken = {
        name: value
        for name, value in found.items()
        if name in own and own[name].shape == value.shape and not name.startswith("outputs.")
    }
    decoder.load_state_dict(taken, strict=False)
    return Filled(tuple(taken), tuple(name for name in own if name not in taken))


def _save(module: nn.Module, file: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}, file)


def patient_marks(fingerprint: str, patients: Iterable[str]) -> dict[str, str]:
    """Patient → a short keyed digest. It lets one see later whose data an encoder saw, without naming anybody.

    Args:
        fingerprint: of the cohort; part of the digest, so marks of different cohorts cannot be joined.
        patients: their ids in the cohort.
    """
    key = hashlib.sha256(fingerprint.encode()).digest()
    return {p: hashlib.blake2b(p.encode(), key=key, digest_size=8).hexdigest() for p in patients}


def joined_marks(
    marks: Mapping[str, Iterable[str]], runs: Iterable[Path], what: str = "patients"
) -> dict[str, list[str]]:
    """Marks of the patients that an encoder saw, together with those that the runs it was built on saw.

    Args:
        marks: of this run, by the fingerprint of the cohort.
        runs: folders of finished runs.
        what: ``"labelled"`` for the patients whose labels were learnt from.
    """
    joined = {fingerprint: set(own) for fingerprint, own in marks.items()}
    for run in runs:
        # read as it must be there: a run that is gone would take its marks with it
        about = json.loads((encoder_folder(run) / "encoder.json").read_text(encoding="utf-8"))
        for fingerprint, theirs in about.get("provenance", {}).get(what, {}).items():
            joined.setdefault(fingerprint, set()).update(theirs)
    return {fingerprint: sorted(both) for fingerprint, both in joined.items()}


def labels_note(provenance: Mapping[str, Any]) -> str | None:
    """What one must know of an encoder that has learnt from labels already, as the end of a sentence; None for others.

    >>> labels_note({"labelled": {"cohort": ["mark"] * 12}})
    'was pre-trained with the labels of 12 patients, which a budget of labelled patients does not count'
    """
    patients = sum(len(marks) for marks in provenance.get("labelled", {}).values())
    if not patients:
        return None
    return f"was pre-trained with the labels of {patients} patients, which a budget of labelled patients does not count"
