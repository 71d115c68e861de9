"""Volume contrast against stored reference values (float64, from the two published repositories)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional

from medssl.heads.losses import dice_and_cross_entropy
from medssl.methods.projectors import ProjectionHead
from medssl.methods.teacher import ema_update
from medssl.objectives import voco
from medssl.optim import lr_factor
from medssl.views.crops import cut_bases, cut_crops

Golden = Callable[[str], Mapping[str, np.ndarray]]
EXACT = 1e-10
HEAD = 2e-7  # the reference adds 1e-6 to an integer count, which rounds to float32


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("voco")


def cases(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.match(rf"({pattern})_", key))})
    assert found, f"no case of {pattern} in the file"
    return found


def tensor(vectors: Mapping[str, np.ndarray], key: str, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(vectors[key]).requires_grad_(grad)


def close(got: Tensor | None, wanted: np.ndarray, tolerance: float) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=0, atol=tolerance)


TESTED = (
    r"poslab_v[12]_(centers|labels)", r"basecrop_v[12]_first_last_size", r"concat_image_order",
    r"assign\d+_(feats|bases|logits|gradsum_feats|gradsum_bases)", r"reg\d+_(loss|grad_bases)",
    r"ce\d+_(labels|logits|v1_pos|v1_neg|v1_grad|v2|v2_grad)", r"ce_(zero|full)_(labels|logits|v1|v2)",
    r"v1head\d+_(B_sw|student|teacher|labels|pos_neg_reg|grad_student)",
    r"v2head\d+_(B_sw|student|teacher|labels|loss|intra_inter_reg|grad_student)",
    r"proj_(x|y)", r"proj_(w|teacher_before|teacher_after)_layer[123]\.0\.(weight|bias)",
    r"lr\d+_(warmup_total|steps|factor)", r"omni_(logits|labels|loss|grad)",
    r"nnssl_(grid|offsets|overlaps|base|target|pred_reg|grad_base|grad_target)",
    r"paper_(feats|bases|labels|logits|pred|reg)",
)  # fmt: skip


def test_every_value_of_the_file_is_compared_below(vectors: Mapping[str, np.ndarray]) -> None:
    assert not [key for key in vectors if not any(re.fullmatch(pattern, key) for pattern in TESTED)]


@pytest.mark.parametrize(("version", "crop", "grid"), [("v1", 96, 4), ("v2", 64, 3)])
def test_position_labels(vectors: Mapping[str, np.ndarray], version: str, crop: int, grid: int) -> None:
    starts = tensor(vectors, f"poslab_{version}_centers") - crop // 2
    flat = voco.overlap_labels(starts.double(), (crop, crop), (grid, grid))
    close(flat, vectors[f"poslab_{version}_labels"], EXACT)
    deep = voco.overlap_labels(functional.pad(starts, (0, 1)).double(), (crop, crop, crop), (grid, grid, 1))
    close(deep, vectors[f"poslab_{version}_labels"], EXACT)


@pytest.mark.parametrize(("version", "crop", "grid", "encoded"), [("v1", 96, 4, 64), ("v2", 64, 3, 64)])
def test_base_crops(vectors: Mapping[str, np.ndarray], version: str, crop: int, grid: int, encoded: int) -> None:
    if f"basecrop_{version}_first_last_size" not in vectors:
        pytest.skip("this copy of the reference values leaves the large base crops out")
    wanted = vectors[f"basecrop_{version}_first_last_size"]
    starts = voco.base_starts((grid, grid, 1), (crop,) * 3)
    last = starts + crop - 1
    size = torch.full_like(starts, encoded)
    close(torch.stack([starts, last, size], 1), wanted, EXACT)


def test_base_crops_cut_from_a_volume_that_holds_its_own_coordinates() -> None:
    crop, grid = (2, 3, 4), (2, 3, 1)
    shape = tuple(c * g for c, g in zip(crop, grid, strict=True))
    coordinates = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).float()
    bases = cut_bases(coordinates[None], crop, grid)[0]
    assert torch.equal(bases[:, :, 0, 0, 0].long(), voco.base_starts(grid, crop))
    assert torch.equal(bases[:, :, -1, -1, -1].long(), voco.base_starts(grid, crop) + torch.tensor(crop) - 1)


def test_order_of_the_rows(vectors: Mapping[str, np.ndarray]) -> None:
    wanted = vectors["concat_image_order"]
    samples = 1 + int(wanted.max() % 10)
    count = len(wanted) // samples
    window = torch.arange(samples).view(-1, 1, 1, 1, 1) + 10 * torch.arange(count).view(1, 1, -1, 1, 1)
    starts = torch.tensor([[i, 0, 0] for i in range(count)]).expand(samples, -1, -1)
    rows = cut_crops(window.float(), starts, (1, 1, 1)).flatten()
    close(rows, wanted, EXACT)


def test_similarity_and_its_gradient(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"assign\d+"):
        x, q = tensor(vectors, f"{case}_feats", grad=True), tensor(vectors, f"{case}_bases", grad=True)
        similarity = voco.position_similarity(x, q)
        close(similarity, vectors[f"{case}_logits"], EXACT)
        similarity.sum().backward()
        close(x.grad, vectors[f"{case}_gradsum_feats"], EXACT)
        close(q.grad, vectors[f"{case}_gradsum_bases"], EXACT)


def test_regularisation_and_its_gradient(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"reg\d+"):
        q = tensor(vectors, f"{case.replace('reg', 'assign')}_bases", grad=True)
        loss = voco.regularisation(q)
        loss.backward()
        close(loss, vectors[f"{case}_loss"], EXACT)
        close(q.grad, vectors[f"{case}_grad_bases"], EXACT)
        assert q.grad is not None
        assert not q.grad[-1].any(), "the last base is always detached"


def test_predictions_and_their_gradients(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"ce\d+"):
        labels = tensor(vectors, f"{case}_labels")
        logits = tensor(vectors, f"{case}_logits", grad=True)
        pos, neg = voco.prediction_v1(logits, labels)
        close(pos, vectors[f"{case}_v1_pos"], HEAD)
        close(neg, vectors[f"{case}_v1_neg"], HEAD)
        close(torch.autograd.grad(pos + neg, logits)[0], vectors[f"{case}_v1_grad"], HEAD)
        loss = voco.prediction_v2(logits, labels)
        close(loss, vectors[f"{case}_v2"], HEAD)
        close(torch.autograd.grad(loss, logits)[0], vectors[f"{case}_v2_grad"], HEAD)


@pytest.mark.parametrize("case", ["ce_zero", "ce_full"])
def test_predictions_where_labels_are_all_zero_or_never_zero(vectors: Mapping[str, np.ndarray], case: str) -> None:
    logits, labels = tensor(vectors, f"{case}_logits"), tensor(vectors, f"{case}_labels")
    close(torch.stack(voco.prediction_v1(logits, labels)), vectors[f"{case}_v1"], HEAD)
    close(voco.prediction_v2(logits, labels), vectors[f"{case}_v2"], HEAD)


def rows(x: Tensor, batch: int, crops: int) -> tuple[Tensor, Tensor]:
    """(B, sw, D) and (B, n, D) of the rows of a network pass."""
    return x[: batch * crops].unflatten(0, (batch, crops)), x[batch * crops :].unflatten(0, (batch, -1))


def test_whole_head_of_version_1(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"v1head\d+"):
        batch, crops = vectors[f"{case}_B_sw"].tolist()
        student, labels = tensor(vectors, f"{case}_student", grad=True), tensor(vectors, f"{case}_labels")
        x, q = rows(student, batch, crops)
        x_teacher, q_teacher = rows(tensor(vectors, f"{case}_teacher"), batch, crops)
        logits = 0.5 * (voco.position_similarity(x, q_teacher) + voco.position_similarity(x_teacher, q))
        pos, neg = voco.prediction_v1(logits, labels)
        terms = torch.stack([pos.mean(), neg.mean(), voco.regularisation(q).mean()])
        terms.sum().backward()
        close(terms, vectors[f"{case}_pos_neg_reg"], HEAD)
        close(student.grad, vectors[f"{case}_grad_student"], HEAD)


def test_whole_head_of_version_2(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"v2head\d+"):
        batch, crops = vectors[f"{case}_B_sw"].tolist()
        student, labels = tensor(vectors, f"{case}_student", grad=True), tensor(vectors, f"{case}_labels")
        x, q = rows(student, batch, crops)
        x_teacher, q_teacher = rows(tensor(vectors, f"{case}_teacher"), batch, crops)
        intra = voco.prediction_v2(voco.position_similarity(x, q_teacher), labels).mean()
        inter = voco.intervolume(x, q, x_teacher, q_teacher).mean()
        terms = torch.stack([intra, inter, voco.regularisation(q).mean()])
        terms.sum().backward()
        close(terms, vectors[f"{case}_intra_inter_reg"], HEAD)
        close(terms.sum(), vectors[f"{case}_loss"], HEAD)
        close(student.grad, vectors[f"{case}_grad_student"], HEAD)


def test_projection_head_and_its_teacher(vectors: Mapping[str, np.ndarray]) -> None:
    def weights(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): tensor(vectors, k) for k in vectors if k.startswith(prefix)}

    student, teacher = ProjectionHead(12, hidden=10, out=8).double(), ProjectionHead(12, hidden=10, out=8).double()
    student.load_state_dict(weights("proj_w_"))
    close(student(tensor(vectors, "proj_x")), vectors["proj_y"], EXACT)
    teacher.load_state_dict(weights("proj_teacher_before_"))
    ema_update(teacher, student, 0.9)
    for name, value in teacher.state_dict().items():
        close(value, vectors[f"proj_teacher_after_{name}"], EXACT)


def test_learning_rate(vectors: Mapping[str, np.ndarray]) -> None:
    for case in cases(vectors, r"lr\d+"):
        warmup, total = vectors[f"{case}_warmup_total"].tolist()
        factors = [lr_factor(s, total=total, warmup=warmup) for s in vectors[f"{case}_steps"].tolist()]
        np.testing.assert_allclose(factors, vectors[f"{case}_factor"], rtol=0, atol=EXACT)


def test_supervised_part_of_the_omni_stage(vectors: Mapping[str, np.ndarray]) -> None:
    logits = tensor(vectors, "omni_logits", grad=True)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)(logits, tensor(vectors, "omni_labels"))
    loss.backward()
    close(loss, vectors["omni_loss"], EXACT)
    close(logits.grad, vectors["omni_grad"], EXACT)
    ours = tensor(vectors, "omni_logits", grad=True)
    labels = tensor(vectors, "omni_labels")[:, 0].long()
    torch.stack(dice_and_cross_entropy(ours, labels, batch_dice=False)).sum().backward()
    close(ours.grad, vectors["omni_grad"], EXACT)
    close(sum(dice_and_cross_entropy(ours, labels, batch_dice=False)), vectors["omni_loss"], EXACT)  # type: ignore[arg-type]


def test_three_dimensional_overlaps_of_a_third_implementation(vectors: Mapping[str, np.ndarray]) -> None:
    starts = tensor(vectors, "nnssl_offsets").double()
    close(voco.overlap_labels(starts, (64, 64, 64), vectors["nnssl_grid"].tolist()), vectors["nnssl_overlaps"], EXACT)


def test_paper_form(vectors: Mapping[str, np.ndarray]) -> None:
    q = tensor(vectors, "paper_bases")
    logits = voco.position_similarity(tensor(vectors, "paper_feats"), q)
    close(logits, vectors["paper_logits"], EXACT)
    close(voco.prediction_paper(logits, tensor(vectors, "paper_labels")), vectors["paper_pred"], EXACT)
    close(voco.regularisation(q, squared=False, rectified=False), vectors["paper_reg"], EXACT)


def test_loss_of_a_third_implementation(vectors: Mapping[str, np.ndarray]) -> None:
    q, x = tensor(vectors, "nnssl_base", grad=True), tensor(vectors, "nnssl_target", grad=True)
    labels = tensor(vectors, "nnssl_overlaps")
    pos, neg = voco.prediction_v1(voco.position_similarity(x, q.detach()), labels)
    # same loss, other guards against division by zero: none for the positives, 1e-6 an entry for the negatives
    weight, count = labels.sum((-2, -1)), (labels == 0).sum((-2, -1))
    pos = pos * (weight + voco.EPS) / weight
    neg = neg * (count.double() + voco.EPS) / (count + labels[0].numel() * voco.EPS)
    regular = voco.regularisation(q, squared=False, detach_later=False)
    terms = torch.stack([(pos + neg).mean(), regular.mean()])
    terms.sum().backward()
    close(terms, vectors["nnssl_pred_reg"], EXACT)
    close(q.grad, vectors["nnssl_grad_base"], EXACT)
    close(x.grad, vectors["nnssl_grad_target"], EXACT)
