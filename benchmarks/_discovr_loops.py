"""DISCOVR's step as it is published: one view after the other, and the image teacher asked twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medssl.objectives.masked_reconstruction import random_mask

__all__ = ["published_step"]


def class_token(encoder: Any, x: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Embed everything, throw away what is hidden, encode the rest."""
    return encoded(encoder, x, hidden)[:, 0]


def encoded(encoder: Any, x: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Class token and tokens (N, 1 + K, D)."""
    tokens = encoder.tokens(x)
    if hidden is not None:
        tokens = tokens[~hidden].reshape(len(tokens), -1, tokens.shape[-1])
    found: Tensor = encoder.encode(tokens)
    return found


def in_views(scores: list[Tensor], teacher: Tensor, centre: Tensor, heat: float) -> Tensor:
    """Loss of a branch, view by view, as it is before the factor of the frames."""
    wanted = functional.softmax((teacher - centre) / heat, dim=-1).detach()
    losses = [torch.sum(-wanted * functional.log_softmax(u / 0.1, dim=-1), dim=-1).mean() for u in scores]
    return torch.stack(losses).sum() / len(losses)


def decoded(decoder: Any, visible: Tensor, hidden: Tensor) -> Tensor:
    """Visible tokens first, then hidden ones, and they stay so."""
    rows, width = len(visible), decoder.positions.shape[-1]
    places = decoder.positions.expand(rows, -1, -1)
    seen, unseen = (places[chosen].reshape(rows, -1, width) for chosen in (~hidden, hidden))
    tokens = torch.cat([decoder.enter(visible) + seen, decoder.mask_token + unseen], dim=1)
    for block in decoder.blocks:
        tokens = block(tokens)
    told: Tensor = decoder.leave(decoder.norm(tokens))
    return told


@torch.no_grad()
def assigned(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn-Knopp in the plain domain."""
    q = torch.exp(scores / epsilon).t()
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q * samples).t()


def clusters(student: Tensor, teacher: Tensor, prototypes: Tensor) -> Tensor:
    """Hard targets of both sides; gradients come from the student's alone. Prototypes are of unit length."""
    own = functional.normalize(student.flatten(0, 1), dim=-1) @ prototypes.t()
    known = functional.normalize(teacher.flatten(0, 1), dim=-1) @ prototypes.detach().t()
    wanted, back = (assigned(scores.detach(), 0.05, 10).argmax(dim=1) for scores in (known, own))
    loss = functional.cross_entropy(own / 0.1, wanted)
    with torch.no_grad():
        functional.cross_entropy(known / 0.1, back)  # only a number that is shown
    return loss


def published_step(method: Any, clips: Tensor) -> Tensor:
    """Loss of a step of ``DISCOVR(reference=True)`` with the same masks, which the method's generator gives."""
    n, views, heat = len(clips), method.masks, method.teacher_temperature[0]
    frames = clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    length, *plane = method.grid
    share = method.hidden / (plane[0] * plane[1])
    tubes = random_mask(n * (views + 1), (length, *plane), share, method.generator, group=(length, 1, 1)).view(
        n, views + 1, -1
    )
    holes = random_mask(len(frames) * views, (1, *plane), share, method.generator).view(len(frames), views, -1)

    with torch.no_grad():
        teacher = method.teacher.head(class_token(method.teacher.encoder, clips))
    scores = [method.head(class_token(method.encoder, clips, tubes[:, v])) for v in range(views)]
    video = in_views(scores, teacher, method.teacher.centre, heat)

    with torch.no_grad():
        teacher = method.image_teacher.head(class_token(method.image_teacher.encoder, frames))
    scores = [method.image_head(class_token(method.image_encoder, frames, holes[:, v])) for v in range(views)]
    image = in_views(scores, teacher, method.image_teacher.centre, heat) * 256 / len(frames)

    told = decoded(method.decoder, encoded(method.encoder, clips, tubes[:, views])[:, 1:], tubes[:, views])
    with torch.no_grad():  # once more, for the tokens
        tokens = encoded(method.image_teacher.encoder, frames)[:, 1:]
        tokens = (tokens - tokens.mean(dim=1, keepdim=True)) / (tokens.std(dim=1, keepdim=True) + 1e-6)
        known = tokens.reshape(n, -1, tokens.shape[-1])[:, :: method.tubelet]
    # in place before every use there; here in the graph, which leaves out a part of the gradient without influence
    prototypes = functional.normalize(method.prototypes, dim=-1)
    return video + image + clusters(told, known, prototypes)
