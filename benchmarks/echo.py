"""How fast are clips of ultrasound read, from files and from a cohort? Prints Markdown tables; asserts nothing.

Run ``python benchmarks/echo.py`` (about five minutes) or with ``--quick`` (one). Clips are synthetic; with ``--clips
FOLDER``, the folder of recipe ``pocus``, one real clip of every kind of stream in it comes first. One thread.

* Reading a file: the adapter, frame by frame and grey, beside decoding the whole clip in colour and making it grey
  then. In turns; the ratio is the median of the paired ratios, in brackets its 10th and 90th percentile. MiB: most
  that a process holds in memory beyond what it held before (of a fresh one each).
* A clip for training, 16 frames of 112 x 112, every second of the file: from the prepared cohort (``ClipViews``), from
  the file by decoding what lies before it from the next key frame on, and from the file by decoding all of it.
* Ten minutes (one with ``--quick``): the most memory that reading and preparing take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["main"]

Run = Callable[[], Any]
FRAMES, EDGE, STEP = 16, 112, 2
MIB = 2**20


class Case(NamedTuple):
    """A file to read: what it is, and where."""

    name: str
    path: Path


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter clips, fewer rounds")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="the real clips of recipe pocus")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder by default)")
    parser.add_argument("--peak", nargs=2, metavar=("HOW", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peak:
        print(grown(*options.peak))
        return
    import torch

    torch.set_num_threads(1)
    rounds = 3 if options.quick else 9
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        cases = [*real(options.clips), *synthetic(folder / "clips", 200 if options.quick else 1000)]
        print(
            "\n| file | frames | adapter: ms a frame | whole, in colour: ms a frame | times faster | MiB | MiB, whole |"
        )
        print(f"|{'---|' * 7}")
        for case in cases:
            print(reading(case, rounds), flush=True)
        print("\n| a clip of | cohort: ms | file, as needed: ms | times faster | file, all of it: ms | times faster |")
        print(f"|{'---|' * 6}")
        for case in cases:
            print(clips(case, folder, 2 * rounds), flush=True)
        minutes = 1 if options.quick else 10
        print(f"\n| {minutes} minutes at 30 frames a second of 240 x 320 | MiB |\n|---|---|")
        for row in long(folder, minutes):
            print(row, flush=True)


def real(folder: Path | None) -> Iterator[Case]:
    """One clip of every codec and pixel format that the table of recipe pocus names."""
    from medssl.cohort.finding import read_rows

    if folder is None or not (folder / "labels.tsv").is_file():
        where = "no --clips given" if folder is None else f"no labels.tsv in '{folder}'"
        print(f"real clips skipped: {where}")
        return
    seen = set()
    for row in read_rows(folder / "labels.tsv"):
        kind = (row["codec"], row["pix_fmt"])
        if kind not in seen and (folder / str(row["file"])).is_file():
            seen.add(kind)
            yield Case(f"{row['codec']} {row['pix_fmt']} {row['height']}x{row['width']}", folder / str(row["file"]))


def synthetic(folder: Path, frames: int) -> list[Case]:
    """The same clip of 240 x 320 as motion JPEG, MPEG-4 and DICOM with JPEG baseline."""
    from medssl.synth.echo_files import write_echo_avi, write_echo_dicom

    folder.mkdir(parents=True)
    clip = list(pictures(frames))
    return [
        Case(f"motion JPEG, {frames} frames", write_echo_avi(folder / "mjpeg.avi", np.stack(clip), 30)),
        Case(f"MPEG-4, {frames} frames", write_mpeg(folder / "mpeg4.mp4", clip)),
        Case(
            f"DICOM, JPEG, {frames // 4} frames",
            write_echo_dicom(folder / "jpeg.dcm", np.stack(clip[: frames // 4]), 30, syntax="jpeg"),
        ),
    ]


def pictures(frames: int) -> Iterator[NDArray[np.uint8]]:
    """Frames of a beating heart, 240 x 320; after two seconds they begin again, turned from left to right."""
    from medssl.synth.echo import draw_echo_patient, simulate_echo

    rng = np.random.default_rng(0)
    shown = simulate_echo(rng, draw_echo_patient(rng), frames=60, size=(240, 320), rate_hz=30, burnt_in=False).frames
    for number in range(frames):
        yield shown[number % 60] if number // 60 % 2 == 0 else shown[number % 60][:, ::-1]


def write_mpeg(path: Path, frames: Any) -> Path:
    """MPEG-4 with a key frame every 12 frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        stream.gop_size, stream.bit_rate = 12, 4_000_000
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            for packet in stream.encode(frame.reformat(format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def adapter(path: Path) -> NDArray[np.uint8]:
    """(T, Y, X) as medssl reads it."""
    from medssl.adapters.echo import read_echo

    data: NDArray[np.uint8] = read_echo(path).recordings[0].data
    return data


def whole(path: Path) -> NDArray[np.uint8]:
    """(T, Y, X) by decoding everything in colour first."""
    from medssl.adapters.echo_colour import grey_of

    if path.suffix == ".dcm":
        from pydicom import dcmread

        colour = dcmread(path).pixel_array
    else:
        import av

        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            colour = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return grey_of(colour)


def needed(path: Path, first: int, count: int) -> NDArray[np.uint8]:
    """(T, Y, X): of a video file what lies from the key frame before the first frame on, decoded in order."""
    from medssl.adapters.echo_colour import grey_of

    wanted = range(first, first + STEP * count, STEP)
    if path.suffix == ".dcm":
        from pydicom import dcmread
        from pydicom.pixels import pixel_array

        dataset = dcmread(path)
        return np.stack([grey_of(pixel_array(dataset, index=number)) for number in wanted])
    import av

    frames: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = float(stream.average_rate), float(stream.time_base)
        container.seek(int(first / rate / base) + int(stream.start_time or 0), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - int(stream.start_time or 0)) * base * rate)
            if number in wanted:
                frames[number] = grey_of(frame.to_ndarray(format="rgb24"))
            if number >= wanted[-1]:
                break
    return np.stack(list(frames.values()))


def reading(case: Case, rounds: int) -> str:
    """Row of the first table."""
    count = len(adapter(case.path))
    ours, theirs = in_turns([lambda: adapter(case.path), lambda: whole(case.path)], rounds)
    peaks = [f"{peak(how, case.path):.0f}" for how in ("adapter", "whole")]
    cells = [case.name, str(count), middle(ours / count), middle(theirs / count), spread(theirs / ours), *peaks]
    return f"| {' | '.join(cells)} |"


def clips(case: Case, folder: Path, rounds: int) -> str:
    """Row of the second table: the same file in all columns, clips anywhere in it."""
    from medssl.cohort import Cohort
    from medssl.views.clip import ClipViews
    from medssl.views.clip_crops import resized_frames

    cohort = Cohort(prepared(case.path, folder / f"of {case.path.stem}"))
    views, rng = ClipViews((FRAMES, EDGE, EDGE), count=1, stride=STEP), np.random.default_rng(0)
    most = len(adapter(case.path)) - STEP * FRAMES

    def cut(frames: NDArray[np.uint8]) -> None:
        resized_frames(frames[None], (EDGE, EDGE))

    def from_all() -> None:
        first = int(rng.integers(max(most, 0) + 1))
        cut(adapter(case.path)[first : first + STEP * FRAMES : STEP])

    def from_needed() -> None:
        cut(needed(case.path, int(rng.integers(max(most, 0) + 1)), FRAMES))

    ours, some, all_of_it = in_turns([lambda: views.draw(cohort.reader(0), rng), from_needed, from_all], rounds)
    cells = [case.name, middle(ours), middle(some), spread(some / ours), middle(all_of_it), spread(all_of_it / ours)]
    return f"| {' | '.join(cells)} |"


def prepared(path: Path, target: Path) -> Path:
    """The cohort of one clip."""
    from medssl.cohort.writer import prepare

    source = target.with_name(f"{target.name} alone")
    source.mkdir()
    (source / path.name).symlink_to(path.resolve())
    prepare(
        "folder", source, target, options={"kind": "video"}, workers=0, keep_ids=True, preparation={"doppler": "keep"}
    )
    return target


def long(folder: Path, minutes: int) -> Iterator[str]:
    """Rows of the third table."""
    path = write_mpeg(folder / "long.mp4", pictures(minutes * 60 * 30))
    frames, pixels = minutes * 60 * 30, 240 * 320
    yield f"| the frames themselves, grey | {frames * pixels / MIB:.0f} |"
    yield f"| reading (bounded by 1 GiB of frames) | {peak('adapter', path):.0f} |"
    yield f"| preparing (`medssl prepare folder`) | {peak('prepare', path):.0f} |"


def in_turns(runs: Sequence[Run], rounds: int) -> list[NDArray[np.float64]]:
    """Milliseconds of processor time of every round; in odd ones the order is turned round."""
    times = np.empty((len(runs), rounds))
    for run in runs:
        run()
    for number in range(rounds):
        for place in range(len(runs))[:: -1 if number % 2 else 1]:
            start = time.process_time()
            runs[place]()
            times[place, number] = 1e3 * (time.process_time() - start)
    return list(times)


def peak(how: str, path: Path) -> float:
    """MiB that a fresh process takes at most for it, beyond what it held before."""
    command = [sys.executable, __file__, "--peak", how, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def grown(how: str, file: str) -> float:
    """In the fresh process: run once, and tell the growth of its largest resident memory in MiB."""
    import av  # noqa: F401  # what is loaded once is no memory of a clip
    import scipy.ndimage  # noqa: F401

    from medssl.synth.echo import draw_echo_patient  # noqa: F401

    path = Path(file)
    runs: dict[str, Run] = {"adapter": lambda: adapter(path), "whole": lambda: whole(path)}
    with tempfile.TemporaryDirectory() as place:
        runs["prepare"] = lambda: prepared(path, Path(place) / "cohort")
        before = largest()
        runs[how]()
        return largest() - before


def largest() -> float:
    """Largest resident memory of this process so far, MiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except FileNotFoundError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def middle(values: NDArray[np.float64]) -> str:
    """The median."""
    return f"{np.median(values):.3g}"


def spread(values: NDArray[np.float64]) -> str:
    """The median with the 10th and 90th percentile."""
    low, centre, high = np.percentile(values, [10, 50, 90])
    return f"{centre:.3g} ({low:.3g}–{high:.3g})"


if __name__ == "__main__":
    main()
