"""Series and confounds in text and arrays: what stands in such files, and what must not be guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from medssl.adapters.fmri_atlas import read_atlas
from medssl.adapters.fmri_confounds import MOTION, read_confounds
from medssl.adapters.fmri_series import read_region_series
from medssl.adapters.text_numbers import read_numbers
from medssl.errors import UnreadableRecording

VALUES = np.round(np.random.default_rng(0).normal(size=(12, 3)), 4)


def text(path: Path, header: str = "", *, mark: str = "\t", end: str = "\n", after: str = "") -> Path:
    lines = ([header] if header else []) + [mark.join(str(v) for v in row) + after for row in VALUES]
    path.write_bytes((end.join(lines) + end).encode())
    return path


@pytest.mark.parametrize(
    "layout",
    [
        {"header": "#1\t#2\t#3"},
        {"header": "#1\t#2\t#3\t", "after": "\t"},
        {"header": "#1\t#2\t#3", "end": "\r\n"},
        {"header": "#1 #2 #3", "mark": " "},
        {"mark": "  "},
        {"mark": ", "},
        {"mark": ";"},
    ],
    ids=["PCP", "tab at the end", "CRLF", "blanks", "no header", "commas", "semicolons"],
)
def test_text_in_all_layouts(tmp_path, layout):
    series = read_region_series(text(tmp_path / "rois.1D", **layout))
    np.testing.assert_array_equal(series.data, VALUES.T)
    assert series.names == ("#1", "#2", "#3")


def test_names_in_a_header_and_in_a_comment(tmp_path):
    assert read_region_series(text(tmp_path / "a.csv", "left,right,mid", mark=",")).names == ("left", "right", "mid")
    assert read_region_series(text(tmp_path / "b.1D", "# left right mid", mark=" ")).names == ("left", "right", "mid")
    assert read_region_series(text(tmp_path / "c.1D", "# made by 3dmaskave on Monday", mark=" ")).names[0] == "#1"
    assert read_region_series(text(tmp_path / "d.csv", "V1,V1,V2", mark=",")).names == ("V1", "V1#2", "V2")


def test_columns_that_are_no_regions_are_left_out(tmp_path):
    rows = ["File\tSub-brick\tMean_1\tMean_2\tMean_3"]
    rows += [f"rest.nii.gz\t{i}[?]\t" + "\t".join(map(str, row)) for i, row in enumerate(VALUES)]
    (tmp_path / "athena.1D").write_text("\n".join(rows) + "\n")
    series = read_region_series(tmp_path / "athena.1D")
    assert series.names == ("Mean_1", "Mean_2", "Mean_3")
    assert len(series.notes) == 2
    counted = [",a,b,c", *(f"{i}," + ",".join(map(str, row)) for i, row in enumerate(VALUES))]
    (tmp_path / "pandas.csv").write_text("\n".join(counted) + "\n")
    assert read_region_series(tmp_path / "pandas.csv").names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0,5\t0,7\n1,5\t2,5\n", "decimal commas"),
        ("0,5 0,7\n1,5 2,5\n", "decimal commas"),
        ("1 2 3\n4 5\n", "row 2 has 2 cells, not 3"),
        ("1 2 3\n4 five 6\n", "'five' in row 2, column 2"),
        ("#1\t#2\n", "no numbers"),
        ("a\tb\n", "no numbers below"),
        ("1 2 3\n", "1 volumes"),
        ("nan nan\nnan nan\n", "no finite number"),
    ],
)
def test_text_that_cannot_be_read_faithfully(tmp_path, content, words):
    (tmp_path / "bad.1D").write_text(content)
    with pytest.raises(UnreadableRecording, match=words):
        read_region_series(tmp_path / "bad.1D")


def test_missing_cells_are_nan(tmp_path):
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n,4\nn/a,6\n")
    assert np.isnan(read_numbers(tmp_path / "gap.csv").values[1:, 0]).all()


def test_series_of_another_atlas(tmp_path):
    with pytest.raises(UnreadableRecording, match="3 regions, the atlas has 200"):
        read_region_series(text(tmp_path / "rois.1D"), regions=200)


def test_time_is_found_by_the_size_of_the_atlas(tmp_path):
    for name, array in (("a.npy", VALUES), ("b.npy", VALUES.T)):
        np.save(tmp_path / name, array)
        known = read_region_series(tmp_path / name, regions=3)
        np.testing.assert_array_equal(known.data, VALUES.T)
        guessed = read_region_series(tmp_path / name)
        np.testing.assert_array_equal(guessed.data, VALUES.T)
        assert any("longer axis" in note for note in guessed.notes)
    short = VALUES[:2]  # fewer volumes than regions
    np.save(tmp_path / "short.npy", short)
    np.testing.assert_array_equal(read_region_series(tmp_path / "short.npy", regions=3).data, short.T)


def test_a_table_with_a_row_a_region(tmp_path):
    file = tmp_path / "turned.csv"
    np.savetxt(file, VALUES.T, delimiter=",")
    series = read_region_series(file, regions=3)
    np.testing.assert_allclose(series.data, VALUES.T)
    assert any("row a region" in note for note in series.notes)


def test_matlab(tmp_path):
    savemat(tmp_path / "tc.mat", {"tc": VALUES.T, "tr": 2.0})
    series = read_region_series(tmp_path / "tc.mat")
    np.testing.assert_array_equal(series.data, VALUES.T)
    assert any("longer axis is taken as time" in note for note in series.notes)
    savemat(tmp_path / "two.mat", {"a": VALUES, "b": VALUES})
    with pytest.raises(UnreadableRecording, match="choose one with key"):
        read_region_series(tmp_path / "two.mat")
    assert read_region_series(tmp_path / "two.mat", key="b").data.shape == (3, 12)


def test_a_matrix_of_connectivity_is_no_series(tmp_path):
    np.save(tmp_path / "fc.npy", np.corrcoef(VALUES.T))
    with pytest.raises(UnreadableRecording, match="connectivity"):
        read_region_series(tmp_path / "fc.npy")
    np.savetxt(tmp_path / "fc.csv", np.corrcoef(VALUES.T), delimiter=",")
    with pytest.raises(UnreadableRecording, match="connectivity"):
        read_region_series(tmp_path / "fc.csv")


def test_cifti_parcels(tmp_path):
    import nibabel
    from nibabel import cifti2

    parcels = cifti2.ParcelsAxis(
        ["V1", "V2", "MT"],
        [np.array([[i, 0, 0]]) for i in range(3)],
        [{} for _ in range(3)],
        affine=np.eye(4),
        volume_shape=(3, 1, 1),
    )
    header = cifti2.Cifti2Header.from_axes((cifti2.SeriesAxis(0, 0.72, 12, "SECOND"), parcels))
    nibabel.save(cifti2.Cifti2Image(VALUES, header), tmp_path / "rest.ptseries.nii")
    series = read_region_series(tmp_path / "rest.ptseries.nii")
    assert (series.names, series.tr_s) == (("V1", "V2", "MT"), pytest.approx(0.72))
    np.testing.assert_allclose(series.data, VALUES.T)


# Confounds


def test_fmriprep_leaves_out_what_the_first_volume_cannot_have(tmp_path):
    (tmp_path / "c.tsv").write_text("csf\tframewise_displacement\n1.0\tn/a\n2.0\t0.3\n3.0\t0.1\n")
    table = read_confounds(tmp_path / "c.tsv")
    assert table["framewise_displacement"].tolist() == [0, 0.3, 0.1]
    (tmp_path / "c.tsv").write_text("csf\tb\n1.0\t1\n2.0\tn/a\n3.0\t2\n")
    with pytest.raises(UnreadableRecording, match="column 'b' has no number at volume 2"):
        read_confounds(tmp_path / "c.tsv")


@pytest.mark.parametrize("program", ["fsl", "spm", "hcp", "afni"])
def test_motion_comes_out_alike_whoever_wrote_it(tmp_path, program):
    rng = np.random.default_rng(0)
    true = np.concatenate([rng.normal(size=(9, 3)), 0.01 * rng.normal(size=(9, 3))], axis=1)
    degrees = true * [1, 1, 1, *[180 / np.pi] * 3]
    written = {"spm": true, "fsl": true[:, [3, 4, 5, 0, 1, 2]], "hcp": degrees, "afni": degrees[:, [5, 3, 4, 2, 0, 1]]}
    np.savetxt(tmp_path / "motion.txt", written[program])
    table = read_confounds(tmp_path / "motion.txt", motion=program)
    np.testing.assert_allclose(np.stack([table[name] for name in MOTION], axis=1), true)


def test_motion_of_unknown_origin_is_not_guessed(tmp_path):
    np.savetxt(tmp_path / "motion.txt", VALUES)
    with pytest.raises(UnreadableRecording, match="fsl, spm, hcp, afni"):
        read_confounds(tmp_path / "motion.txt")
    with pytest.raises(UnreadableRecording, match="no six motion parameters"):
        read_confounds(tmp_path / "motion.txt", motion="spm")


# Atlases


def test_names_of_labels(tmp_path):
    from toy_fmri import labels, write_image

    file = write_image(tmp_path / "a.nii.gz", labels())
    assert read_atlas(str(file)).regions == ("1", "2", "5", "9")
    (tmp_path / "names.tsv").write_text("index\tname\n1\tV1\n2\tMT\n9\tPCC\n")
    assert read_atlas(str(file), labels=str(tmp_path / "names.tsv")).regions == ("V1", "MT", "5", "PCC")
    (tmp_path / "bare.txt").write_text("1\tV1\t0\t0\n5\tV1\t0\t0\n")
    assert read_atlas(str(file), labels=str(tmp_path / "bare.txt")).regions == ("V1 (1)", "2", "V1 (5)", "9")


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.random.default_rng(0).random((4, 4, 4)), "whole numbers"), (np.ones((4, 4, 4)), "1 labels")],
)
def test_images_that_are_no_atlas(tmp_path, values, words):
    from toy_fmri import write_image

    with pytest.raises(UnreadableRecording, match=words):
        read_atlas(str(write_image(tmp_path / "a.nii.gz", values)))


def test_two_atlases_of_one_name_are_told_apart(tmp_path):
    from toy_fmri import labels, write_image

    (tmp_path / "x").mkdir()
    one = read_atlas(str(write_image(tmp_path / "a.nii.gz", labels())))
    other = read_atlas(str(write_image(tmp_path / "x" / "a.nii.gz", labels() * 2)))
    assert one.name.startswith("a ") and other.name.startswith("a ")
    assert one.name != other.name
