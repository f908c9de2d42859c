"""A Trainer that keeps in the model's card what its evaluations gave, whatever a user's metrics are."""

import contextlib
from collections.abc import Iterator

from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from ..backbones.precision import weights_kept
from ..hub.card import FPTCard, SplitResult
from ..hub.card_metrics import NO_METRICS
from ..hub.card_numbers import numbers_of
from ..models.pretrained import FPTPreTrainedModel
from .distributing import DistributedTrainer, compiled_in_place

SPLIT_NAMES = {"eval": "validation", "test": "test"}  # what Trainer's metric prefixes stand for
LEFT_OUT = ("loss", *NO_METRICS)  # of what an evaluation reports


class RecordingTrainer(DistributedTrainer):
    """Trainer whose results go into `model.card`.

    `trainer.card` is the model's card: fill in what only you know (`task_name`, `license`, `limits` ...), and into
    `trainer.floors` the accuracy that needs no learning, by split ("validation", "test"; else that of the largest
    class), or a dict of such scores by metric (else, of numbers, what always answering their mean scores). A model
    that `model_init` makes goes on with the card.
    """

    is_in_train = False  # Trainer sets it, but calls `call_model_init` before

    def __init__(self, model: FPTPreTrainedModel | None = None, args=None, *more, **kwargs):
        self.floors: dict[str, float | dict[str, float]] = {}
        self._step_of_results: dict[str, int] = {}
        self._records = True
        if model is not None:
            self.check_model(model, args)
        super().__init__(model, args, *more, **kwargs)
        self.model.card = self.model.card or FPTCard()
        if self.processing_class is not None:
            self.model.processor = self.processing_class
        self._last = self.model.card, self.model.processor  # a hyperparameter search drops the model of each trial

    @property
    def card(self) -> FPTCard:
        """The model's card."""
        return self._last[0] if self.model is None else self.accelerator.unwrap_model(self.model).card

    def check_model(self, model: FPTPreTrainedModel, args) -> None:
        """Called with each model that is to be trained as `args` say, before anything else: raise for a wrong one."""

    def call_model_init(self, trial=None) -> FPTPreTrainedModel:
        """As `Trainer.call_model_init`: a new model for each training, with the card and the processor of the last."""
        model = compiled_in_place(super().call_model_init(trial))
        self.check_model(model, self.args)
        if self.is_in_train:
            if self.model is not None:
                self._last = self.card, self.accelerator.unwrap_model(self.model).processor
            model.card, model.processor = model.card or self._last[0], model.processor or self._last[1]
        return model

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """As `Trainer.evaluate`; what the training set gives is no result, and does not come into the card."""
        with self._recording(eval_dataset):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset, *args, **kwargs) -> PredictionOutput:
        """As `Trainer.predict`; see `evaluate`."""
        with self._recording(test_dataset):
            return super().predict(test_dataset, *args, **kwargs)

    @contextlib.contextmanager
    def _recording(self, dataset) -> Iterator[None]:
        self._records = dataset is None or dataset is not self.train_dataset
        try:
            yield
        finally:
            self._records = True

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`; records the result in the card, and leaves the weights as they are.

        (Trainer rounds them all for `bf16_full_eval` and `fp16_full_eval`.)
        """
        rounds = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        with weights_kept(self.model) if rounds else contextlib.nullcontext():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
            )
        metrics = {name.removeprefix(metric_key_prefix + "_"): value for name, value in output.metrics.items()}
        metrics = {name: float(value) for name, value in numbers_of(metrics).items() if name not in LEFT_OUT}
        split = SPLIT_NAMES.get(metric_key_prefix, metric_key_prefix)
        if metrics and self._records:
            counts = self.model.head_type.confusion(output.predictions, output.label_ids, self.model.config)
            result = SplitResult(split, output.num_samples, metrics, self._floors(split, output, metrics), counts)
            self.card.results[split] = result
            self._step_of_results[split] = self.state.global_step
        return output

    def _floors(
        self, split: str, output: EvalLoopOutput, metrics: dict[str, float]
    ) -> float | dict[str, float] | None:
        """The floors that were given for a split; for regressions else what answering the labels' mean scores."""
        given = self.floors.get(split)
        if given is not None:
            return given
        return self.model.head_type.floors(output.predictions, output.label_ids, metrics) or None
