"""The one place where a Lightning trainer is made, for pre-training and fine-tuning alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from medssl.errors import ConfigError
from medssl.training.data import Draws, Loader
from medssl.training.quiet import quiet

__all__ = ["StepData", "best_precision", "fit", "is_cpu", "make_trainer", "to_channels_last"]


class StepData(lightning.LightningDataModule):
    """Hands Lightning the batches that are still to come, from the step where the trainer stands.

    Args:
        draws: the dataset.
        batch_size: samples a device and batch.
        workers: reading processes.
    """

    def __init__(self, draws: Draws, *, batch_size: int, workers: int) -> None:
        super().__init__()
        self.draws = draws
        self.batch_size = batch_size
        self.workers = workers

    def train_dataloader(self) -> Loader:
        """Called by Lightning once the checkpoint is restored."""
        trainer = self.trainer
        assert trainer is not None
        done = trainer.global_step
        return Loader(
            self.draws,
            size=self.batch_size,
            first=done * trainer.accumulate_grad_batches,
            count=(trainer.max_steps - done) * trainer.accumulate_grad_batches,
            workers=self.workers,
            rank=trainer.global_rank,
            world=trainer.world_size,
            pin=trainer.strategy.root_device.type == "cuda",
        )


def make_trainer(
    run: Path,
    callbacks: Sequence[Callback],
    *,
    max_steps: int,
    precision: str,
    accumulate: int = 1,
    accelerator: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: str = "auto",
    deterministic: bool = False,
    loggers: Sequence[str] = (),
) -> lightning.Trainer:
    """A trainer that logs, saves and shows only what the callbacks do.

    Raises:
        ConfigError: an accelerator, precision or strategy that is not to be had here.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    with quiet():
        try:
            return lightning.Trainer(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy,
                precision=precision,  # type: ignore[arg-type]
                max_steps=max_steps,
                max_epochs=-1,
                accumulate_grad_batches=accumulate,
                deterministic=deterministic,
                sync_batchnorm=not is_cpu(accelerator),  # several GPUs: heads normalise over the joined batch
                callbacks=list(callbacks),
                logger=[_logger(name, run) for name in loggers if name != "csv"] or False,
                plugins=_plugins(),
                default_root_dir=run,
                use_distributed_sampler=False,  # the loader knows its rank
                log_every_n_steps=10**9,  # MetricsLog writes
                limit_val_batches=0,
                num_sanity_val_steps=0,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise ConfigError(f"the trainer cannot be set up: {str(error).splitlines()[0]}") from error


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, data: StepData, checkpoint: Path | None) -> None:
    """Run the fit, from a checkpoint if there is one. Checkpoints are read without unpickling objects."""
    with quiet():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)


def best_precision(asked: str, accelerator: str) -> str:
    """``auto`` resolved: bfloat16 where the processor computes with it, else 32 bit."""
    if asked != "auto":
        return asked
    if not is_cpu(accelerator):
        return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"


def is_cpu(accelerator: str) -> bool:
    """Whether this choice means training on the processor."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def to_channels_last(module: torch.nn.Module) -> None:
    """Put the weights of 3-D and 2-D convolutions channels-last, in place; activations follow them."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def _logger(name: Literal["tensorboard", "wandb", "mlflow"] | str, run: Path) -> Any:
    from lightning.pytorch import loggers

    try:
        if name == "tensorboard":
            return loggers.TensorBoardLogger(save_dir=run, name="", version="tensorboard")
        if name == "wandb":
            return loggers.WandbLogger(save_dir=run, name=run.name, project="medssl")
        return loggers.MLFlowLogger(experiment_name="medssl", run_name=run.name, tracking_uri=f"file:{run / 'mlruns'}")
    except (ImportError, ModuleNotFoundError) as error:
        raise ConfigError(f"the {name} logger is not installed; run: pip install 'medssl[{name}]'") from error


def _plugins() -> list[Any]:
    """Under SLURM, keep Lightning from requeueing by itself: a stopped run is continued with `medssl resume`."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
