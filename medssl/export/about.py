"""The metadata of an exported file: what goes in, how it is made, what comes out and what one does with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medssl import __version__

if TYPE_CHECKING:
    from medssl.export.network import Exportable
    from medssl.export.source import Source

__all__ = ["FORMAT_VERSION", "as_json", "describe_export", "postprocessing", "preprocessing"]

FORMAT_VERSION = 1

_MEANINGS = {
    "pooled": "one vector a sample",
    "logits": "before softmax or sigmoid",
    "probabilities": "of the classes, in their order",
    "value": "in the unit of the target",
}


def describe_export(source: Source, found: Exportable, free: tuple[str, ...], format: str) -> dict[str, Any]:
    """Plain data, without ids of patients and without paths.

    Args:
        source: what was exported.
        found: the network as it was traced.
        free: axes of any length.
        format: ``"onnx"`` or ``"pt2"``.
    """
    import torch

    encoder, inputs = source.encoder, source.inputs
    return {
        "format_version": FORMAT_VERSION, "format": format, "part": source.part,
        "architecture": type(encoder).__name__,
        "head": type(source.network).__name__ if source.part == "model" else None,
        "input": {
            "name": "x", "dtype": "float32", "axes": list(found.axes), "any_length": list(free),
            "shape": [None if a in free else n for a, n in zip(found.axes, found.shape, strict=True)],
            "trained_size": list(inputs.size), "multiple_of": list(encoder.divisor), "minimum": list(encoder.minimum),
            "kind": inputs.kind, "channels": list(inputs.channels),
            "spacing_mm": inputs.spacing_mm and list(inputs.spacing_mm), "rate_hz": inputs.rate_hz,
        },
        "outputs": [{"name": name, **_output(source, name)} for name in found.outputs],
        "preprocessing": {"settings": dict(inputs.preparation), "steps": preprocessing(source)},
        "postprocessing": postprocessing(source),
        "target": dict(source.target) or None,
        "testing": dict(source.testing) or None,
        "source": {"run": source.name, "weights_sha256": source.sha256()},
        "versions": {"medssl": __version__, "torch": torch.__version__},
        "note": "Research software. Not a medical device, not for diagnosis.",
    }  # fmt: skip


def _output(source: Source, name: str) -> dict[str, Any]:
    encoder = source.encoder
    if name.startswith("map_"):
        place = int(name.removeprefix("map_"))
        return {"channels": encoder.channels[place], "stride": list(encoder.strides[place]), "meaning": "feature map"}
    if name == "pooled":
        return {"channels": encoder.out_dim, "meaning": _MEANINGS[name]}
    return {"meaning": _MEANINGS[name]}


def preprocessing(source: Source) -> list[str]:
    """Sentences that lead from a raw recording to the input; the settings beside them say the rest exactly."""
    inputs = source.inputs
    arguments: Mapping[str, Any] = inputs.preparation.get("init_args", {})
    named = ", ".join(inputs.channels)
    steps = [f"channels in this order, found by name: {named}"]
    of_kind = {"volume": _of_volume, "video": _of_video, "signal": _of_signal}[inputs.kind]
    if str(inputs.preparation.get("class_path", "")).endswith("FmriPreparation"):
        of_kind = _of_fmri
    steps += of_kind(source, arguments)
    return [*steps, "medssl's own preparation (`medssl predict`) does exactly this from the settings"]


def _of_volume(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    from medssl.cohort.volumes import CT_WINDOW

    spacing = source.inputs.spacing_mm
    steps = ["axes z, y, x point to superior, anterior, right"]
    if spacing:
        steps.append(f"resampled to voxels of {' × '.join(f'{s:g}' for s in spacing)} mm (z, y, x)")
    kind = arguments.get("intensity")
    if kind == "ct":
        low, high = arguments.get("window") or CT_WINDOW
        steps.append(f"Hounsfield units rounded, then x = (HU − ({low:g})) / {high - low:g}, clamped to 0 to 1")
    elif kind == "mr" and arguments.get("percentiles"):
        low, high = arguments["percentiles"]
        steps.append(
            f"percentiles {low:g} and {high:g} of the voxels above the volume's minimum become 0 and 1, clamped; "
            "for each volume and channel anew"
        )
    elif kind == "none":
        steps.append("values as they are")
    else:
        steps.append("intensities by kind of volume: see the settings")
    return steps


def _of_video(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    steps = ["axes t, y, x; grey levels (luminance of colour) from 0 to 255"]
    if arguments.get("sector") == "blank":
        steps.append("everything outside the ultrasound sector, which is found from what moves, made black")
    if arguments.get("text") == "blank":
        steps.append("boxes around white characters that stand still over the sector made black")
    if arguments.get("crop"):
        steps.append("cut to the rows and columns of the sector")
    if source.inputs.rate_hz:
        steps.append(f"to {source.inputs.rate_hz:g} frames a second by the nearest frame")
    size = arguments.get("size")
    if size:
        height, width = (size, size) if isinstance(size, int) else size
        kept = "its aspect kept, black added" if arguments.get("aspect") == "pad" else "its aspect not kept"
        steps.append(f"resized to {height} × {width} pixels, {kept}")
    return [*steps, "x = grey level / 255"]


def _of_signal(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    steps = []
    if arguments.get("units"):
        steps.append(f"in {arguments['units']}")
    if arguments.get("reference"):
        steps.append(f"referenced to {arguments['reference']}")
    if arguments.get("band_hz"):
        low, high = ("open" if f is None else f"{f:g} Hz" for f in arguments["band_hz"])
        steps.append(f"band-pass filtered (zero phase) from {low} to {high}")
    if arguments.get("notch_hz"):
        steps.append(f"mains of {arguments['notch_hz']:g} Hz removed")
    if source.inputs.rate_hz:
        steps.append(f"resampled to {source.inputs.rate_hz:g} Hz")
    if arguments.get("standardise") == "recording":
        steps.append(
            "of each channel of each whole recording: minus the median, over the standard deviation of the values "
            "clamped to the 0.5th to 99.5th percentile (1 where that is 0); clamped to ±20"
        )
    else:
        steps.append("in physical units, not standardised")
    return steps


def _of_fmri(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    steps = [f"mean signal of every region of atlas '{arguments.get('atlas') or 'not named'}'"]
    if arguments.get("max_fd_mm") is not None and arguments.get("confounds") != "none":
        steps.append(
            f"volumes with a framewise displacement above {arguments['max_fd_mm']:g} mm interpolated, later cut"
        )
    if arguments.get("detrend"):
        steps.append("a line subtracted")
    band = arguments.get("filtered_hz") or (arguments.get("band_hz") if arguments.get("filter") != "none" else None)
    if band:
        low, high = ("open" if f is None else f"{f:g} Hz" for f in band)
        cosine = arguments.get("filter") == "cosine"
        steps.append(f"high-pass by cosines from {low}" if cosine else f"band-pass filtered from {low} to {high}")
    if arguments.get("confounds") != "none":
        steps.append(f"confounds ({arguments.get('confounds')}), filtered alike, projected out")
    if source.inputs.rate_hz:
        steps.append(f"at a repetition time of {1 / source.inputs.rate_hz:g} s")
    return [*steps, "z-scores of each region over the run (ddof 1), clamped to ±20; an invalid region is 0 throughout"]


def postprocessing(source: Source) -> list[str]:
    """What is done with the outputs in testing, beside the file; empty for an encoder."""
    if source.part == "encoder":
        return []
    task, testing, head = source.target["task"], source.testing, source.network
    if task == "segmentation":
        size = " × ".join(str(s) for s in testing["size"])
        steps = [
            f"windows of {size} voxels that overlap by {testing['overlap']:g}, their probabilities averaged with "
            "Gaussian weights; volumes smaller than a window are padded with the volume's minimum",
            "the most probable class; target.values are the label values of the classes",
        ]
        if getattr(head, "mirror", False):
            steps.insert(0, "probabilities averaged over all mirrorings of the window (the file computes one)")
    else:
        steps = [str(source.provenance.get("aggregation") or "not stored how windows are joined")]
    if testing.get("precision", "32-true") != "32-true":
        steps.append(f"the file computes in float32; tested was {testing['precision']}, which rounds more")
    return steps


def as_json(metadata: Mapping[str, Any]) -> str:
    """Compact JSON, to lie inside a file."""
    from medssl.configurable import spec

    return json.dumps(spec(metadata), ensure_ascii=False, allow_nan=False)
