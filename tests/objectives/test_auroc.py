"""Area under the curve: scikit-learn's, ties and limits included."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from medssl.objectives.auroc import auroc


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_that_of_scikit_learn_over_what_counts(levels: int) -> None:
    g = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (4, 50), generator=g).float() / levels
    positive, counted = (torch.rand(4, 50, generator=g) < share for share in (0.3, 0.7))
    wanted = roc_auc_score(positive[counted].numpy(), scores[counted].numpy())
    assert auroc(scores, positive, counted).item() == pytest.approx(wanted, abs=1e-6)


def test_without_positives_or_negatives_it_is_chance() -> None:
    assert auroc(torch.rand(5), torch.ones(5, dtype=torch.bool)) == 0.5
    assert auroc(torch.rand(5), torch.zeros(5, dtype=torch.bool)) == 0.5
