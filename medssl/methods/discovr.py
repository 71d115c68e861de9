"""DISCOVR: a video encoder learns from its slow copy, and from clusters that an image encoder finds on the way."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.video_vit import VideoViT
from medssl.errors import ConfigError
from medssl.methods.base import Losses
from medssl.methods.masked_autoencoder import TokenDecoder
from medssl.methods.of_views import OfViews, refuse_other_views
from medssl.methods.projectors import MLPHead
from medssl.methods.teacher import distance, ema_update, frozen, momentum_at
from medssl.objectives.assignment import cosine_scores, new_prototypes, refuse_shares, start_head
from medssl.objectives.base import full_precision, positive, promoted
from medssl.objectives.dino import warmed
from medssl.objectives.discovr import (
    Alignment,
    Targets,
    cluster_distillation,
    in_published_order,
    masked_self_distillation,
    moved_centre,
    random_tokens,
    standardised_frames,
    teacher_tokens,
    usage,
)
from medssl.objectives.masked_reconstruction import random_mask
from medssl.objectives.pairs import unit
from medssl.optim import Optim
from medssl.views.base import Batch, Views

__all__ = ["DISCOVR", "BranchWeights", "PrototypeHead", "Teacher"]

FRAMES_OF_WEIGHT_ONE = 256  # of the image branch of the released code, whose weight falls with the frames of a step


@dataclass(frozen=True)
class BranchWeights:
    """Multipliers of the three losses, all 0 or more; published: 1 each.

    Attributes:
        video: class tokens of masked clips.
        image: class tokens of masked frames.
        clusters: clusters of the image teacher's tokens, told by the video branch.
    """

    video: float = 1.0
    image: float = 1.0
    clusters: float = 1.0


class PrototypeHead(nn.Module):
    """DINO's head: three layers with GELU, then cosines with prototypes, which is a weight-normed layer of gain 1.

    Args:
        width: features in.
        hidden: features of the layers between.
        out: features that are compared with the prototypes.
        prototypes: K.
    """

    def __init__(self, width: int, hidden: int, out: int, prototypes: int) -> None:
        super().__init__()
        self.network = start_head(MLPHead(width, hidden, out, layers=3, norm=False, activation="gelu"))
        self.prototypes = new_prototypes(prototypes, out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., K), at least float32."""
        return self.scores(self.network(x))

    def scores(self, embedded: Tensor) -> Tensor:
        """Of what ``network`` gives: (..., out) → (..., K)."""
        with full_precision(embedded.device):
            return cosine_scores(promoted(embedded), self.prototypes)


class Taught(NamedTuple):
    """What a teacher says of whole inputs, without gradient: scores (N, K) and tokens (N, L, D)."""

    scores: Tensor
    tokens: Tensor


class Teacher(nn.Module):
    """A copy of an encoder and its head that follows them slowly, always in evaluation mode, and its centre.

    Args:
        encoder: of the student; with a class token.
        head: of the student.
    """

    centre: Tensor

    def __init__(self, encoder: VideoViT, head: PrototypeHead) -> None:
        super().__init__()
        self.encoder, self.head = frozen(copy.deepcopy(encoder)), frozen(copy.deepcopy(head))
        self.register_buffer("centre", torch.zeros(len(head.prototypes)))
        self.train()

    def train(self, mode: bool = True) -> Teacher:
        """See ``nn.Module.train``; a teacher is never in training mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Taught:
        """(N, C, T, H, W) without any mask, in one pass."""
        encoded = self.encoder.encode(self.encoder.tokens(x))  # type: ignore[operator]
        return Taught(self.head(encoded[:, 0]), encoded[:, 1:])

    def follow(self, encoder: nn.Module, head: nn.Module, momentum: float) -> None:
        """Move towards the student."""
        ema_update(self.encoder, encoder, momentum, buffers="copy")
        ema_update(self.head, head, momentum, buffers="copy")


class DISCOVR(OfViews):
    """DISCOVR (NeurIPS 2025): self-distillation of masked clips and frames, and clusters of frames told by the video.

    *Video*: class tokens of clips of which little is seen must say what a slow teacher says of the whole clip. *Image*:
    a second encoder learns the same of single frames. *Clusters*: from a masked clip a small decoder tells, for every
    place, to which prototype the image teacher's token there belongs; this trains the video branch alone.

    Where the released code does otherwise than intended, this follows the intention: all frames reach both branches
    alike, tokens are compared place by place, the schedule is applied, centres are those of raw scores, assignments
    are soft, and the image teacher runs once a step.

    Shapes: clips (B, C, T, H, W) → L tokens, K of them visible in each of V masks → class tokens (V, B, D) → scores
    (V, B, P); frames (B · F, C, 1, H, W) likewise; decoder (B, L, D) beside the image teacher's tokens (B, L, D).

    Args:
        encoder: of clips, a VideoViT with a class token; it is what is exported. That of frames is built like it.
        views: of video.
        masks: V, masks of each clip and each frame.
        mask_ratio: share of hidden patches; of clips the same in all frames (tubes).
        head: hidden features, and features that are compared with the prototypes of the heads.
        head_prototypes: P of each head. Published: 16384, for far more than a few thousand clips.
        prototypes: of the clusters of tokens.
        decoder_width: features of the decoder, even.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        weights: of the three losses.
        momentum: of both teachers at the start, rising to 1 along a cosine. Short training (below 20,000 steps) wants
            0.99.
        centre_momentum: of both centres, a step. A few clips a step want more.
        temperature: of students and of told clusters.
        teacher_temperature: at the start, and after the warm-up; below the students'.
        warmup: share of the training in which it rises (published: 30 of 400 epochs).
        epsilon: of the clusters' assignments.
        iterations: of Sinkhorn-Knopp.
        targets: see ``medssl.objectives.discovr.Targets``.
        alignment: see ``medssl.objectives.discovr.Alignment``.
        symmetric: see ``medssl.objectives.discovr.cluster_distillation``.
        cluster_tokens: random tokens of each clip that are compared in a step, which bounds the memory of (B · tokens,
            prototypes); None compares all.
        every_frame: the image branch sees all frames of a clip, as published; if not, only those whose tokens are
            compared: one of each tubelet, for half of the work.
        reference: what the released run did: both teachers' momentum 0.99 throughout, centres of shares with 0.8, the
            image loss times 256 over the frames of a step, hard targets, tokens beside those of other places, all
            frames, a constant learning rate.
        optim: optimiser settings (published: 1.5e-4 for 256 clips a step, in proportion to the clips).

    Raises:
        ConfigError: views that are not of video, another encoder, or numbers that do not fit each other.
    """

    encoder: VideoViT

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        masks: int = 4,
        mask_ratio: float = 0.9,
        head: tuple[int, int] = (2048, 256),
        head_prototypes: int = 4096,
        prototypes: int = 3000,
        decoder_width: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        weights: BranchWeights | None = None,
        momentum: float = 0.996,
        centre_momentum: float = 0.9,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.075,
        epsilon: float = 0.05,
        iterations: int = 10,
        targets: Targets = "soft",
        alignment: Alignment = "aligned",
        symmetric: bool = False,
        cluster_tokens: int | None = None,
        every_frame: bool = True,
        reference: bool = False,
        optim: Optim | None = None,
    ) -> None:
        video = _suitable(encoder, views)
        steady: dict[str, Any] = {"schedule": "constant", "warmup": 0} if reference else {"warmup": 0.1}
        super().__init__(video, optim or Optim(lr=1.5e-4, weight_decay=0.05, betas=(0.9, 0.95), **steady))
        positive(
            "DISCOVR", masks=masks, temperature=temperature, epsilon=epsilon, iterations=iterations,
            lowest_teacher_temperature=min(teacher_temperature),
            cluster_tokens=1 if cluster_tokens is None else cluster_tokens,
        )  # fmt: skip
        refuse_shares("DISCOVR", momentum=momentum, centre_momentum=centre_momentum, warmup=warmup)
        self.views, self.masks, self.weights = views, masks, weights or BranchWeights()
        self.momentum, self.centre_momentum = (0.99, 0.8) if reference else (momentum, centre_momentum)
        self.temperature, self.teacher_temperature, self.warmup = temperature, teacher_temperature, warmup
        self.epsilon, self.iterations, self.symmetric = epsilon, iterations, symmetric
        self.targets: Targets = "hard" if reference else targets
        self.alignment: Alignment = "reference" if reference else alignment
        self.reference, self.cluster_tokens = reference, cluster_tokens
        self.grid, self.tubelet = video.grid_of(views.size), video.patch[0]
        self.stride = 1 if every_frame or self.alignment == "reference" else self.tubelet
        self.hidden = int(self.grid[1] * self.grid[2] * mask_ratio)
        self._refuse_settings(mask_ratio, head_prototypes, prototypes, decoder_width, decoder_depth, decoder_heads)
        self.image_encoder = _of_frames(video)
        self.head, self.image_head = (PrototypeHead(video.out_dim, *head, head_prototypes) for _ in range(2))
        self.teacher, self.image_teacher = Teacher(video, self.head), Teacher(self.image_encoder, self.image_head)
        self.decoder = TokenDecoder(
            video.out_dim, video.out_dim, self.grid, hidden=decoder_width, depth=decoder_depth, heads=decoder_heads
        )
        self.prototypes = new_prototypes(prototypes, video.out_dim)

    def loss(self, batch: Batch) -> Losses:
        """See ``compare``, of clips as the views give them."""
        return self.compare(self.views(batch, self.generator).flatten(0, 1))

    def compare(self, clips: Tensor) -> Losses:
        """Both branches of self-distillation, then clusters of the frames' tokens told from masked clips.

        Args:
            clips: (B, C, T, H, W).
        """
        frames = clips[:, :, :: self.stride].transpose(1, 2).flatten(0, 1).unsqueeze(2)
        # one more mask of each clip is for the decoder; all are one pass
        encoded, hidden, places = self._masked(self.encoder, clips, self.masks + 1)
        embedded: Tensor = self.head.network(encoded[:, :-1, 0].transpose(0, 1))
        decoded = self.decoder(encoded[:, -1, 1:], places[:, -1])
        video, terms = self._distil("video", self.head.scores(embedded), self.teacher(clips).scores, self.teacher)
        seen, _, _ = self._masked(self.image_encoder, frames, self.masks)
        taught = self.image_teacher(frames)
        scores = self.image_head(seen[:, :, 0].transpose(0, 1))
        image, image_terms = self._distil("image", scores, taught.scores, self.image_teacher)
        if self.reference:
            image = image * FRAMES_OF_WEIGHT_ONE / len(frames)
        tokens = taught.tokens.unflatten(0, (len(clips), -1))
        clusters, cluster_terms = self._clusters(decoded, hidden[:, -1], tokens)
        weights = self.weights
        total = weights.video * video + weights.image * image + weights.clusters * clusters
        return Losses(total, {**terms, **image_terms, **cluster_terms}, embedded.detach().float().flatten(0, 1))

    def embed(self, x: Tensor) -> Tensor:
        """What the head makes of whole clips: (N, C, T, H, W) → (N, out), float32."""
        embedded: Tensor = self.head.network(self.encoder.encode(self.encoder.tokens(x))[:, 0])
        return embedded.float()

    def follow(self) -> None:
        """Move both teachers towards their students; before a step, which equals after the step before."""
        momentum = self.momentum if self.reference else momentum_at(self.progress, self.momentum)
        self.teacher.follow(self.encoder, self.head, momentum)
        self.image_teacher.follow(self.image_encoder, self.image_head, momentum)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See ``Method.training_step``; teachers move once an optimiser step."""
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.follow()
        return super().training_step(batch, batch_idx)

    def _masked(self, encoder: VideoViT, x: Tensor, masks: int) -> tuple[Tensor, Tensor, Tensor]:
        """Several masks of each input, all in one pass.

        Args:
            encoder: a student.
            x: (N, C, T, H, W).
            masks: M, of each.

        Returns:
            Class token and visible tokens (N, M, 1 + K, D), what was hidden (N, M, L), and the places of the visible
            tokens (N, M, K).
        """
        tokens, (length, *plane) = encoder.tokens(x), encoder.grid_of(tuple(x.shape[2:]))
        cells = plane[0] * plane[1]
        tubes = random_mask(len(x) * masks, (length, *plane), self.hidden / cells, self.generator, group=(length, 1, 1))
        hidden = tubes.view(len(x), masks, -1)
        visible = length * (cells - self.hidden)
        places = hidden.to(torch.uint8).argsort(stable=True, dim=2)[..., :visible]
        index = places.flatten(1).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        kept = tokens.gather(1, index).view(len(x) * masks, visible, -1)
        return encoder.encode(kept).unflatten(0, (len(x), masks)), hidden, places

    def _distil(self, name: str, scores: Tensor, taught: Tensor, teacher: Teacher) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one branch; its centre moves."""
        hot = warmed(self.progress, self.teacher_temperature, self.warmup)
        found = masked_self_distillation(
            scores, taught, teacher.centre, temperature=self.temperature, teacher_temperature=hot
        )
        if self.training:
            moved = moved_centre(
                teacher.centre, taught, found.shares, momentum=self.centre_momentum, reference=self.reference
            )
            teacher.centre.copy_(moved)
        terms = {name: found.loss.detach()} | {f"{name}_{k}": v for k, v in usage(found.shares).items()}
        return found.loss, terms

    def _clusters(self, decoded: Tensor, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the clusters.

        Args:
            decoded: (B, L, D), in raster order.
            hidden: (B, L) from the decoder.
            tokens: (B, F, l, D) of the image teacher, F frames of l tokens.
        """
        step = self.tubelet // self.stride
        if self.alignment == "aligned":
            tokens, step = tokens[:, ::step], 1
        else:
            decoded = in_published_order(decoded, hidden)
        known = teacher_tokens(standardised_frames(tokens), step, self.alignment)
        if self.cluster_tokens is not None and self.cluster_tokens < known.shape[1]:
            places = random_tokens(known.shape[1], self.cluster_tokens, len(known), self.generator)
            index = places.unsqueeze(-1).expand(-1, -1, known.shape[-1])
            decoded, known = decoded.gather(1, index), known.gather(1, index)
        found = cluster_distillation(
            decoded.flatten(0, 1), known.flatten(0, 1), unit(self.prototypes), epsilon=self.epsilon,
            iterations=self.iterations, temperature=self.temperature, targets=self.targets, symmetric=self.symmetric,
        )  # fmt: skip
        with torch.no_grad():
            nearest, wanted = found.scores.argmax(-1), found.assignments.argmax(-1)
            used = torch.zeros(len(self.prototypes), device=nearest.device).index_fill_(0, nearest, 1.0)
            terms = {
                "clusters": found.loss.detach(),
                "clusters_entropy": usage(found.assignments)["entropy"],
                "clusters_found": (nearest == wanted).float().mean(),
                "prototypes_used": used.mean(),
                "teacher_distance": distance(self.teacher.encoder, self.encoder),
            }
        return found.loss, terms

    def _refuse_settings(
        self, mask_ratio: float, heads_prototypes: int, prototypes: int, width: int, depth: int, heads: int
    ) -> None:
        frames, cells, weights = self.views.size[0], self.grid[1] * self.grid[2], self.weights
        if frames % self.tubelet:
            raise ConfigError(
                f"DISCOVR compares a clip's tubelets of {self.tubelet} frames with its frames, and {frames} frames do "
                f"not divide into them; set the views' frames to a multiple of {self.tubelet}"
            )
        if not 0 < mask_ratio < 1 or not 0 < self.hidden < cells:
            raise ConfigError(
                f"a mask_ratio of {mask_ratio} hides {self.hidden} of {cells} patches of a frame; DISCOVR hides at "
                "least one and leaves at least one: change mask_ratio, or take larger frames or smaller patches"
            )
        if width % heads or width % 2 or width < 2 * len(self.grid) or depth < 1:
            raise ConfigError(
                "DISCOVR's decoder needs an even width that is a multiple of its heads and at least one block, not "
                f"{width}, {heads} and {depth}"
            )
        losses = (weights.video, weights.image, weights.clusters)
        if min(heads_prototypes, prototypes) < 2 or min(losses) < 0 or not any(losses):
            raise ConfigError(
                "DISCOVR takes 2 or more prototypes of heads and clusters, and weights of 0 or more, not all 0; not "
                f"{heads_prototypes}, {prototypes} and {losses}"
            )


def _suitable(encoder: Encoder, views: Views) -> VideoViT:
    refuse_other_views(views, "video", method="DISCOVR", learns_from="clips of video", choose="ClipViews")
    if not isinstance(encoder, VideoViT) or encoder.leading != 1:
        what = "this one was built without" if isinstance(encoder, VideoViT) else f"{type(encoder).__name__} has none"
        raise ConfigError(
            f"DISCOVR compares class tokens, and {what}; choose the encoder VideoViT with class_token: true"
        )
    return encoder


def _of_frames(encoder: VideoViT) -> VideoViT:
    """An encoder of single frames that is built like one of clips."""
    return VideoViT(
        **{**encoder.init_args, "size": (1, *encoder.init_args["size"][1:]), "patch": (1, *encoder.patch[1:])}
    )
