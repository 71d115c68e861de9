"""Classification: single and multiple labels, weights, windows centred on an event."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import ConfigError
from medssl.heads.classification import ClassificationHead, centre_pool


def encoder() -> ResNet1d:
    torch.manual_seed(0)
    return ResNet1d(1, (8, 16), kernel=3, blocks=1)


def tones(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slow and fast sine waves of random phase: (n, 1, 64) and their class."""
    y = torch.arange(n) % 2
    phase = 6.3 * torch.rand(n, 1)
    t = torch.linspace(0, 6.3, 64)
    return torch.sin((2 + 6 * y.view(-1, 1)) * t + phase).unsqueeze(1), y


def test_learns_two_tones() -> None:
    head = ClassificationHead(encoder())
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    x, y = tones(32)
    for _ in range(40):
        optimizer.zero_grad()
        head.criterion(x, y)[0].backward()
        optimizer.step()
    new, truth = tones(64)
    with torch.no_grad():
        p = head.eval().probabilities(head(new))
    torch.testing.assert_close(p.sum(1), torch.ones(64))
    assert (p.argmax(1) == truth).float().mean() > 0.95


def test_class_weights_and_smoothing_are_those_of_torch() -> None:
    head = ClassificationHead(encoder(), ("a", "b", "c"), class_weights=(1.0, 5.0, 2.0), label_smoothing=0.1).eval()
    x, y = torch.randn(6, 1, 64), torch.tensor([0, 1, 2, 1, 0, 2])
    expected = F.cross_entropy(head(x), y, weight=torch.tensor([1.0, 5.0, 2.0]), label_smoothing=0.1)
    torch.testing.assert_close(head.criterion(x, y)[0], expected)


def test_unknown_labels_of_a_multilabel_target_do_not_count() -> None:
    head = ClassificationHead(encoder(), ("af", "pvc"), multilabel=True).eval()
    x = torch.randn(3, 1, 64)
    y = torch.tensor([[1.0, torch.nan], [0.0, torch.nan], [1.0, 0.0]])
    logits = head(x)
    known = [(0, 0, 1.0), (1, 0, 0.0), (2, 0, 1.0), (2, 1, 0.0)]
    by_hand = sum(F.binary_cross_entropy_with_logits(logits[i, k], torch.tensor(t)) for i, k, t in known) / 4
    torch.testing.assert_close(head.criterion(x, y)[0], by_hand)
    nothing, _ = head.criterion(x, torch.full((3, 2), torch.nan))
    nothing.backward()
    assert nothing.item() == 0.0


def test_centre_features_see_the_event_and_not_its_surroundings() -> None:
    x = torch.zeros(1, 2, 9)
    x[..., 4] = 1.0
    assert centre_pool(x, 0.1).tolist() == [[1.0, 1.0]]
    x[..., 0] = 100.0
    assert centre_pool(x, 0.4).tolist() == [[pytest.approx(1 / 5)] * 2]
    assert ClassificationHead(encoder(), centre=True).output.in_features == 16 + 16


def test_an_even_map_keeps_an_even_middle() -> None:
    x = torch.arange(8.0).view(1, 1, 8)
    assert centre_pool(x, 0.1).item() == 3.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("one",)}, "two classes"),
        ({"class_weights": (1.0,)}, "1 class_weights were given for 2"),
        ({"centre_fraction": 0.0}, "centre_fraction"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassificationHead(encoder(), **arguments)  # type: ignore[arg-type]
