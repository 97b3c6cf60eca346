"""Run Lightning's fit, validate, test and predict with the defaults, checks and checkpoints of this package."""

import atexit
import os
import warnings
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from patronus_pl.callbacks import EMA
from patronus_pl.callbacks.checkpoint import write_whole_checkpoints
from patronus_pl.callbacks.resume import Resume
from patronus_pl.commands.ranks import leave_process_group
from patronus_pl.engine.resuming import chosen_checkpoint, model_to_resume
from patronus_pl.engine.run_folder import RunFolder
from patronus_pl.errors import InvalidOptionError
from patronus_pl.hardware import best_precision
from patronus_pl.rejected import OneLineErrors


class EngineParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, which answers a wrong option with one line."""


class PatronusCLI(LightningCLI):
    """Lightning's command line.

    Args:
        argv: fit, validate, test or predict, and its options.
        folder: what takes the folder of the run.
    """

    def __init__(self, argv: list[str], folder: RunFolder) -> None:
        self.argv, self.engine, self.folder = argv, argv[0], folder
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            args=argv,
            parser_class=EngineParser,
            parser_kwargs={"prog": "patronus"},
            # A job that SLURM starts again writes to the folder that its options name.
            save_config_kwargs={"overwrite": True},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Choose the precision that this machine computes fast, and let `test` be told how to evaluate."""
        parser.set_defaults({"trainer.precision": best_precision()})
        if self.engine == "test":
            from patronus_pl.callbacks.evaluation import Evaluation

            # Beside `model`, not in it: there the checkpoint would win over the command line.
            parser.add_lightning_class_args(Evaluation, "evaluation")

    def _parse_ckpt_path(self) -> None:
        """Find and check the checkpoint before anything is read or built, and merge its model with the options."""
        config = self.config[self.engine]
        _name_run(config)
        path = chosen_checkpoint(self.engine, config.as_dict())
        if path is not None:
            config["ckpt_path"] = str(path)
            model = model_to_resume(self.engine, config["model"].as_dict(), path, self.argv)
            self.config = self.parser.parse_object({self.engine: {"model": model}}, self.config)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with the callbacks in the one order that works."""
        trainer_config = self.config_init[self.engine]["trainer"]
        if trainer_config.get("enable_checkpointing") is False:  # the configurations list a callback that writes them
            listed = trainer_config.get("callbacks") or []
            kwargs["callbacks"] = [callback for callback in listed if not isinstance(callback, ModelCheckpoint)]
        if SLURMEnvironment.detect() and not trainer_config.get("default_root_dir"):
            # Lightning keeps what a job that is started again goes on from below `default_root_dir`, for all jobs.
            kwargs["default_root_dir"] = os.path.join("runs", f"slurm_{SLURMEnvironment.job_id()}")
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.precision in ("16-true", "bf16-true"):
            raise InvalidOptionError(
                f"trainer.precision is {trainer.precision}; the activations need weights of float32: use "
                f"{trainer.precision.replace('true', 'mixed')}, 32-true or 64-true"
            )
        callbacks: list[Any] = [*trainer.callbacks, Resume()]  # type: ignore[attr-defined]
        if not trainer.loggers:  # LearningRateMonitor refuses to run without one
            callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
        # A callback after EMA would see the raw weights, and `callbacks+:` appends: EMA goes back to its place.
        trainer.callbacks = sorted(callbacks, key=lambda callback: isinstance(callback, EMA))  # type: ignore[attr-defined]
        write_whole_checkpoints(trainer)
        self.folder.claim(trainer)
        return trainer


def _name_run(config: Any) -> None:
    """Call the run after its first configuration file, unless its logger was given a name."""
    options: Any = getattr(config.trainer.logger, "init_args", None)
    if config.config and options is not None and options.get("name") == "lightning_logs":
        options.name = Path(str(config.config[0])).stem


def run_engine(argv: list[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`, the first of the arguments, with the others as its options."""
    # Lightning warns whenever arguments are passed from Python, which is what this function is for.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    # The size that it prints is the weights', which are float32 all the same.
    warnings.filterwarnings("ignore", message="Precision bf16-mixed is not supported by the model summary")
    atexit.register(leave_process_group)
    folder = RunFolder()
    try:
        PatronusCLI(argv, folder)
    except Exception:
        folder.remove_if_unused()
        raise
