"""Is this installation sound: versions, devices, codecs, and what to do about what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from medssl import __version__

__all__ = ["Check", "checks", "doctor"]

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it is, what to do."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def doctor() -> int:
    """Print what is installed, which devices work, what is missing and how to get it.

    Returns:
        0 when everything the core needs works, 1 otherwise.
    """
    mark = {"ok": "ok  ", "warn": "note", "fail": "FAIL"}
    failed = False
    for check in checks():
        advice = f"  → {check.advice}" if check.advice else ""
        print(f"[{mark[check.verdict]}] {check.name}: {check.found}{advice}")
        failed |= check.verdict == "fail"
    print("something the core needs is missing" if failed else "this installation is sound")
    return int(failed)


def checks() -> Iterator[Check]:
    """All checks, cheap ones first."""
    yield Check("medssl", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    yield from _packages()
    for probe in (_compute, _threads, _dicom_codecs, _store, _tsai, _resources, _disk):
        yield _guarded(probe)


def _guarded(probe: Callable[[], Check]) -> Check:
    """A probe that breaks is itself a finding; the remaining probes must still run."""
    try:
        return probe()
    except Exception as error:  # whatever a broken installation raises
        return Check(probe.__name__.strip("_"), "fail", f"{type(error).__name__}: {error}", "reinstall medssl")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    found, missing = [], []
    try:
        wanted = [Requirement(line) for line in requires("medssl") or []]
    except PackageNotFoundError:
        yield Check("packages", "warn", "medssl is not installed, only importable", "pip install -e .")
        return
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            missing.append(need.name)
            continue
        if not need.specifier.contains(have, prereleases=True):
            missing.append(f"{need.name} {have} (needs {need.specifier})")
        found.append(f"{need.name} {have}")
    if missing:
        yield Check("packages", "fail", "missing or too old: " + ", ".join(missing), "pip install --upgrade medssl")
    else:
        yield Check("packages", "ok", ", ".join(found))
    modules = {
        "cluster": "distributed",
        "onnx": "onnxscript",
        "ant": "antio",
        "wandb": "wandb",
        "mlflow": "mlflow",
        "faiss": "faiss",
    }
    for extra, module in modules.items():
        if importlib.util.find_spec(module) is None:
            yield Check(f"extra '{extra}'", "warn", "not installed (optional)", f"pip install 'medssl[{extra}]'")


def _compute() -> Check:
    import torch

    total = torch.rand(64, 64) @ torch.rand(64, 64)
    if not bool(torch.isfinite(total).all()):
        return Check("torch", "fail", "a matrix product is not finite", "reinstall torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        torch.ones(1, device="cuda").add_(1)
        return Check("devices", "ok", f"cpu, {', '.join(names)} (CUDA {torch.version.cuda})")
    if torch.backends.mps.is_available():
        return Check("devices", "ok", "cpu, Apple mps")
    return Check("devices", "warn", "cpu only", "training works but is slow; a CUDA GPU is used when there is one")


def _threads() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("processors", "ok", f"{cores} usable, torch uses {torch.get_num_threads()} threads")


def _dicom_codecs() -> Check:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

    wanted = {"JPEG": JPEGBaseline8Bit, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless, "RLE": RLELossless}
    broken = [name for name, uid in wanted.items() if not get_decoder(uid).is_available]
    if broken:
        return Check("DICOM codecs", "fail", f"cannot decode {', '.join(broken)}", "pip install pylibjpeg[all]")
    return Check("DICOM codecs", "ok", ", ".join(wanted))


def _store() -> Check:
    import tensorstore

    with tempfile.TemporaryDirectory() as folder:
        array = tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": folder}},
            create=True, dtype=tensorstore.int16, shape=[8],
        ).result()  # fmt: skip
        array[...] = 7
        if int(array[3].read().result()) != 7:
            return Check("store", "fail", "tensorstore does not give back what was written", "reinstall tensorstore")
    return Check("store", "ok", "tensorstore writes and reads Zarr v3")


def _tsai() -> Check:
    try:
        importlib.import_module("tsai.models.InceptionTimePlus")
    except Exception as error:  # tsai breaks in many ways when its dependencies move
        return Check("tsai", "warn", f"its encoders are not usable ({error})", "pip install --upgrade tsai fastai")
    return Check("tsai", "ok", "its encoders import")


def _resources() -> Check:
    from medssl import resources

    counts = [f"{len(resources.names(kind))} {kind}" for kind in ("configs", "data_prep", "pipelines")]
    return Check("shipped files", "ok", ", ".join(counts))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    verdict: Verdict = "ok" if free > 5 else "warn"
    return Check("disk", verdict, f"{free:.0f} GB free here", "" if free > 5 else "cohorts and runs need room")


if __name__ == "__main__":
    sys.exit(doctor())
