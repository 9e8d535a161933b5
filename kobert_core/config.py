"""Frozen models of what one training run needs. A later stage never changes one: it gets a new value.

What depends on the task (`data`, and what its model adds) is declared beside the task, in `kobert_core.tasks`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kobert_core.data.dialect import Dialect, codec_name
from kobert_core.data.source import Source

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NUMBERS = 2
"""Raised whenever the same `TrainConfig` and data come to other numbers: no sweep goes on across such a change."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds(value: object) -> object:
    """A duration such as `90s`, `10m`, `2h`, `1h30m`, or a number of seconds, in seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.replace(" ", ""))
    if not match or not any(match.groups()):
        raise ValueError(f"a duration is written like 90s, 10m, 2h or 1h30m, but got {value!r}")
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


Duration = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False),
    BeforeValidator(
        seconds,
        json_schema_input_type=Annotated[float, Field(gt=0)]
        | Annotated[str, Field(pattern=r"^(?=.*\d) *([\d ]+d)? *([\d ]+h)? *([\d ]+m)? *([\d ]+s)? *$")],
    ),
]


class FrozenConfig(BaseModel):
    """A value that cannot be changed, and refuses keys that it does not know."""

    model_config = ConfigDict(
        defer_build=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Beyond what data would spoil a run: `max_unknown_rate`, `max_leak` and `min_labels` of a study."""

    unknown_rate: float = 0.05
    leak: float = 0.01
    labels: int = 2


class DataConfig(FrozenConfig):
    """What every task says of its data; a task adds its own fields."""

    train: Source
    """Labelled file to train on; also a list of files, a pattern, an address such as `s3://bucket/train.tsv`, or a data
    set. A relative path is relative to the study file."""
    dev: Source | None = None
    """Labelled file that trials are compared on; without it a part of `train` is set aside."""
    test: Source | None = None
    """Labelled file that is read once, at the end of a sweep."""
    encoding: str | None = None
    """Encoding of files of text that are not UTF-8, such as cp949; when not given, CP949 and UTF-16 are recognised."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What is between two fields, where it is no tab in a `.tsv` or `.txt` and no comma in a `.csv` file."""
    header: bool | None = None
    """`false`: files of text and sheets have no header, and their columns are called 0, 1, 2 …"""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of `train` that becomes the dev split, when `dev` is not given."""
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Cut `train` into so many folds instead: a run trains a model for each fold, on the rows of all others, and is
    judged by the mean of their scores."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the dev split and of `max_train_examples`; the same for all trials."""
    max_train_examples: PositiveInt | None = None
    """Train on a sample of this many examples."""
    max_dev_examples: PositiveInt | None = None
    """Compare trials on a sample of this many examples."""
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of the dev split that no trial is chosen by, by class or by whole articles: a sweep's winner is confirmed on
    it. A third when the study has `confirm` and does not say."""
    max_bad_fraction: Fraction = 0.01
    """Part of a file's rows that may be unusable and set aside before the run is refused."""
    max_unknown_rate: Fraction | None = None
    """Part of the pieces of the training texts that the tokenizer may not know before the run is refused; 0.05 when not
    given."""
    max_leak: Fraction | None = None
    """Part of the dev split, and of the test file, that may also stand in the training split before the run is refused;
    0.01 when not given."""
    min_labels: PositiveInt | None = None
    """Labels that the rows of `train`, and those of `dev`, must have at least between them; 2 when not given."""

    @model_validator(mode="after")
    def _one_way_to_hold_rows_out(self) -> DataConfig:
        for name in ("dev", "dev_fraction", "holdout_fraction") if self.folds is not None else ():
            if name in self.model_fields_set and getattr(self, name):
                raise ValueError(f"give `{name}` or `folds`, not both: each fold is held out once, and no other rows")
        return self

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None:
            codec_name(value)
        return value

    @field_validator("delimiter")
    @classmethod
    def _is_no_part_of_lines(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError(f"a field cannot end at {value!r}")
        return value

    @property
    def limits(self) -> Limits:
        """Beyond what the data would spoil a run."""
        given: dict[str, Any] = {
            "unknown_rate": self.max_unknown_rate,
            "leak": self.max_leak,
            "labels": self.min_labels,
        }
        return replace(Limits(), **{name: value for name, value in given.items() if value is not None})

    @property
    def dialect(self) -> Dialect:
        """How files of text are to be read."""
        encoding = None if self.encoding is None else codec_name(self.encoding)
        return Dialect(encoding=encoding, delimiter=self.delimiter, header=self.header is not False)


class ModelConfig(FrozenConfig):
    """The encoder and its tokenizer; a task adds its head."""

    backbone: str | None = None
    """Hub name or local folder of an encoder of a known family, or its address, such as `s3://bucket/encoder`. May be
    left out with `init: random` and `config`."""
    revision: str | None = None
    """Branch, tag or commit of `backbone` on the hub."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Where the weights of the encoder come from. Random only when the study says so."""
    config: dict[str, object] = Field(default_factory=dict)
    """Values of transformers' config of the encoder that replace those of `backbone`; sizes only with `init: random`.
    Without `backbone`, `model_type` names its family: BERT when not given."""
    tokenizer: str | None = None
    """Hub name or local folder of the tokenizer, when it is not that of `backbone`."""
    tokenizer_vocab_size: PositiveInt | None = None
    """Train a SentencePiece model of this many pieces on the training texts, instead of loading a tokenizer."""
    keep_layers: PositiveInt | None = None
    """Begin with so many of the layers of `backbone`, the lowest, the highest, and those at equal distances between
    them (Sanh et al. 2019, DistilBERT); all of them when not given."""
    freeze: Annotated[int, Field(ge=0)] | Literal["embeddings"] = 0
    """What of the encoder keeps its weights: `embeddings`, or with a number the embeddings and so many of the lowest
    layers; 0 for nothing."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the head."""
    hidden_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout inside the encoder's layers (BERT's `hidden_dropout_prob`); that of `backbone` when not given."""
    attention_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of attention weights (BERT's `attention_probs_dropout_prob`); that of `backbone` when not given."""

    @model_validator(mode="after")
    def _has_a_source(self) -> ModelConfig:
        if self.init == "pretrained" and self.backbone is None:
            raise ValueError("`backbone` must be given with `init: pretrained`")
        if self.backbone is None and self.tokenizer is None and self.tokenizer_vocab_size is None:
            raise ValueError("without `backbone`, `tokenizer` or `tokenizer_vocab_size` must be given")
        if self.tokenizer is not None and self.tokenizer_vocab_size is not None:
            raise ValueError("give `tokenizer` or `tokenizer_vocab_size`, not both")
        if self.init == "pretrained" and self.tokenizer_vocab_size is not None:
            raise ValueError("`tokenizer_vocab_size` makes new pieces: it needs `init: random`")
        if self.keep_layers is not None and self.backbone is None:
            raise ValueError("`keep_layers` are those of a `backbone`, which must be given")
        return self


class OptimConfig(FrozenConfig):
    """AdamW with a learning rate for the encoder and one for the head."""

    backbone_lr: Annotated[float, Field(ge=0)] = 5e-5
    """Peak learning rate of the encoder."""
    classifier_lr: Annotated[float, Field(ge=0)] = 5e-5
    """Peak learning rate of the head."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warmup: linear decay to zero at the last step, or constant."""
    warmup_ratio: Fraction = 0.1
    """Part of all steps in which the learning rates rise from zero."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of warmup; takes the place of `warmup_ratio`."""
    batch_size: PositiveInt | Literal["auto"] = 32
    """Examples that go through the model at once, on one worker; `auto`: as many as fit into the memory of its GPU, or
    8,192 tokens on a CPU."""
    max_tokens: PositiveInt | None = None
    """Tokens that go through the model at once, on one worker. A step is cut finer where its examples are long;
    which examples it has stays the same."""
    accumulation: PositiveInt = 1
    """Micro-batches whose gradients make one step."""
    effective_batch_size: PositiveInt | None = None
    """Examples of one step over all workers; `accumulation` then follows from it and `batch_size`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; never on biases and LayerNorm."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the encoder's learning rate from each layer to the one below it."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are clipped to this global norm."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> OptimConfig:
        if self.effective_batch_size is not None and "accumulation" in self.model_fields_set:
            raise ValueError("give `accumulation` or `effective_batch_size`, not both")
        if self.batch_size == "auto" and self.effective_batch_size is None:
            raise ValueError("with `batch_size: auto`, `effective_batch_size` must say how many examples a step has")
        if self.warmup_steps is not None and "warmup_ratio" in self.model_fields_set:
            raise ValueError("give `warmup_ratio` or `warmup_steps`, not both")
        return self

    def examples_per_step(self, workers: int) -> int:
        """Examples of one step over all `workers`."""
        if self.effective_batch_size is not None:
            return self.effective_batch_size
        assert self.batch_size != "auto"
        return self.batch_size * self.accumulation * workers


class RunConfig(FrozenConfig):
    """How long a run is, and what makes it repeatable."""

    epochs: Annotated[float, Field(gt=0)] = 4
    """Passes over the training examples; 0.5 is half a pass."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the weights, the order of the examples and dropout."""
    eval_percent: Annotated[PositiveInt, WithJsonSchema({"enum": [1, 2, 4, 5, 10, 20, 25, 50, 100]})] = 10
    """Evaluate each time this percentage of the run's own steps is done; these are the scheduler's rungs. With
    `data.folds` it is that of the steps of a fold, and the rungs are folds."""
    checkpoint_interval: Duration = 600
    """Write a checkpoint at each evaluation, and between two of them each time that so long (such as `10m`) has gone
    by since the last one: the most that is lost when a run is killed."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on CUDA, float32 on CPU."""
    gradient_checkpointing: bool = False
    """Compute each layer twice instead of keeping its activations: less memory, more time, the same numbers. Not the
    last layer of a classifier, which sees few tokens."""
    compile: bool = False
    """Compile the encoder's layers with `torch.compile`, but for the last one of a classifier. It takes up to a minute
    at the start of a run."""

    deterministic: bool = False
    """On CUDA, take only kernels that give the same bits each time. Otherwise that is so for texts of up to 128 tokens
    in bf16; on a CPU always."""

    @field_validator("eval_percent")
    @classmethod
    def _divides_a_hundred(cls, value: int) -> int:
        if 100 % value:
            raise ValueError(f"`eval_percent` must divide 100, but got {value}")
        return value


LATENCY, PARAMETERS, MODEL_MB = MODEL_COSTS = ("cost/latency_ms", "cost/parameters", "cost/model_mb")
"""What a model of some shape costs, whatever its weights are: see `kobert_core.costs`."""


class Objective(FrozenConfig):
    """What makes one set of weights better than another."""

    metric: str
    """A metric that the task reports, such as `eval/accuracy`."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better, or less."""

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether `value` beats `than`; anything finite beats None, and NaN beats nothing."""
        if not math.isfinite(value):
            return False
        return than is None or (value > than if self.mode == "max" else value < than)


class DistillConfig(FrozenConfig):
    """What a small model learns from a large one, its teacher (Hinton et al. 2015, Distilling the Knowledge in a Neural
    Network)."""

    soft_labels: Source
    """Predictions of the teacher, as `predict` and `distill` write them: `text`, `pair` where a row is a pair, and
    `probability_…` or `score`. Texts that are not in the training split are learned from as well, without labels."""
    weight: Fraction = 0.5
    """Part of the loss of an example that is the teacher's, where it also has a label."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Logits are divided by it, so that the small probabilities of the teacher count more."""


class TrainConfig(FrozenConfig):
    """All that decides the result of one training run."""

    task: str
    """Name of a task in `kobert_core.tasks`."""
    data: SerializeAsAny[DataConfig]
    """Files and how they become examples; its class is the task's `Data`."""
    model: SerializeAsAny[ModelConfig]
    """Encoder, tokenizer and head; its class is the task's `Model`."""
    optim: OptimConfig = OptimConfig()
    """Optimizer, schedule and batch."""
    train: RunConfig = RunConfig()
    """Length, seed, evaluations."""
    distill: DistillConfig | None = None
    """What is learned from a teacher; None when there is none."""
    objective: Objective | None = None
    """Decides which checkpoint is the best; the task's own objective when not given."""

    def with_seed(self, seed: int) -> Self:
        """The same run with another seed."""
        return self.model_copy(update={"train": self.train.model_copy(update={"seed": seed})})
