"""The verb ``embed``: one row a recording, what it says of itself, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_searches import run_for, signals, volumes

from medssl.cli import main
from medssl.cohort import Cohort
from medssl.configurable import spec
from medssl.encoders.base import load_encoder
from medssl.errors import CohortError, ConfigError, TrainingError
from medssl.evaluation import embedding
from medssl.evaluation.embedding import embed
from medssl.evaluation.embedding_files import KEY, read_about, read_embeddings
from medssl.evaluation.embedding_sources import untrained
from medssl.evaluation.probes import features
from medssl.evaluation.whole import pixels, whole_recording
from medssl.training.targets import every_recording
from medssl.training.windows import Recordings


@pytest.fixture(scope="module")
def torsos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volumes(tmp_path_factory.mktemp("torsos"))


@pytest.fixture(scope="module")
def ecgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signals(tmp_path_factory.mktemp("ecgs"), patients=3)


@pytest.fixture(scope="module")
def run(torsos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_for(torsos, tmp_path_factory.mktemp("encoders") / "mine")


def test_any_tool_reads_ids_labels_and_vectors(torsos: Path, run: Path, tmp_path: Path) -> None:
    file = embed(str(run), torsos, tmp_path / "deep" / "out.parquet")
    table = pd.read_parquet(file)
    manifest = Cohort(torsos).manifest
    assert table["recording"].tolist() == manifest["recording"].tolist()
    assert table["label_class"].fillna("").tolist() == manifest["label_class"].fillna("").tolist()
    assert [list(v) for v in table["label_findings"]] == manifest["label_findings"].tolist()
    assert set(table["kind"]) == {"volume"} and set(table["cohort"]) == {Cohort(torsos).info.fingerprint}
    kind = pq.read_schema(file).field("embedding").type
    assert pa.types.is_fixed_size_list(kind) and kind.list_size == 16 and kind.value_type == pa.float32()
    about = json.loads(pq.read_schema(file).metadata[KEY])
    assert about["encoder"]["kind"] == "run" and len(about["encoder"]["sha256"]) == 64
    assert (about["view"], about["windows"], about["dimension"]) == ("whole", 1, 16)
    assert str(tmp_path) not in json.dumps(about) and str(torsos) not in json.dumps(about)
    assert [p.name for p in file.parent.iterdir()] == ["out.parquet"]


def test_a_volume_is_read_whole_and_a_signal_through_windows(
    torsos: Path, run: Path, ecgs: Path, tmp_path: Path
) -> None:
    found = read_embeddings(embed(str(run), torsos, tmp_path / "v.parquet"))
    network = load_encoder(run)[0].eval()
    recordings = Recordings(Cohort(torsos), channels=None, rows=np.arange(9), cache_gb=0)
    assert found.about["size"] == list(load_encoder(run)[1].size), "as in pre-training"
    whole = whole_recording(recordings, 4, found.about["size"])
    with torch.inference_mode():
        expected = network(torch.from_numpy(whole[None])).pooled[0]
    np.testing.assert_allclose(found.features[4], expected, rtol=1e-5, atol=1e-6)

    other = run_for(ecgs, tmp_path / "ecg")
    found = read_embeddings(embed(str(other), ecgs, tmp_path / "s.parquet", size=[256], windows=3))
    assert (found.about["view"], found.about["windows"], found.about["size"]) == ("windows", 3, [256])
    cohort = Cohort(ecgs)
    x = features(load_encoder(other)[0], every_recording(cohort), np.arange(len(cohort)), size=(256,), windows=3)
    np.testing.assert_allclose(found.features, x, rtol=1e-5, atol=1e-6)
    forced = read_embeddings(embed(str(other), ecgs, tmp_path / "w.parquet", view="whole", size=[256]))
    assert np.abs(forced.features - x).max() > 1e-4


def test_batches_of_recordings_do_not_matter(
    torsos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = read_embeddings(embed(str(run), torsos, tmp_path / "one.parquet", view="windows", size=[8, 8, 8]))
    monkeypatch.setattr(embedding, "_AT_ONCE", 2)
    two = read_embeddings(embed(str(run), torsos, tmp_path / "two.parquet", view="windows", size=[8, 8, 8], batch=3))
    np.testing.assert_allclose(one.features, two.features, rtol=1e-5, atol=1e-6)
    assert pq.ParquetFile(tmp_path / "two.parquet").num_row_groups == 5


def test_the_floors_are_the_pixels_and_the_same_network_untrained(torsos: Path, run: Path, tmp_path: Path) -> None:
    floor = read_embeddings(embed("pixels", torsos, tmp_path / "p.parquet"))
    recordings = Recordings(Cohort(torsos), channels=None, rows=np.arange(9), cache_gb=0)
    np.testing.assert_array_equal(floor.features[2], pixels(recordings, 2))
    one = read_embeddings(embed(f"untrained:{run}", torsos, tmp_path / "u.parquet"))
    again = read_embeddings(embed(f"untrained:{run}", torsos, tmp_path / "again.parquet"))
    trained = read_embeddings(embed(str(run), torsos, tmp_path / "t.parquet"))
    np.testing.assert_array_equal(one.features, again.features)
    assert one.features.shape == trained.features.shape
    assert np.abs(one.features - trained.features).max() > 1e-3


def test_random_weights_follow_from_the_architecture_alone(run: Path) -> None:
    architecture = spec(load_encoder(run)[0])
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one = untrained(architecture, None)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(4)
    assert untrained(architecture, None).sha256 == one.sha256


def test_another_file_is_never_overwritten_and_the_same_one_is_not_made_again(
    torsos: Path, run: Path, tmp_path: Path
) -> None:
    file = embed(str(run), torsos, tmp_path / "out.parquet")
    before = file.stat().st_mtime_ns
    assert embed(str(run), torsos, file) == file and file.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"other embeddings \(they differ in .*encoder.sha256"):
        embed(str(run_for(torsos, tmp_path / "other", seed=2)), torsos, file)
    with pytest.raises(ConfigError, match="differ in size"):
        embed(str(run), torsos, file, size=[8, 8, 16])
    foreign = tmp_path / "thesis.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    with pytest.raises(ConfigError, match="not written by `medssl embed`"):
        embed(str(run), torsos, foreign)
    (tmp_path / "text.parquet").write_text("years of work")
    with pytest.raises(ConfigError, match="no Parquet file"):
        embed(str(run), torsos, tmp_path / "text.parquet")
    assert file.stat().st_mtime_ns == before and pd.read_parquet(foreign)["a"].tolist() == [1]


def test_a_broken_encoder_leaves_no_file(torsos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="features of recording torso_001 are not finite"):
        embed(str(run_for(torsos, tmp_path / "nan", broken=True)), torsos, tmp_path / "out" / "nan.parquet")
    assert not list((tmp_path / "out").iterdir())


def test_a_newer_format_and_another_cohort_are_refused(torsos: Path, ecgs: Path, run: Path, tmp_path: Path) -> None:
    file = embed(str(run), torsos, tmp_path / "out.parquet")
    with pytest.raises(CohortError, match="made from another cohort"):
        read_embeddings(file).check(Cohort(ecgs), file)
    table = pq.read_table(file)
    about = {**read_about(file), "format_version": 99}
    pq.write_table(table.replace_schema_metadata({KEY: json.dumps(about)}), tmp_path / "new.parquet")
    with pytest.raises(ConfigError, match="newer medssl"):
        read_embeddings(tmp_path / "new.parquet")
    pq.write_table(table.take(list(range(8, -1, -1))), tmp_path / "turned.parquet")
    with pytest.raises(CohortError, match="in their order"):
        read_embeddings(tmp_path / "turned.parquet").check(Cohort(torsos), tmp_path / "turned.parquet")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["untrained"], "say untrained:RUN"),
        (["{none}"], "no exported encoder"),
        (["{run}", "--windows", "0"], "must be 1 or more"),
        (["{run}", "--size", "8", "8"], "spatial axes"),
        (["{run}", "--view", "half"], "expected one of"),
        (["x.parquet"], "holds embeddings already"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], said: str, torsos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *options = [w.format(run=run, none=tmp_path / "none") for w in words]
    assert main(["embed", first, str(torsos), str(tmp_path / "out.parquet"), *options]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "out.parquet").exists()


def test_an_encoder_of_another_kind_and_a_wrong_name_are_refused(
    ecgs: Path, torsos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(run), str(ecgs), str(tmp_path / "o.parquet")]) == 2
    assert "trained on volumes but" in capsys.readouterr().err
    assert main(["embed", str(run), str(torsos), str(tmp_path / "o.csv")]) == 2
    assert "must end in .parquet" in capsys.readouterr().err
    assert main(["embed", "pixels", str(torsos), str(tmp_path / "o.parquet")]) == 0
    assert capsys.readouterr().out.strip().endswith("o.parquet")


def test_files_of_every_released_version_stay_readable() -> None:
    """Version 1: three torsos by a small encoder."""
    found = read_embeddings(Path(__file__).parent / "archives" / "embeddings-v1.parquet")
    assert found.about["format_version"] == 1 and found.about["encoder"]["kind"] == "run"
    assert found.recordings.tolist() == ["torso_001", "torso_002", "torso_003"]
    assert found.features.shape == (3, 16) and found.features.dtype == np.float32
    expected = [0.00033087143674492836, 0.07514295727014542, 0.01656867004930973]
    np.testing.assert_allclose(found.features[0, :3], expected, rtol=1e-6)
