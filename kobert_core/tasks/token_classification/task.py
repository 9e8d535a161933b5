"""Named entity recognition: KLUE-NER, Naver NER, or any file of texts with entities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from kobert_core.code_points import strings
from kobert_core.config import TrainConfig
from kobert_core.data.batching import IGNORED, Batch, runs
from kobert_core.data.cache import cached_arrays
from kobert_core.data.class_weights import balanced_weights
from kobert_core.data.set_aside import PLACES_SHOWN, BadRow
from kobert_core.data.source import Source
from kobert_core.data.survey import CutOff, Digests, Survey, text_digests
from kobert_core.errors import InputError
from kobert_core.families import family_of
from kobert_core.models.backbone import encoder_config
from kobert_core.packed.attention import in_rows, rows_of
from kobert_core.progress import Progress, unseen
from kobert_core.tasks.base import Chance, Outcome, Purpose, Task, TextsByKind
from kobert_core.tasks.examples import Inputs
from kobert_core.tasks.token_classification.config import SPEC, TokenClassificationData, TokenClassificationModel
from kobert_core.tasks.token_classification.decoding import (
    Outputs,
    Tagged,
    entities_of,
    perfect_outputs,
    predicted,
    tagged_units,
)
from kobert_core.tasks.token_classification.examples import (
    CODE_VERSION,
    Arrays,
    TokenExamples,
    begins,
    inside,
    piece_arrays,
    tag_names,
    text_arrays,
)
from kobert_core.tasks.token_classification.metrics import (
    Counts,
    char_f1,
    count,
    entities_f1,
    entity_scores,
    label_report,
)
from kobert_core.tasks.token_classification.model import TokenClassifier
from kobert_core.tasks.token_classification.sentences import (
    Sentence,
    Sentences,
    infer_labels,
    read_sentences,
    text_parts,
)
from kobert_core.texts import text_problem
from kobert_core.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Entity(TypedDict):
    """An entity that the model has found."""

    start: int
    end: int
    label: str
    text: str
    score: float


class TokenClassification(Task[TokenExamples]):
    """Named entity recognition on the data of one config. An example is a window; a text has one or more."""

    spec = SPEC
    head = TokenClassifier
    pooler: ClassVar[bool] = False

    data: TokenClassificationData
    model: TokenClassificationModel

    def __init__(
        self,
        config: TrainConfig,
        *,
        cache: Path | None = None,
        tokenizer: Tokenizer | None = None,
        progress: Progress = unseen,
    ) -> None:
        """As every task; where the config names no labels, they are those of the training file from now on."""
        data = config.data
        assert isinstance(data, TokenClassificationData)
        if not data.labels:
            labels = tuple(
                infer_labels(data.train, data.format, data.text_column, data.dialect, tag_names=data.tag_names)
            )
            config = config.model_copy(update={"data": data.model_copy(update={"labels": labels})})
        super().__init__(config, cache=cache, tokenizer=tokenizer, progress=progress)

    @property
    def longest(self) -> int:
        return self.data.max_length

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        """float32, shape (tags,): both tags of a label have its weight; None when all weigh the same."""
        weights, classes = self.model.class_weights, 1 + len(self.data.labels)
        if weights is None:
            return None
        label_of_tag = (np.arange(len(self._tags)) + 1) // 2
        if weights == "balanced":
            counts = np.bincount(label_of_tag[_targets(self.train)], minlength=classes)
            return balanced_weights(counts)[label_of_tag]
        if len(weights) != classes:
            what = f"{len(weights)} weights for what is in no entity and {classes - 1} labels"
            raise InputError(what, where="model.class_weights", fix=f"give {classes} numbers, or `balanced`")
        return np.array(weights, dtype=np.float32)[label_of_tag]

    @property
    def _tags(self) -> list[str]:
        return tag_names(self.data.labels)

    def _with_head(self, encoder: PreTrainedModel) -> TokenClassifier:
        return TokenClassifier(
            encoder,
            num_labels=len(self._tags),
            dropout=self.model.dropout,
            label_smoothing=self.model.label_smoothing,
            class_weights=None if self._class_weights is None else torch.from_numpy(self._class_weights),
        )

    def hf_config(self) -> PretrainedConfig:
        from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

        config = encoder_config(self.model, self.tokenizer, longest=self.longest)
        values: dict[str, object] = {
            "architectures": [MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES[config.model_type]],
            "id2label": dict(enumerate(self._tags)),
            "label2id": {tag: number for number, tag in enumerate(self._tags)},
        }
        if (name := family_of(config).tag_dropout) is not None:
            values[name] = self.model.dropout
        config.update(values)
        return config

    def read(self, path: Source, purpose: Purpose = "scoring") -> TokenExamples:
        file = self._texts(path)
        key = self._file_key(path) | {"tokenizer": self.tokenizer.fingerprint}
        with self._reading(path):
            pieces = cached_arrays(self._cache, key, lambda: self._pieces(file))
        return self._examples(file, pieces)

    def bad_rows(self, path: Source, purpose: Purpose = "scoring") -> list[BadRow]:
        """The texts of a labelled file that were set aside, for either purpose the same."""
        file = self._texts(path)
        rows = zip(file["bad_lines"].tolist(), file["bad_reasons"].tolist(), strict=True)
        return [BadRow(line, reason) for line, reason in rows]

    def input_parts(self, path: Source, *, keep_columns: bool = False) -> Iterator[Inputs[TokenExamples]]:
        if keep_columns:
            raise InputError("a file to tag has no columns to keep", where="--keep-columns", fix="leave it out")
        data = self.data
        parts = text_parts(path, data.text_column, max_bad_fraction=data.max_bad_fraction, dialect=data.dialect)
        return map(self._inputs, parts)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return ("text",)

    def input_problem(self, row: Mapping[str, object]) -> str | None:
        return text_problem(row.get("text"))

    def inputs(self, rows: Sequence[Mapping[str, object]]) -> Inputs[TokenExamples]:
        sentences = [Sentence(str(number), str(row["text"]), None, []) for number, row in enumerate(rows)]
        return self._inputs(Sentences(sentences, []))

    def _inputs(self, found: Sentences) -> Inputs[TokenExamples]:
        def examples() -> TokenExamples:
            file = text_arrays(found, self.data.labels)
            return self._examples(file, self._pieces(file))

        texts = [sentence.text for sentence in found.usable]
        ids = [sentence.id for sentence in found.usable]
        return Inputs(ids=ids, texts={"text": texts}, tokenize=examples, bad=found.bad)

    def answers(self, ids: list[str], examples: TokenExamples, outputs: Outputs) -> list[dict[str, object]]:
        """For each id its entities: where each begins and ends in the text, its label, what stands there, and the mean
        probability of its tags."""
        tagged = tagged_units(examples)
        tags, sure = predicted(examples, outputs, tagged)
        entities = self._entities(examples, tagged, tags, sure)
        return [{"id": one, "entities": some} for one, some in zip(ids, entities, strict=True)]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"entities": list[Entity]}

    def select(
        self, answers: list[dict[str, object]], *, top_k: int | None = None, threshold: float | None = None
    ) -> list[dict[str, object]]:
        """Entities that are less probable than the threshold are left out."""
        if threshold is None:
            return super().select(answers, top_k=top_k)
        return [
            one | {"entities": [each for each in cast(list[Any], one["entities"]) if each["score"] >= threshold]}
            for one in self.select(answers, top_k=top_k)
        ]

    def _entities(
        self, examples: TokenExamples, tagged: Tagged, tags: np.ndarray, sure: np.ndarray | None = None
    ) -> list[list[dict[str, object]]]:
        """Of each text the entities that these tags of its units make."""
        starts, codes = examples.file["starts"], examples.file["codes"]
        entities: list[list[dict[str, object]]] = [[] for _ in examples.texts]
        for first, last, label in zip(*(part.tolist() for part in entities_of(tags, tagged.text)), strict=True):
            place = int(tagged.text[first])
            start, end = int(tagged.units[first, 0]), int(tagged.units[last, 1])
            origin = int(starts[examples.texts[place]])
            entity: dict[str, object] = {
                "start": start - origin,
                "end": end - origin,
                "label": self.data.labels[label],
                "text": codes[start:end].tobytes().decode("utf-32-le"),
            }
            if sure is not None:
                entity["score"] = round(float(sure[first : last + 1].mean()), 6)
            entities[place].append(entity)
        return entities

    def review(self, examples: TokenExamples, outputs: Outputs, file: Source | None = None) -> list[dict[str, object]]:
        """The score is F1 of the entities of a text, 1 where there are none and none were found; confidence is that of
        its least certain tag."""
        tagged = tagged_units(examples)
        tags, sure = predicted(examples, outputs, tagged)
        least = np.ones(examples.items, dtype=np.float32)
        np.minimum.at(least, tagged.text, sure)
        arrays = examples.file
        texts, ids = strings(arrays["codes"], arrays["starts"]), arrays["ids"]
        columns = zip(
            examples.texts.tolist(),
            self._entities(examples, tagged, tagged.tags),
            self._entities(examples, tagged, tags),
            least.tolist(),
            strict=True,
        )
        return [
            {"id": str(ids[number]), "text": texts[number]}
            | Outcome(wanted, given, round(certain, 6), entities_f1(wanted, given))._asdict()
            for number, wanted, given, certain in columns
        ]

    def labelled_rows(
        self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None
    ) -> list[dict[str, object]]:
        examples = self.read(file, purpose) if items is None else self.read(file, purpose).take(items)
        tagged, arrays = tagged_units(examples), examples.file
        texts, ids = strings(arrays["codes"], arrays["starts"]), arrays["ids"]
        entities = self._entities(examples, tagged, tagged.tags)
        return [
            {"id": str(ids[number]), "text": texts[number], "entities": said}
            for number, said in zip(examples.texts.tolist(), entities, strict=True)
        ]

    def total_weight(self, examples: TokenExamples, indices: np.ndarray) -> float:
        if self._class_weights is None:
            return float(examples.counted[indices].sum())
        return float(self._class_weights[_targets(examples, indices)].sum(dtype=np.float64))

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """What `predicted` takes: of each token its likeliest tag, and how likely it is; of each window its loss."""
        logits, inputs = model(**batch.inputs).logits.float(), batch.inputs
        rows = rows_of(inputs["starts"], tokens=len(logits))
        probabilities, tags = logits.softmax(-1).max(-1)
        losses = F.cross_entropy(logits, batch.token_targets["labels"], ignore_index=IGNORED, reduction="none")
        place, shape = (rows, inputs["position_ids"]), (len(inputs["lengths"]), max(inputs["lengths"]))
        return {
            "tags": in_rows(tags.to(torch.int16), place, shape),
            "probabilities": in_rows(probabilities, place, shape),
            "losses": losses.new_zeros(shape[0]).index_add(0, rows, losses),
        }

    def score(self, examples: TokenExamples, outputs: Outputs) -> dict[str, float]:
        """F1, precision and recall of entities; F1 of the tags of characters; accuracy of the tags of what the file
        tags; the mean loss of tokens; and how many texts there are."""
        tagged = tagged_units(examples)
        tags, _ = predicted(examples, outputs, tagged)
        scores = entity_scores(self._counts(tagged.tags, tags, tagged.text))
        scores["char_f1"] = char_f1(*_of_characters(examples, tagged.units, tags), len(self._tags))
        scores["accuracy"] = float(np.mean(tags == tagged.tags))
        scores["loss"] = float(outputs["losses"].sum(dtype=np.float64) / max(1, examples.counted.sum()))
        return {f"eval/{name}": value for name, value in (scores | {"texts": examples.items}).items()}

    def score_in_detail(self, examples: TokenExamples, outputs: Outputs) -> dict[str, object]:
        """`entities`: precision, recall, F1 and support of each label."""
        tagged = tagged_units(examples)
        tags, _ = predicted(examples, outputs, tagged)
        return {"entities": label_report(self._counts(tagged.tags, tags, tagged.text), self.data.labels)}

    def _counts(self, gold: np.ndarray, tags: np.ndarray, text: np.ndarray) -> Counts:
        return count(entities_of(gold, text), entities_of(tags, text), len(self.data.labels))

    def chance(self, examples: TokenExamples, metric: str) -> Chance | None:
        """The score of no entities at all, or for the loss of predicting how frequent each tag is."""
        shares = np.bincount(_targets(examples), minlength=len(self._tags)) / max(1, examples.counted.sum())
        entropy = -float((shares * np.log(np.where(shares > 0, shares, 1.0))).sum())
        nothing = {name: np.zeros_like(part) for name, part in perfect_outputs(examples).items()}
        scores = self.score(examples, nothing) | {"eval/loss": entropy}
        by = "the shares of the tags for every token" if metric == "eval/loss" else "no entity at all"
        return Chance(scores[metric], by) if metric in scores else None

    def describe(self, file: Source) -> dict[str, object]:
        """Texts, entities by label, what is set aside, and how long the texts are in tokens, special ones counted.

        `ceiling`: the scores that a model with this tokenizer reaches if each token has the right tag.
        """
        with self._reading(file):
            found = self._read(file, max_bad_fraction=1.0)
            arrays = text_arrays(found, self.data.labels)
            examples = self._examples(arrays, self._pieces(arrays))
        lengths = np.diff(examples.pieces["piece_starts"]) + 2
        ceiling = self.score(examples, perfect_outputs(examples))
        return {
            "texts": examples.items,
            "entities": dict(zip(self.data.labels, _entities_by_label(arrays["tags"], self.data), strict=True)),
            "texts_without_entities": sum(not sentence.spans for sentence in found.usable),
            "set_aside": len(found.bad),
            "set_aside_places": [str(bad) for bad in found.bad[:PLACES_SHOWN]],
            "windows": len(examples),
            "tokens": {
                "mean": round(float(lengths.mean()), 1),
                "p99": int(np.quantile(lengths, 0.99)),
                "max": int(lengths.max()),
            },
            "ceiling": {name: ceiling[f"eval/{name}"] for name in ("f1", "char_f1")},
        }

    def _tell_split(self, split: str, path: Source | None) -> Survey:
        counts, texts = self._texts_of(split, path)
        told = [f"{number:,} {label}" for label, number in zip(self.data.labels, counts, strict=True)]
        facts = [(f"entities in {split}", f"{', '.join(told)} in {len(texts):,} texts")]
        missing = [f"`{label}`" for label, number in zip(self.data.labels, counts, strict=True) if not number]
        if len(missing) == len(counts):
            return Survey(facts, [f"no text of {split} has an entity"])
        return Survey(facts, [f"{split} has no entity of the label {', '.join(missing)}"] if missing else [])

    def _digests_of(self, split: str, path: Source | None) -> Digests:
        return self._texts_of(split, path)[1]

    def _texts_of(self, split: str, path: Source | None) -> tuple[list[int], Digests]:
        """Of a split how many entities of each label, and the digests of its texts."""
        file = self._texts(path or self.data.train)
        texts = np.arange(len(file["ids"]))[self._split.get(split, slice(None))]
        digests = text_digests(strings(file["codes"], file["starts"]))[texts]
        is_here = np.repeat(np.isin(np.arange(len(file["ids"])), texts), np.diff(file["starts"]))
        return _entities_by_label(file["tags"][is_here], self.data), digests

    def cut_off(self) -> list[CutOff]:
        """Nothing is: a text that is too long has several windows."""
        several = float((np.bincount(self.train.window_text) > 1).mean())
        return [CutOff("texts in several windows", "data.max_length", self.data.max_length, several)]

    def _pieces(self, file: Arrays) -> Arrays:
        return piece_arrays(file, strings(file["codes"], file["starts"]), self.tokenizer)

    def _examples(self, file: Arrays, pieces: Arrays) -> TokenExamples:
        return TokenExamples(file, pieces, self.tokenizer, room=self.data.room, step=self.data.step)

    def _read(self, path: Source, *, max_bad_fraction: float) -> Sentences:
        data = self.data
        return read_sentences(
            path,
            data.format,
            data.text_column,
            data.labels,
            max_bad_fraction=max_bad_fraction,
            dialect=data.dialect,
            tag_names=data.tag_names,
        )

    def _texts(self, path: Source) -> Arrays:
        """What is known of a file before it is tokenized."""

        def build() -> Arrays:
            with self._reading(path):
                return text_arrays(self._read(path, max_bad_fraction=self.data.max_bad_fraction), self.data.labels)

        return cached_arrays(self._cache, self._file_key(path), build)

    def texts(self, file: Source, purpose: Purpose = "scoring", items: np.ndarray | None = None) -> TextsByKind:
        arrays = self._texts(file)
        texts = strings(arrays["codes"], arrays["starts"])
        return {"text": [(text,) for text in (texts if items is None else [texts[number] for number in items])]}

    def _file_key(self, path: Source) -> dict[str, object]:
        data = self.data
        return {
            "file": Source.of(path).digest(),
            "tagged": CODE_VERSION,
            "format": data.format,
            "suffixes": [PurePath(entry).suffix.lower() for entry in Source.of(path).entries],
            "text_column": data.text_column,
            "labels": list(data.labels),
            "max_bad_fraction": data.max_bad_fraction,
            **({"tag_names": list(data.tag_names)} if data.tag_names else {}),
            **data.dialect.key(),
        }

    @cached_property
    def _split(self) -> dict[str, np.ndarray]:
        """Texts of the train and the dev split, by their rarest labels: of `train` both, or of `train` and of `dev`."""
        data = self.data
        train_classes = _rarest_labels(self._texts(data.train), data)
        dev_classes = None if data.dev is None else _rarest_labels(self._texts(data.dev), data)
        return self._split_by_class(train_classes, dev_classes)


def _entities_by_label(tags: np.ndarray, data: TokenClassificationData) -> list[int]:
    counts: list[int] = np.bincount(tags[begins(tags)] // 2, minlength=len(data.labels)).tolist()
    return counts


def _rarest_labels(file: Arrays, data: TokenClassificationData) -> np.ndarray:
    """Of each text that of its labels which the file has least of; -1 where it has none."""
    counts = np.array(_entities_by_label(file["tags"], data))
    by_rarity = np.argsort(counts, kind="stable")
    rank = np.empty(len(counts), dtype=np.int64)
    rank[by_rarity] = np.arange(len(counts))
    at = np.flatnonzero(begins(file["tags"]))
    text = np.searchsorted(file["starts"], at, side="right") - 1
    ranks = np.full(len(file["ids"]), len(counts))
    np.minimum.at(ranks, text, rank[file["tags"][at] // 2])
    classes: np.ndarray = np.append(by_rarity, -1)[ranks]
    return classes


def _of_characters(examples: TokenExamples, units: np.ndarray, tags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The file's tag and the predicted one of each character in these units: a unit's first one has its tag, and the
    others what is inside of it."""
    sizes = units[:, 1] - units[:, 0]
    ends = np.cumsum(sizes)
    at = runs(units[:, 0], sizes)
    given = np.repeat(inside(tags), sizes)
    given[ends - sizes] = tags
    return examples.file["tags"][at], given


def _targets(examples: TokenExamples, windows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The targets of the tokens that count in some windows; of all tokens, each once, when these are not given."""
    first = (examples.begin + examples.windows.counted[:, 0])[windows]
    return np.asarray(examples.pieces["targets"][runs(first, examples.counted[windows])])
