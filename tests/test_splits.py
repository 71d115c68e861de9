"""Splits by patient, and nested label budgets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.errors import SplitError
from medssl.splits import Split, budget, check_disjoint, coverage, make_split, nested_order, patient_strata

CLASSES = ("A", "B", "C", "D")
some_strata = st.dictionaries(
    st.integers(0, 500).map(lambda i: f"p{i:03d}"), st.sampled_from(CLASSES), min_size=1, max_size=60
)
few = settings(max_examples=40, deadline=None)


def manifest(strata: dict[str, str] | None = None, *, per_patient: int = 2, **columns) -> pd.DataFrame:
    strata = strata or {f"p{i:02d}": CLASSES[i % 3] for i in range(30)}
    rows = [(f"{p}_r{k}", p, strata[p]) for p in strata for k in range(per_patient)]
    frame = pd.DataFrame(rows, columns=["recording", "patient", "label_dx"])
    return frame.assign(**columns)


def reference_order(strata: dict[str, str], seed: int, draw: int) -> list[str]:
    """The algorithm of the specification, line by line."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, draw]))
    groups = sorted(set(strata.values()))
    queue = {g: list(rng.permutation(sorted(p for p in strata if strata[p] == g))) for g in groups}
    size = {g: len(queue[g]) for g in groups}
    taken, order = dict.fromkeys(groups, 0), []
    for g in sorted(groups, key=lambda g: (-size[g], g)):
        order.append(str(queue[g].pop(0)))
        taken[g] += 1
    while any(queue.values()):
        best = None
        for g in sorted(groups, key=lambda g: (-size[g], g)):
            deficit = size[g] * (len(order) + 1) - taken[g] * len(strata)
            if queue[g] and (best is None or deficit > best[0]):
                best = (deficit, g)
        order.append(str(queue[best[1]].pop(0)))
        taken[best[1]] += 1
    return order


class TestNestedOrder:
    @few
    @given(some_strata, st.integers(0, 5), st.integers(0, 5))
    def test_is_the_specified_one(self, strata, seed, draw):
        assert nested_order(strata, seed=seed, draw=draw) == reference_order(strata, seed, draw)

    @few
    @given(some_strata, st.integers(0, 3))
    def test_holds_everybody_once_and_every_class_from_the_start(self, strata, draw):
        order = nested_order(strata, seed=0, draw=draw)
        assert sorted(order) == sorted(strata)
        classes = len(set(strata.values()))
        assert len({strata[p] for p in order[:classes]}) == classes

    @few
    @given(some_strata)
    def test_prefixes_keep_the_shares(self, strata):
        order, total = nested_order(strata, seed=1, draw=0), Counter(strata.values())
        for length in range(2 * len(total), len(order) + 1):
            taken = Counter(strata[p] for p in order[:length])
            for stratum, count in total.items():
                assert abs(taken[stratum] - count * length / len(strata)) <= len(total)

    def test_does_not_depend_on_the_order_of_the_input(self):
        strata = {f"p{i}": CLASSES[i % 4] for i in range(20)}
        assert nested_order(strata, seed=3, draw=1) == nested_order(dict(reversed(strata.items())), seed=3, draw=1)

    def test_draws_and_seeds_differ(self):
        strata = {f"p{i}": CLASSES[i % 2] for i in range(20)}
        orders = {tuple(nested_order(strata, seed=s, draw=d)) for s in (0, 1) for d in range(3)}
        assert len(orders) == 6


class TestBudget:
    def everybody(self, strata):
        return Split("s", test=("held",), development=tuple(sorted(strata)))

    @few
    @given(some_strata, st.integers(0, 3))
    def test_budgets_are_nested_and_nobody_changes_role(self, strata, draw):
        split = self.everybody(strata)
        former_train: set[str] = set()
        former_validation: set[str] = set()
        for count in range(1, len(strata) + 1):
            now = budget(split, strata, count, draw=draw)
            assert now.n_patients == count
            assert not set(now.train) & set(now.validation)
            if count > 5:  # below 5 there is no validation part yet
                assert former_train <= set(now.train)
                assert former_validation <= set(now.validation)
            if count < 5:
                assert now.validation == ()
            former_train, former_validation = set(now.train), set(now.validation)

    @few
    @given(some_strata)
    def test_validation_is_every_fifth_patient_of_a_stratum(self, strata):
        whole = budget(self.everybody(strata), strata, "all")
        for stratum, count in Counter(strata.values()).items():
            held = sum(strata[p] == stratum for p in whole.validation)
            assert held == (count // 5 if len(strata) >= 5 else 0)

    @few
    @given(some_strata)
    def test_test_patients_and_unlabelled_patients_are_never_used(self, strata):
        names = sorted(strata)
        test, rest = names[::3], [n for n in names if n not in names[::3]]
        labelled = {p: strata[p] for p in names if p != names[-1]}
        split = Split("s", test=tuple(test), development=tuple(rest))
        if not set(rest) & set(labelled):
            with pytest.raises(SplitError, match="no development patient"):
                budget(split, labelled, "all")
            return
        used = budget(split, labelled, "all")
        assert {*used.train, *used.validation} == set(rest) & set(labelled)

    @pytest.mark.parametrize(
        ("asked", "count"), [(1, 1), ("1", 1), (0.1, 2), ("0.1", 2), (1.0, 20), ("all", 20), ("20", 20), (0.001, 1)]
    )
    def test_numbers_fractions_and_all(self, asked, count):
        strata = {f"p{i}": "A" for i in range(20)}
        made = budget(self.everybody(strata), strata, asked)
        assert made.n_patients == count
        assert made.asked == str(asked)

    @pytest.mark.parametrize("asked", [0, -1, 1.5, "many", 21, "21", 0.0])
    def test_what_is_no_budget_is_refused(self, asked):
        strata = {f"p{i}": "A" for i in range(20)}
        with pytest.raises(SplitError, match="budget"):
            budget(self.everybody(strata), strata, asked)

    def test_a_class_that_cannot_be_in_the_budget_is_named(self):
        strata = {f"p{i}": CLASSES[i % 4] for i in range(20)}
        with pytest.raises(SplitError, match=r"lacks C, D; give at least 4"):
            budget(self.everybody(strata), strata, 2, require_all=True)
        assert budget(self.everybody(strata), strata, 4, require_all=True).n_patients == 4


class TestMakeSplit:
    @few
    @given(some_strata, st.integers(1, 30), st.integers(0, 3))
    def test_a_patient_is_never_on_two_sides(self, strata, per_patient, seed):
        if len(strata) < 3:
            return
        frame = manifest(strata, per_patient=per_patient)
        split = make_split(frame, name="s", test=0.3, folds=2, stratify="dx", seed=seed)
        assert sorted(split.test + split.development) == sorted(strata)
        assert sorted(p for fold in split.folds for p in fold) == sorted(split.development)

    @pytest.mark.parametrize(("test", "count"), [(0.2, 6), (10, 10), (1, 1), (0.5, 15)])
    def test_as_many_as_asked(self, test, count):
        assert len(make_split(manifest(), name="s", test=test).test) == count

    @few
    @given(some_strata, st.floats(0.1, 0.6))
    def test_strata_are_on_both_sides_with_their_share(self, strata, test):
        sizes = Counter(strata.values())
        wanted = max(1, int(test * len(strata) + 0.5))
        if wanted >= len(strata):
            return
        split = make_split(manifest(strata), name="s", test=test, stratify="dx")
        assert len(split.test) == wanted
        counts = coverage(split, strata)
        for stratum, size in sizes.items():
            assert abs(counts["test"][stratum] - size * wanted / len(strata)) <= len(sizes)
            if min(sizes.values()) >= 2 and len(sizes) <= wanted <= len(strata) // 2:
                assert 0 < counts["test"][stratum] < size

    def test_the_same_seed_gives_the_same_split_and_hash(self):
        first, again = (
            make_split(manifest(), name="s", seed=4),
            make_split(manifest().sample(frac=1.0, random_state=0), name="s", seed=4),
        )
        assert first == again
        assert make_split(manifest(), name="s", seed=5).sha256 != first.sha256

    def test_patients_without_the_label_are_never_tested(self):
        frame = manifest()
        frame.loc[frame["patient"] < "p20", "label_dx"] = None
        split = make_split(frame, name="s", test=0.5, stratify="dx")
        assert all(p >= "p20" for p in split.test)
        assert len(split.test) == 5
        assert len(split.development) == 25

    def test_folds_are_equal_and_stratified(self):
        split = make_split(manifest(), name="cv", test=0, folds=5, stratify="dx")
        assert split.test == ()
        assert [len(fold) for fold in split.folds] == [6] * 5
        strata = {p: CLASSES[int(p[1:]) % 3] for p in split.development}
        assert all(counts[c] == 2 for side, counts in coverage(split, strata).items() if "fold" in side for c in "ABC")

    def test_a_fold_is_a_split_of_its_own_and_the_test_set_stays_shut(self):
        split = make_split(manifest(), name="cv", test=5, folds=5)
        fold = split.fold(2)
        assert fold.test == split.folds[2]
        assert not set(fold.development) & set(fold.test)
        assert set(fold.excluded) == set(split.test)
        assert fold.sha256 != split.sha256
        with pytest.raises(SplitError, match="no fold 5"):
            split.fold(5)

    def test_whole_sites(self):
        sites = {f"p{i:02d}": "abcde"[i % 5] for i in range(30)}
        frame = manifest()
        frame["site"] = frame["patient"].map(sites)
        split = make_split(frame, name="s", by="site", test=0.3)
        held = {sites[p] for p in split.test}
        assert not held & {sites[p] for p in split.development}
        assert len(split.test) == 12  # whole sites of 6 until 9 are reached
        folds = make_split(frame, name="loso", by="site", test=0, folds=5).folds
        assert sorted({sites[p] for p in fold}.pop() for fold in folds) == list("abcde")
        assert all(len({sites[p] for p in fold}) == 1 for fold in folds)

    def test_external_sites(self):
        frame = manifest()
        frame["site"] = frame["patient"].map(lambda p: "abc"[int(p[1:]) % 3])
        split = make_split(frame, name="s", test=0.25, test_sites=["b"])
        assert len(split.external["b"]) == 10
        assert len(split.test) == 5
        assert not set(split.external["b"]) & {*split.test, *split.development}
        with pytest.raises(SplitError, match=r"no site 'z'.*a, b, c"):
            make_split(frame, name="s", test_sites=["z"])

    def test_an_official_test_set_is_taken_as_it_is(self):
        split = make_split(manifest(), name="official", test_patients=["p03", "p01"])
        assert split.test == ("p01", "p03")
        with pytest.raises(SplitError, match="nobody"):
            make_split(manifest(), name="official", test_patients=["nobody"])

    @pytest.mark.parametrize(
        ("frame", "options", "message"),
        [
            (manifest({"P1": "A", "p1 ": "A", "p2": "B"}), {}, "two ways"),
            (manifest({"": "A", "p2": "B"}), {}, "without a patient"),
            (manifest({"p1": "A", "p2": "B"}), {"test": 2}, "2 that can be drawn"),
            (manifest(), {"test": -1}, "neither"),
            (manifest(), {"test": 1.5}, "neither"),
            (manifest(), {"folds": 1}, "1 folds"),
            (manifest(), {"stratify": "diagnosis"}, "unknown target 'diagnosis'"),
            (manifest(), {"by": "site"}, "no column 'site'"),
            (manifest(), {"name": "../evil"}, "no name for a split"),
        ],
    )
    def test_what_would_leak_or_cannot_be_is_refused(self, frame, options, message):
        with pytest.raises(SplitError, match=message):
            make_split(frame, **({"name": "s"} | options))


class TestFile:
    def cohort(self, folder: Path) -> Path:
        manifest().to_parquet(folder / "recordings.parquet")
        return folder

    def test_a_saved_split_comes_back(self, tmp_path):
        cohort = self.cohort(tmp_path)
        split = make_split(manifest(), name="default", folds=3, seed=1, stratify="dx")
        file = split.save(cohort)
        assert file == cohort / "splits" / "default.json"
        assert Split.load(cohort, "default") == split
        fields = json.loads(file.read_text())
        assert fields["unit"] == "patient"
        assert len(fields["sha256"]) == 64
        assert [p.name for p in file.parent.iterdir()] == ["default.json"]

    def test_a_split_changed_by_hand_is_refused(self, tmp_path):
        cohort = self.cohort(tmp_path)
        file = make_split(manifest(), name="s").save(cohort)
        fields = json.loads(file.read_text())
        fields["development"].append(fields["test"].pop())
        file.write_text(json.dumps(fields))
        with pytest.raises(SplitError, match="changed after it was made"):
            Split.load(cohort, "s")

    @pytest.mark.parametrize("text", ["", "[]", '{"name": "s"}', "{"])
    def test_a_damaged_file_is_refused(self, tmp_path, text):
        (tmp_path / "splits").mkdir()
        (tmp_path / "splits" / "s.json").write_text(text)
        with pytest.raises(SplitError, match="no split file"):
            Split.load(tmp_path, "s")

    def test_a_missing_split_lists_those_that_are_there(self, tmp_path):
        cohort = self.cohort(tmp_path)
        make_split(manifest(), name="one").save(cohort)
        with pytest.raises(SplitError, match=r"no split 'two'.*there: one"):
            Split.load(cohort, "two")

    def test_another_cohort_is_noticed(self, tmp_path):
        cohort = self.cohort(tmp_path)
        make_split(manifest(), name="s").save(cohort)
        manifest().query("patient != 'p00'").to_parquet(cohort / "recordings.parquet")
        with pytest.raises(SplitError, match="1 patients are not in the cohort"):
            Split.load(cohort, "s")
        extra = pd.concat([manifest(), manifest({"new": "A"})])
        extra.to_parquet(cohort / "recordings.parquet")
        with pytest.raises(SplitError, match="1 patients are on no side"):
            Split.load(cohort, "s")

    def test_a_split_in_use_is_not_replaced_unasked(self, tmp_path):
        cohort = self.cohort(tmp_path)
        make_split(manifest(), name="s", seed=1).save(cohort)
        make_split(manifest(), name="s", seed=1).save(cohort)  # the same: nothing to refuse
        other = make_split(manifest(), name="s", seed=2)
        with pytest.raises(SplitError, match="--overwrite"):
            other.save(cohort)
        other.save(cohort, overwrite=True)
        assert Split.load(cohort, "s") == other


class TestStrata:
    def test_classes_by_the_rarest_a_patient_has(self):
        frame = manifest({"p1": "A", "p2": "A", "p3": "A", "p4": "B"})
        frame.loc[len(frame)] = ["extra", "p1", "B"]
        assert patient_strata(frame, None, "dx") == {"p1": "B", "p2": "A", "p3": "A", "p4": "B"}

    def test_several_labels(self):
        frame = pd.DataFrame(
            {
                "recording": list("abcde"),
                "patient": ["p1", "p2", "p3", "p4", "p5"],
                "label_dx": [["AF", "PVC"], ["AF"], [], None, ["AF", "RBBB"]],
            }
        )
        assert patient_strata(frame, None, "dx") == {"p1": "PVC", "p2": "AF", "p3": "none", "p5": "RBBB"}

    def test_numbers_by_tertiles_of_the_patients_mean(self):
        frame = manifest({f"p{i}": "x" for i in range(9)}).drop(columns="label_dx")
        frame["label_age"] = [i + k for i in range(9) for k in (0, 20)]
        found = patient_strata(frame, None, "age", "regression")
        assert [found[f"p{i}"] for i in range(9)] == ["low"] * 3 + ["middle"] * 3 + ["high"] * 3

    def test_numbers_that_are_classes(self):
        frame = manifest({f"p{i}": "x" for i in range(6)}, per_patient=1)
        frame["label_sick"] = [0.0, 0.0, 0.0, 0.0, 1.0, float("nan")]
        assert set(patient_strata(frame, None, "sick").values()) == {"0", "1"}
        assert "p5" not in patient_strata(frame, None, "sick")
        assert set(patient_strata(frame, None, "sick", "regression").values()) <= {"low", "middle", "high"}

    def test_events_by_the_rarest_value(self):
        frame = manifest({"p1": "x", "p2": "x", "p3": "x", "p4": "x"}, per_patient=1)
        events = pd.DataFrame(
            [
                *(("p1_r0", "aami", "N"), ("p1_r0", "aami", "V"), ("p2_r0", "aami", "N"), ("p2_r0", "rhythm", "(AFIB")),
                *(("p3_r0", "aami", "N"), ("p3_r0", "aami", "V"), ("p3_r0", "aami", "F")),
            ],
            columns=["recording", "kind", "value"],
        )
        assert patient_strata(frame, events, "aami") == {"p1": "V", "p2": "N", "p3": "F"}

    def test_masks_by_tertiles_of_volume_in_millimetres(self):
        frame = manifest({f"p{i}": "x" for i in range(6)}, per_patient=1)
        frame["masks"] = [["organ"]] * 5 + [[]]
        frame["mask_voxels"] = [json.dumps({"organ": {"1": 10 * (i + 1), "2": 5}}) for i in range(5)] + ["{}"]
        frame["spacing_mm"] = [[1.0, 1.0, 1.0]] * 4 + [[0.1, 0.1, 0.1]] + [[1.0, 1.0, 1.0]]
        found = patient_strata(frame, None, "organ", "segmentation")
        assert found == {"p0": "low", "p1": "middle", "p2": "high", "p3": "high", "p4": "low"}

    def test_an_unknown_target_lists_what_there_is(self):
        with pytest.raises(SplitError, match=r"unknown target 'dy'.*Known: dx"):
            patient_strata(manifest(), None, "dy")


def test_the_same_patient_in_two_spellings_is_on_two_sides():
    check_disjoint(train=["a", "b"], test=["c"])
    with pytest.raises(SplitError, match=r"'test'.*also in 'train'"):
        check_disjoint(train=["Patient 1", "b"], test=[" patient 1 "])
