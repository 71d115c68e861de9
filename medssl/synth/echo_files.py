"""Synthetic echocardiograms as files: AVI (MJPG), ultrasound DICOM, and a data set in the layout of EchoNet-Dynamic."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.errors import ConfigError
from medssl.synth.echo import SyntheticEcho, draw_echo_patient, simulate_echo

__all__ = ["trace_rows", "write_echo_avi", "write_echo_dicom", "write_echonet"]

CHORDS = 20
JPEG_BITS = 40_000_000
JPEG_BEST = {"qmin": "1", "qmax": "1"}  # little loss, so that the speckle stays

Syntax = Literal["raw", "rle", "jpeg"]


def write_echo_avi(path: Path | str, frames: NDArray[np.uint8], rate_hz: float) -> Path:
    """Writes grey frames as motion JPEG, the codec of EchoNet-Dynamic.

    Args:
        path: of the file; the folder must exist.
        frames: (T, Y, X) grey or (T, Y, X, 3) RGB; Y and X even.
        rate_hz: frames a second.
    """
    import av

    path = Path(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=_fraction(rate_hz), options=JPEG_BEST)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p"
        stream.bit_rate = JPEG_BITS
        for picture in frames:
            for packet in stream.encode(_picture(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_echo_dicom(
    path: Path | str,
    frames: NDArray[np.uint8],
    rate_hz: float,
    *,
    syntax: Syntax = "raw",
    spacing_mm: tuple[float, float] | None = None,
    patient: str = "",
    region: tuple[int, int, int, int] | None = None,
) -> Path:
    """Writes an Ultrasound Multi-frame Image (Explicit VR Little Endian, RLE, or JPEG baseline in YBR_FULL_422).

    Args:
        path: of the file; the folder must exist.
        frames: (T, Y, X) grey, or (T, Y, X, 3) RGB.
        rate_hz: frames a second, written as FrameTime.
        syntax: how pixels are encoded; ``"jpeg"`` is always in colour.
        spacing_mm: size of a pixel (y, x), written into the ultrasound region.
        patient: PatientID.
        region: (x0, y0, x1, y1) of the tissue region, ends included; the whole picture when not given.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

    count, height, width = frames.shape[:3]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
    seeds = [str(path), str(count), syntax]
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=seeds)
    data.StudyInstanceUID = generate_uid(entropy_srcs=[*seeds, "study"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[*seeds, "series"])
    data.PatientID, data.Modality, data.Manufacturer = patient, "US", "Synthetic"
    data.NumberOfFrames, data.Rows, data.Columns = count, height, width
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.FrameTime = f"{1000 / rate_hz:.6f}"[:16]
    data.BurnedInAnnotation = "YES"
    if spacing_mm is not None:
        data.SequenceOfUltrasoundRegions = [_region(region or (0, 0, width - 1, height - 1), spacing_mm)]
    colour = frames.ndim == 4
    data.SamplesPerPixel = 3 if colour or syntax == "jpeg" else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    if syntax == "jpeg":
        _encapsulate(data, frames)
    else:
        data.PixelData = frames.tobytes() + b"\0" * (frames.size % 2)
        data["PixelData"].VR = "OB"
        if syntax == "rle":
            data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return Path(path)


def write_echonet(folder: Path | str, *, patients: int = 6, seed: int = 0, frames: int = 60) -> Path:
    """Writes ``Videos/*.avi`` of 112 x 112, ``FileList.csv`` and ``VolumeTracings.csv`` as EchoNet-Dynamic has them.

    With its peculiarities: names without suffix in one table and with it in the other, the split in upper case, and
    tracings of two frames, a long axis and 20 chords each.

    Args:
        folder: made if missing.
        patients: one clip each.
        seed: the same seed gives the same bytes; a patient does not depend on how many there are.
        frames: of a clip.

    Raises:
        ConfigError: less than one patient.
    """
    if patients < 1:
        raise ConfigError(f"patients {patients}: at least one is needed")
    folder = Path(folder)
    (folder / "Videos").mkdir(parents=True, exist_ok=True)
    files: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        patient = draw_echo_patient(rng)
        echo = simulate_echo(rng, patient, frames=frames, burnt_in=False)
        name = f"0X{number + 1:016X}"
        write_echo_avi(folder / "Videos" / f"{name}.avi", echo.frames, echo.rate_hz)
        volumes = {"EF": f"{patient.ef:.6f}", "ESV": f"{patient.esv_ml:.6f}", "EDV": f"{patient.edv_ml:.6f}"}
        shape = {"FrameHeight": 112, "FrameWidth": 112, "FPS": f"{echo.rate_hz:g}", "NumberOfFrames": frames}
        files.append({"FileName": name, **volumes, **shape, "Split": ("TRAIN", "TRAIN", "VAL", "TEST")[number % 4]})
        for frame in (echo.es_frame, echo.ed_frame):
            for x1, y1, x2, y2 in trace_rows(echo, frame):
                points = {"X1": f"{x1:.4f}", "Y1": f"{y1:.4f}", "X2": f"{x2:.4f}", "Y2": f"{y2:.4f}"}
                traces.append({"FileName": f"{name}.avi", **points, "Frame": frame})
    _write_table(folder / "FileList.csv", files)
    _write_table(folder / "VolumeTracings.csv", traces)
    return folder


def trace_rows(echo: SyntheticEcho, frame: int) -> NDArray[np.float64]:
    """The cavity as EchoNet-Dynamic traces it: (21, 4) X1, Y1, X2, Y2; the long axis, then chords from apex to base."""
    (length, width), (y, x) = echo.axes_px[frame], echo.centre_px[frame]
    down, right = np.array([np.sin(echo.tilt), np.cos(echo.tilt)]), np.array([np.cos(echo.tilt), -np.sin(echo.tilt)])
    centre = np.array([x, y])
    along = (np.arange(CHORDS) + 0.5) / CHORDS * 2 - 1
    half = width * np.sqrt(1 - along**2)
    middle = centre + along[:, None] * length * down
    chords = np.concatenate([middle - half[:, None] * right, middle + half[:, None] * right], axis=1)
    axis = np.concatenate([centre - length * down, centre + length * down])
    return np.concatenate([axis[None], chords])


def _picture(picture: NDArray[np.uint8]) -> Any:
    import av

    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return frame.reformat(format="yuvj420p", dst_color_range="JPEG")


def _fraction(rate_hz: float) -> Any:
    from fractions import Fraction

    return Fraction(rate_hz).limit_denominator(1000)


def _region(box: Sequence[int], spacing_mm: tuple[float, float]) -> Any:
    from pydicom.dataset import Dataset

    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = box[0], box[1]
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = box[2], box[3]
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaY, region.PhysicalDeltaX = (s / 10 for s in spacing_mm)
    return region


def _encapsulate(data: Any, frames: NDArray[np.uint8]) -> None:
    """JPEG baseline, chroma at half the horizontal resolution."""
    import av
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    encoded: list[bytes] = []
    for picture in frames:
        codec = av.CodecContext.create("mjpeg", "w")
        codec.height, codec.width = picture.shape[:2]
        codec.pix_fmt, codec.bit_rate = "yuvj422p", JPEG_BITS
        codec.time_base, codec.options = _fraction(0.04), JPEG_BEST
        image = _picture(picture).reformat(format="yuvj422p", dst_color_range="JPEG")
        encoded.append(b"".join(bytes(packet) for packet in [*codec.encode(image), *codec.encode(None)]))
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PhotometricInterpretation, data.LossyImageCompression = "YBR_FULL_422", "01"
    data.PixelData = encapsulate(encoded)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True


def _write_table(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
