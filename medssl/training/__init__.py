"""Training: self-supervised pre-training, its exact continuation, fine-tuning and prediction."""

__all__: list[str] = []
