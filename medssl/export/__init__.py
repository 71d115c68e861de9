"""Trained networks for programs without medssl: ONNX and torch.export files, compared with torch, and a model card."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medssl.errors import ConfigError, MedSSLError

if TYPE_CHECKING:
    from medssl.export.agreement import Agreement
    from medssl.export.network import Exportable
    from medssl.export.source import Source

__all__ = ["export"]

CARD = "MODEL_CARD.md"
FORMATS = (".onnx", ".pt2")


def export(
    run: Path,
    out: Path,
    *,
    part: Literal["auto", "encoder", "model"] = "auto",
    dynamic: Literal["auto", "batch", "none"] = "auto",
    tolerance: float = 1e-4,
    card: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the network of a run as a file that runs without medssl, and compare it with torch.

    OUT.json is written beside it: input, preprocessing, outputs, postprocessing, classes and the differences found; the
    same lies inside the file. The file appears only when its answers agree with torch's on random inputs of several
    shapes. MODEL_CARD.md in the same folder says what the run knows of data, method, results and limits.

    Args:
        run: of `medssl pretrain` (its encoder) or `medssl finetune` (the whole model), finished.
        out: the file; the suffix is the format: .onnx (needs the extra `onnx`) or .pt2 (torch.export).
        part: the encoder (pooled features and maps), the model (logits and probabilities, or the value), or ``auto``:
            the model where there is one.
        dynamic: axes of any length: ``auto`` tries sizes and batch, then the batch, then none; ``batch``; ``none``.
        tolerance: largest difference from torch, relative to the largest value of an output. Rounding stays below 1e-5,
            but norms over a few voxels may need more room.
        card: write MODEL_CARD.md.
        overwrite: replace what is there.

    Returns:
        What stands in OUT.json.

    Raises:
        MedSSLError: no finished run, an unknown suffix, something in the way, a network that cannot be exported, or
            answers that differ.
    """
    run, out = Path(run), Path(out)
    _check(out, tolerance, overwrite=overwrite)
    if out.suffix == ".onnx":
        from medssl.export.onnx import require_onnx

        require_onnx()
    from medssl.export.source import open_run

    source = open_run(run, part)
    write_card = card and _may_write_card(source, out.parent / CARD, overwrite=overwrite)
    from medssl.export.network import exportable

    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".export-"))
    try:
        file = beside / out.name
        metadata = _try_layouts(source, exportable(source, dynamic), file, tolerance)
        _finish(source, file, metadata, beside if write_card else None)
        for made in sorted(beside.iterdir(), key=lambda f: f == file):  # the file last: it is never without its JSON
            made.replace(out.parent / made.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _report(out, metadata, card=write_card)
    return metadata


def _check(out: Path, tolerance: float, *, overwrite: bool) -> None:
    if out.suffix not in FORMATS:
        raise ConfigError(
            f"'{out}' has {f'the suffix {out.suffix}' if out.suffix else 'no suffix'}; choose {' or '.join(FORMATS)}"
        )
    if not tolerance > 0:
        raise ConfigError(f"the tolerance must be above 0, not {tolerance}")
    if out.is_dir():
        raise ConfigError(f"'{out}' is a folder; give the name of a file in it")
    for file in (out, _beside(out)):
        if file.exists() and not overwrite:
            raise ConfigError(f"'{file}' is there already; give another name, or --overwrite true")


def _beside(out: Path) -> Path:
    """The JSON of a file."""
    return out.with_name(out.name + ".json")


def _may_write_card(source: Source, file: Path, *, overwrite: bool) -> bool:
    """False where a card of the same weights lies there: somebody may have filled in what only they know."""
    if not file.exists() or overwrite:
        return True
    if source.sha256() in file.read_text(encoding="utf-8", errors="replace"):
        return False
    raise ConfigError(
        f"'{file}' is the card of another model; export into another folder, or give --card false or --overwrite true"
    )


def _try_layouts(source: Source, found: Exportable, file: Path, tolerance: float) -> dict[str, Any]:
    """Write ``file`` with as many axes of any length as agree with torch; its metadata."""
    from medssl.export.agreement import Disagreement
    from medssl.export.program import quiet

    reason: Exception | None = None
    for free in found.layouts:
        try:
            with quiet():
                return _attempt(source, found, free, file, tolerance)
        except Disagreement as error:
            reason = error
        except ConfigError:
            raise
        except Exception as error:  # the tracer raises whatever it meets; the next layout may still do
            reason = error
        if os.environ.get("MEDSSL_DEBUG") == "1":
            print(f"not with {', '.join(free) or 'a fixed shape'}: {reason}", file=sys.stderr)
    name, kind = type(source.encoder).__name__, file.suffix
    if isinstance(reason, Disagreement):
        raise MedSSLError(f"the {kind} file of {name} is not written: {reason}") from reason
    other = "; try .pt2 instead" if kind == ".onnx" else ""
    raise MedSSLError(f"{name} cannot be exported to {kind} ({_first_line(reason)}){other}") from reason


def _attempt(source: Source, found: Exportable, free: tuple[str, ...], file: Path, tolerance: float) -> dict[str, Any]:
    from medssl.export.about import as_json, describe_export
    from medssl.export.agreement import compare
    from medssl.export.program import load_program, save_program, trace

    file.unlink(missing_ok=True)  # of the attempt before
    metadata = describe_export(source, found, free, file.suffix[1:])
    program = trace(found, free)
    if file.suffix == ".onnx":
        from medssl.export.onnx import load_onnx, opset_of, save_onnx

        save_onnx(program, found, free, file, as_json(metadata))
        metadata["opset"], loaded = opset_of(file), load_onnx(file)
    else:
        save_program(program, file, as_json(metadata))
        loaded = load_program(file)
    agreed = compare(found.reference, loaded, found.trials(free), tolerance=tolerance)
    return {**metadata, **_agreement(agreed, tolerance)}


def _agreement(agreed: Sequence[Agreement], tolerance: float) -> dict[str, Any]:
    from medssl.export.agreement import worst

    max_abs, max_rel = worst(agreed)
    inputs = [{"shape": list(a.shape), "max_abs": a.max_abs, "max_rel": a.max_rel} for a in agreed]
    return {"agreement": {"max_abs": max_abs, "max_rel": max_rel, "tolerance": tolerance, "inputs": inputs}}


def _finish(source: Source, file: Path, metadata: dict[str, Any], card: Path | None) -> None:
    """The JSON and the card, beside the file."""
    import hashlib

    from medssl.export.card import model_card
    from medssl.training.run import write_atomic, write_json

    with file.open("rb") as handle:
        metadata["sha256"] = hashlib.file_digest(handle, "sha256").hexdigest()
    write_json(_beside(file), metadata)
    if card is not None:
        write_atomic(card / CARD, model_card(source, metadata))


def _report(out: Path, metadata: dict[str, Any], *, card: bool) -> None:
    free, agreement = metadata["input"]["any_length"], metadata["agreement"]
    outputs = ", ".join(o["name"] for o in metadata["outputs"])
    shape = " × ".join("any" if n is None else str(n) for n in metadata["input"]["shape"])
    print(
        f"{metadata['part']} {metadata['architecture']}: x ({', '.join(metadata['input']['axes'])}) {shape} → {outputs}"
    )
    if not free:
        print("every axis is fixed, the batch too: this network could not be traced for others")
    written = f"{out} ({out.stat().st_size / 2**20:.1f} MiB), {_beside(out).name}" + (f", {CARD}" if card else "")
    if not card and (out.parent / CARD).exists():
        written += f" ({CARD} left as it is)"
    print(
        f"written: {written}; agrees with torch on {len(agreement['inputs'])} random inputs to "
        f"{agreement['max_abs']:.2g} ({agreement['max_rel']:.2g} of the largest value)"
    )


def _first_line(error: Exception | None) -> str:
    """What can stand in a sentence: the tracers' messages run over pages, and the first cause is the last one named."""
    deepest: BaseException | None = error
    while deepest is not None and deepest.__cause__ is not None:
        deepest = deepest.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(deepest)).splitlines() if line.strip()]
    return (lines[0] if lines else type(deepest).__name__)[:200].rstrip(".;: ")
