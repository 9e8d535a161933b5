"""What a task must offer so that the loop can train it and a sweep can compare its runs, and what tasks share."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Self, cast

import numpy as np
import torch
from torch import nn

from kobert_core.config import DataConfig, ModelConfig, Objective, TrainConfig
from kobert_core.data.batching import Batch
from kobert_core.data.cache import cached_arrays
from kobert_core.data.set_aside import SetAside
from kobert_core.data.source import Source
from kobert_core.data.splits import FOLDS_OF, Indices, sample, stratified_split
from kobert_core.data.survey import CutOff, Digests, Leak, Survey, same_files, warn_of_same_files
from kobert_core.errors import InputError
from kobert_core.models.backbone import check_encoder, load_encoder
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.examples import EXAMPLE_TEXTS as EXAMPLE_TEXTS
from kobert_core.tasks.examples import E
from kobert_core.tasks.examples import Examples as Examples
from kobert_core.tasks.examples import Inputs as Inputs
from kobert_core.tasks.spec import TaskSpec
from kobert_core.tokenization import Tokenizer, load_tokenizer, train_model, trained_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from kobert_core.models.heads import EncoderWithHead


class Chance(NamedTuple):
    """The score of an answer that needs no look at the text. A model that scores no more has learned nothing."""

    value: float
    by: str
    """Which answer that is, in words."""


class Outcome(NamedTuple):
    """What came of one row or question, as in `Task.review`."""

    expected: object
    predicted: object
    confidence: float | None
    score: float


log = logging.getLogger(__name__)
Split = Callable[..., tuple[Indices, Indices]]
"""`stratified_split` or `grouped_split`."""
Purpose = Literal["training", "scoring"]
"""What a labelled file is read for: scores may count what nothing can be learned from."""
TextsByKind = dict[str, list[tuple[str, ...]]]
UNKNOWN_SAMPLE = 2000
"""Examples whose pieces tell how many of all are unknown: enough to tell 5% from 6%."""


class Task(ABC, Generic[E]):
    """One task on the data of one config. Made once a run; its features come from the cache."""

    spec: ClassVar[TaskSpec]
    """What a study knows of it."""
    head: ClassVar[type[EncoderWithHead]]
    """Its model."""
    weight_files: ClassVar[Mapping[str, str]] = {}
    """Files beside `model.safetensors`, each with the prefix of the weights in it; what transformers does not know."""
    caveats: ClassVar[Mapping[str, str]] = {}
    """What people who load an export must know, in words, by the file of its weights that says so."""
    chosen_on_dev: ClassVar[Mapping[str, str]] = {}
    """Metrics that are values of the model's config chosen on the dev split, with that value's name."""
    decoding: ClassVar[Mapping[str, Sequence[object]]] = {}
    """Values of the model's config by which answers are read from outputs, so that other ones need no training: what is
    worth trying."""
    leak: ClassVar[type[Leak]] = Leak
    """What of a split may be trained on, in words."""
    shares: ClassVar[Mapping[str, float]] = {}
    """Metrics that are the share of rows or questions that are right, with their value when all are."""
    segments: ClassVar[int] = 1
    """Texts that an example has: 2 where it is a pair."""
    pooler: ClassVar[bool] = True
    """Whether the head needs the encoder's pooler."""

    fold: int = 0
    """Which of the data's folds `dev` is, where it has some; counted from 0."""

    data: DataConfig
    model: ModelConfig

    def __init__(
        self,
        config: TrainConfig,
        *,
        cache: Path | None = None,
        tokenizer: Tokenizer | None = None,
        progress: Progress = unseen,
    ) -> None:
        """A task whose data is read when it is first asked for.

        Args:
            config: What the run is.
            cache: Folder of the feature cache; None builds in memory.
            tokenizer: Takes the place of the one that the config names.
            progress: Hears how far long work has come: reading here, and what else is done with the task.
        """
        assert isinstance(config.data, self.spec.Data) and isinstance(config.model, self.spec.Model)
        self.config, self.data, self.model, self._cache = config, config.data, config.model, cache
        self.progress = progress
        if tokenizer is not None:
            self.tokenizer = tokenizer

    @property
    def name(self) -> str:
        """The name that a study gives it."""
        return self.spec.name

    @property
    def objective(self) -> Objective:
        """What makes one set of weights better than another, when a study does not say."""
        return self.spec.objective

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that the config names, or one trained on the texts of the training split: `dev` stays unseen."""
        model = self.model
        if model.tokenizer_vocab_size is None:
            source = model.tokenizer or model.backbone
            assert source is not None
            return load_tokenizer(source, revision=model.revision)
        vocab_size, rows = model.tokenizer_vocab_size, np.ascontiguousarray(self._split["train"])

        def build() -> dict[str, np.ndarray]:
            return {"model": np.frombuffer(train_model(self._texts_at(rows), vocab_size), dtype=np.uint8)}

        key = {"rows": hashlib.sha256(rows.tobytes()).hexdigest(), "vocab_size": vocab_size}
        trained = cached_arrays(self._cache, self._file_key(self.data.train) | key, build)
        tokenizer = trained_tokenizer(trained["model"].tobytes())
        if len(tokenizer) < vocab_size and not self.fold:  # those of other folds have about as many
            log.warning(
                "the training texts give a tokenizer of %s pieces, not of `tokenizer_vocab_size: %s`",
                f"{len(tokenizer):,}",
                vocab_size,
            )
        return tokenizer

    @cached_property
    def train(self) -> E:
        """The examples that are trained on: those of the training split, and what a teacher says of others."""
        return self._learned()

    def _learned(self) -> E:
        return self.read(self.data.train, "training").take(self._split["train"])

    @cached_property
    def dev(self) -> E:
        """The examples of the split that runs are compared on."""
        return self._dev_file.take(self._split["dev"])

    @cached_property
    def holdout(self) -> E:
        """The examples that `data.holdout_fraction` keeps from the dev split: no run is chosen by them."""
        return self._dev_file.take(self._split["holdout"])

    @property
    def _dev_file(self) -> E:
        """All examples of the file that the dev split is of."""
        data = self.data
        return self.read(data.train, "training") if data.dev is None else self.read(data.dev)

    @property
    @abstractmethod
    def _split(self) -> Mapping[str, np.ndarray]:
        """Items of the split `train`, in the training file, and of `dev` and `holdout`, in the dev file if there is
        one.

        Those of `train` can be trained on; those of the others are all that scores count.
        """

    def _split_by_class(self, train: np.ndarray, dev: np.ndarray | None) -> dict[str, np.ndarray]:
        """What `_split` gives, where each split is to have the classes in the same proportions.

        Args:
            train, dev: Class of each item of either file; `dev` is None where there is no dev file.
        """
        data, dev_classes = self.data, train if dev is None else dev
        train_items, dev_items = self._carve(stratified_split, train, dev)
        dev_items = sample(dev_items, data.max_dev_examples, seed=data.split_seed, labels=dev_classes[dev_items])
        return {
            "train": sample(train_items, data.max_train_examples, seed=data.split_seed, labels=train[train_items]),
            **self._hold_out(stratified_split, dev_items, dev_classes[dev_items]),
        }

    def _hold_out(self, split: Split, dev: np.ndarray, kinds: Sequence[Hashable] | np.ndarray) -> dict[str, np.ndarray]:
        """The splits `dev` and `holdout`: all items of dev, and none, or its two parts.

        Args:
            split: Makes these parts.
            dev: Items.
            kinds: Class or group of each of them.
        """
        data = self.data
        if not data.holdout_fraction:
            return {"dev": dev, "holdout": dev[:0]}
        try:
            seen, held_out = split(kinds, dev_fraction=data.holdout_fraction, seed=data.split_seed)
        except ValueError as error:
            raise InputError(
                f"nothing can be held out from the dev split ({error})",
                where="data.holdout_fraction",
                fix="give it more rows, or leave out `confirm` and this key",
            ) from error
        return {"dev": dev[seen], "holdout": dev[held_out]}

    def _carve(
        self,
        split: Split,
        train: Sequence[Hashable] | np.ndarray,
        dev: Sequence[Hashable] | np.ndarray | None,
    ) -> tuple[Indices, Indices]:
        """All items of the training file and of the dev file, or the two parts of the training file: with folds, `dev`
        is one of them.

        Args:
            split: Makes these parts: `stratified_split` or `grouped_split`.
            train, dev: Class or group of each item of either file; `dev` is None where there is no dev file.
        """
        if dev is not None:
            return np.arange(len(train)), np.arange(len(dev))
        data = self.data
        try:
            if data.folds is not None:
                fold_of = FOLDS_OF[split](train, folds=data.folds, seed=data.split_seed)
                return np.flatnonzero(fold_of != self.fold), np.flatnonzero(fold_of == self.fold)
            return split(train, dev_fraction=data.dev_fraction, seed=data.split_seed)
        except ValueError as error:
            raise InputError(
                f"no {'folds' if data.folds else 'dev split'} can be carved ({error})",
                where=data.train,
                fix="give fewer `data.folds`" if data.folds else "give `data.dev`",
            ) from error

    def _texts_at(self, items: np.ndarray) -> list[str]:
        """The texts of some items of the training file."""
        kinds = self.texts(self.data.train, "training", items).values()
        return [text for rows in kinds for part in zip(*rows, strict=True) for text in part]

    @abstractmethod
    def _file_key(self, path: Source) -> dict[str, object]:
        """All that the usable items of a file depend on."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The longest example in tokens."""

    @abstractmethod
    def _with_head(self, encoder: PreTrainedModel) -> EncoderWithHead:
        """The model: the encoder, and a new head on it."""

    def build_model(self) -> EncoderWithHead:
        """A model on the CPU, initialised as the config says."""
        needs: dict[str, Any] = {"longest": self.longest, "segments": self.segments, "pooler": self.pooler}
        return self._with_head(load_encoder(self.model, self.tokenizer, cache=self._cache, **needs))

    def build_on_meta(self, *, weights: bool = False) -> EncoderWithHead:
        """What `build_model` gives, on PyTorch's meta device: shapes without numbers, in no memory and next to no time.

        Args:
            weights: Check that pretrained weights are there, and fit.

        Raises:
            InputError: the model cannot be built.
        """
        needs: dict[str, Any] = {"longest": self.longest, "segments": self.segments, "pooler": self.pooler}
        encoder = check_encoder(self.model, self.tokenizer, weights=weights, **needs)
        with torch.device("meta"):
            return self._with_head(encoder)

    def check_model(self, *, weights: bool = True) -> EncoderWithHead:
        """Put the longest example through the model on the meta device: what no run could train is known before one
        starts.

        Args:
            weights: Check that pretrained weights are there, and fit.

        Returns:
            That model.

        Raises:
            InputError: the model cannot be built, or not used.
        """
        ids = torch.zeros((1, self.longest), dtype=torch.int64)
        batch = Batch.pack({"input_ids": ids, "token_type_ids": ids, "attention_mask": torch.ones_like(ids)})
        try:
            model = self.build_on_meta(weights=weights)
            with torch.device("meta"):
                tensors = {
                    name: part.to("meta") for name, part in batch.inputs.items() if isinstance(part, torch.Tensor)
                }
                model(**tensors, lengths=batch.inputs["lengths"])
        except InputError:
            raise
        except Exception as error:  # of each layer its own
            raise InputError(f"no model of this shape can be used ({error})", where="model.config") from error
        return model

    def survey(self, test: Source | None) -> Survey:
        """What is in the splits and in a test file, and what of it is probably a mistake."""
        files = {"train": self.data.train, "dev": self.data.dev, "test": test}
        told = Survey([], warn_of_same_files(files))
        for split, path in files.items():
            if path or split == "dev":
                facts, warnings = self._tell_split(split, path)
                told.facts.extend(facts)
                told.warnings.extend(warnings)
        same = {other for _, other in same_files(files)}
        for split, leak in self.leaks(test).items():
            told.facts.append(leak.fact)
            if leak.found and files[split] and split not in same:
                told.warnings.append(str(leak))
        return told

    @abstractmethod
    def _tell_split(self, split: str, path: Source | None) -> Survey:
        """What is in a split; `path` is its own file, if it has one."""

    @abstractmethod
    def _digests_of(self, split: str, path: Source | None) -> Digests:
        """Of each item of a split a digest of what should stand in one split only, as in `_tell_split`."""

    @abstractmethod
    def cut_off(self) -> list[CutOff]:
        """What of the training split does not fit into an example."""

    def leaks(self, test: Source | None) -> dict[str, Leak]:
        """How much of `dev`, and of a test file, is trained on, by the split: texts that differ in white space around
        them alone."""
        trained_on = self._digests_of("train", self.data.train)
        files = {"dev": self.data.dev, "test": test}
        found = {split: self._digests_of(split, path) for split, path in files.items() if path or split == "dev"}
        return {
            split: self.leak(split, int(np.isin(digests, trained_on).sum()), len(digests))
            for split, digests in found.items()
        }

    def few_labels(self) -> dict[str, int]:
        """Of the splits whose rows have fewer labels between them than `data.min_labels`, how many they have."""
        return {}

    def unknown_rate(self, sample: int = UNKNOWN_SAMPLE) -> float:
        """The part of the pieces of the training split that the tokenizer does not know, special ones not counted; by
        so many of its examples."""
        tokenizer, count = self.tokenizer, len(self.train)
        ids = self.train.batch(_spread(count, sample)).inputs["input_ids"].numpy()
        pieces = ids[~np.isin(ids, [tokenizer.cls_id, tokenizer.sep_id])]
        return float((pieces == tokenizer.unk_id).sum() / max(1, len(pieces)))

    @abstractmethod
    def texts(self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None) -> TextsByKind:
        """The texts of a labelled file, or of some of its items, before they are tokenized: by what they are called,
        each alone or in a pair."""

    def texts_of_splits(self, test: Source | None) -> dict[str, TextsByKind]:
        """`texts` of `train`, `dev` and a test file."""
        data, split = self.data, self._split
        dev, purpose = (data.train, "training") if data.dev is None else (data.dev, "scoring")
        found = {
            "train": self.texts(data.train, "training", split["train"]),
            "dev": self.texts(dev, cast(Purpose, purpose), split["dev"]),
        }
        return found | ({} if test is None else {"test": self.texts(test)})

    @abstractmethod
    def hf_config(self) -> PretrainedConfig:
        """The `config.json` with which transformers loads the model's weights."""

    @contextmanager
    def _reading(self, path: Source) -> Iterator[None]:
        """Around what takes long with a file, and does not know how long."""
        work = f"reading {path.name}"
        self.progress(work, 0)
        yield
        self.progress(work, 1, 1)

    @abstractmethod
    def read(self, path: Source, purpose: Purpose = "scoring") -> E:
        """The examples of a labelled file, all that scores count.

        Raises:
            InputError: the file cannot be read, or too much of it cannot be used for this.
        """

    def split_rows(self, split: str) -> list[dict[str, object]]:
        """The rows or questions of `train`, `dev` or `holdout`, as people read them: see `labelled_rows`."""
        file = self.data.train if split == "train" or self.data.dev is None else self.data.dev
        purpose: Purpose = "training" if file is self.data.train else "scoring"
        return self.labelled_rows(file, purpose, self._split[split])

    @abstractmethod
    def labelled_rows(
        self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None
    ) -> list[dict[str, object]]:
        """What can be used of a labelled file, or some of its items: a record each, in the order of the file.

        Returns:
            `id`, the texts by their names, as in `Inputs`, and what is said of them: `label`, `labels`, `entities`, or
            `answers`.
        """

    @abstractmethod
    def bad_rows(self, path: Source, purpose: Purpose = "scoring") -> Sequence[SetAside]:
        """What of a labelled file cannot be used, with its place."""

    def set_aside(self, path: Source) -> int:
        """How many rows or questions of a labelled file no score counts."""
        return len(self.bad_rows(path))

    @abstractmethod
    def input_parts(self, path: Source, *, keep_columns: bool = False) -> Iterator[Inputs[E]]:
        """What there is to predict in a file, which needs no labels, in its order and in parts that fit into memory
        whatever its length.

        Args:
            path: The file.
            keep_columns: Read its other columns too; only of a table of texts.

        Raises:
            InputError: the file cannot be read, or, after the last part, too much of it cannot be used.
        """

    @property
    @abstractmethod
    def input_columns(self) -> tuple[str, ...]:
        """What a row in memory must have to be answered: `text`, or `context` and `question`."""

    @property
    def input_example(self) -> dict[str, str]:
        """A row in memory, to show what one is."""
        return {name: EXAMPLE_TEXTS[name] for name in self.input_columns}

    @abstractmethod
    def input_problem(self, row: Mapping[str, object]) -> str | None:
        """Why a row in memory cannot be answered, if so."""

    @abstractmethod
    def inputs(self, rows: Sequence[Mapping[str, object]]) -> Inputs[E]:
        """What there is to predict in rows in memory, none of which has an `input_problem`; ids are their numbers."""

    @abstractmethod
    def describe(self, file: Source) -> dict[str, object]:
        """What is in a labelled file, however much of it must be set aside: JSON values.

        Raises:
            InputError: it cannot be read, or nothing of it can be used.
        """

    @abstractmethod
    def answers(self, ids: list[str], examples: E, outputs: dict[str, np.ndarray]) -> list[dict[str, object]]:
        """One flat record an id: what the model says of it, in a form for people."""

    @property
    @abstractmethod
    def answer_types(self) -> dict[str, Any]:
        """What an answer has beside its id, in order: `str`, `int`, `float`, or a list of these or of a TypedDict."""

    def select(
        self, answers: list[dict[str, object]], *, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, object]]:
        """Answers without what is not asked for; all tasks take an empty list, to ask whether they can.

        Args:
            answers: As `answers` gives them.
            top_k: In the place of the probability of each label a list `top` of the likeliest.
            threshold: What is less probable is not said.

        Raises:
            InputError: the task has nothing to select from.
        """
        if top_k is not None:
            raise InputError("this model does not choose among labels of a text", where="--top-k", fix="leave it out")
        if threshold is not None:
            raise InputError("this model's answers have no probability", where="--threshold", fix="leave it out")
        return answers

    @abstractmethod
    def review(
        self, examples: E, outputs: dict[str, np.ndarray], file: Source | None = None
    ) -> list[dict[str, object]]:
        """What came of each labelled row or question, as JSON values: a record each, in the order of the file.

        Args:
            examples: What was predicted.
            outputs: Of all of them.
            file: Which they are of; by default that of the dev split.

        Returns:
            `id`; the texts by their names, as in `Inputs`; what was `expected`, and what was `predicted`; `confidence`,
            how probable the model finds that, None where it does not say; `score`, 1 for what is right and 0 for what
            is not, or a number between or below, of which a higher one is better; `group`, equal for items that
            belong together.
        """

    @abstractmethod
    def total_weight(self, examples: E, indices: np.ndarray) -> float:
        """The weights of the examples in the loss, added up; the loss of a step is divided by it."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The weighted losses of a batch, added up: a scalar on the model's device."""
        loss: torch.Tensor = model(**batch.inputs, **batch.targets, **batch.token_targets, reduction="sum").loss
        return loss

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """What scoring needs: tensors with one row an example."""

    @abstractmethod
    def score(self, examples: E, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        """`eval/…` metrics from the outputs of all examples, in their order, and over how many items they are a mean.

        Nothing is chosen here: the config's own values hold, as for `answers`.
        """

    def item_scores(self, examples: E, outputs: dict[str, np.ndarray], metric: str) -> np.ndarray | None:
        """The score of each item, shape (items,), where the metric is their mean and to score again would take long."""
        return None

    def score_in_detail(self, examples: E, outputs: dict[str, np.ndarray]) -> dict[str, object]:
        """What more there is to say of the outputs than one number a metric, as JSON values."""
        return {}

    @abstractmethod
    def chance(self, examples: E, metric: str) -> Chance | None:
        """What the same answer to all examples scores; None where that is not simply defined."""

    def choose(self, examples: E, outputs: dict[str, np.ndarray]) -> dict[str, float]:
        """Metrics of `chosen_on_dev`: the values that these examples choose, where the config leaves them open."""
        return {}

    @classmethod
    def chosen_values(cls, metrics: Mapping[str, float]) -> dict[str, float]:
        """The values of the model's config that were chosen on dev, out of the metrics of that evaluation."""
        return {value: metrics[metric] for metric, value in cls.chosen_on_dev.items() if metric in metrics}

    def with_chosen(self, metrics: Mapping[str, float]) -> Self:
        """This task with what was chosen on dev, as the metrics of that evaluation have it."""
        return self.with_model_values(self.chosen_values(metrics))

    def with_model_values(self, values: Mapping[str, object]) -> Self:
        """This task with other values in the model's config, of the kind that its weights do not depend on."""
        config = self.config.model_copy(update={"model": self.model.model_copy(update=values)})
        return self._like_this(config, self.fold, self.tokenizer)

    def on_fold(self, fold: int) -> Self:
        """This task with another fold of its data as `dev`. A tokenizer that is trained is trained anew: `dev` stays
        unseen."""
        if fold == self.fold:
            return self
        return self._like_this(self.config, fold, self.tokenizer if self.model.tokenizer_vocab_size is None else None)

    def folds(self) -> list[Self]:
        """This task on each fold of its data, in order; this task alone where the data has none."""
        return [self.on_fold(fold) for fold in range(self.data.folds or 1)]

    def _like_this(self, config: TrainConfig, fold: int, tokenizer: Tokenizer | None) -> Self:
        task = type(self)(config, cache=self._cache, tokenizer=tokenizer, progress=self.progress)
        task.fold = fold
        return task


def _spread(count: int, sample: int) -> np.ndarray:
    """So many of `count` positions, at equal distances; all, where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, sample)).astype(np.int64))
