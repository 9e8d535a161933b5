"""A trial of a sweep, and its model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kobert_core.errors import InputError
from tuning.api.export import export_trial
from tuning.sweep_dir.home import bring
from tuning.sweep_dir.layout import MODEL, WINNER
from tuning.sweep_dir.trial_table import TrialRecord, is_as_it_won, read_winner, standing

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kobert_core.inference import Predictor


class Trial:
    """A trial, as it stood when it was asked for."""

    def __init__(self, folder: Path, record: TrialRecord) -> None:
        self._folder, self._record = folder, record

    @property
    def number(self) -> int:
        """Counted from 0."""
        return self._record.trial

    @property
    def state(self) -> str:
        """RUNNING, COMPLETE, PRUNED, FAILED, INTERRUPTED, or PAUSED."""
        return str(self._record.state)

    @property
    def params(self) -> dict[str, object]:
        """The searched values, by parameter."""
        return dict(self._record.values)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics of its best evaluation."""
        return dict(self._record.metrics)

    @property
    def value(self) -> float | None:
        """The objective there."""
        return self._record.value

    @property
    def reason(self) -> str | None:
        """Why it failed, if it did."""
        return self._record.reason

    def export(self, folder: str | Path) -> Path:
        """Write its best checkpoint as a HuggingFace folder, as `kobert-tune export` does.

        Raises:
            InputError: it has no checkpoint any more, or the folder is there.
        """
        export_trial(self._folder, self.number, Path(folder))
        return Path(folder)

    def load(self, *, device: str | None = None) -> Model:
        """Its model, ready to answer; by default on a GPU, if there is one.

        Raises:
            InputError: it has no checkpoint any more.
        """
        exported = bring(self._folder, self._folder / MODEL) if self._is_winner else self._folder / MODEL
        if self._is_winner and exported.is_dir():
            return Model(exported, device=device)
        kept = tempfile.TemporaryDirectory(prefix="kobert-tuning-", ignore_cleanup_errors=True)
        return Model(self.export(Path(kept.name) / MODEL), device=device, kept=kept)

    @property
    def _is_winner(self) -> bool:
        if not (self._folder / WINNER).is_file():
            return False
        result = read_winner(self._folder)
        return result["winner"]["trial"] == self.number and is_as_it_won(self._record, result)

    def __repr__(self) -> str:
        value = "" if self.value is None else f", {self.value:.4f}"
        return f"<{standing(self._record)} of {self._folder.name}{value}>"


class Model:
    """A trained model in an exported folder.

    `predict` answers as `kobert-tune predict` does. `model` and `tokenizer` are transformers' own, for everything else.
    """

    def __init__(
        self, folder: str | Path, *, device: str | None = None, kept: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        """`kept`: a temporary folder that is removed with this object.

        Raises:
            InputError: it is no exported model, or there is no such device.
        """
        from kobert_core.inference import Predictor

        self.folder, self._kept = Path(folder), kept
        self._predictor: Predictor = Predictor.load(self.folder, device=device)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model as transformers loads it."""
        import transformers

        architectures = transformers.AutoConfig.from_pretrained(self.folder).architectures
        kind: Any = getattr(transformers, architectures[0])
        model: PreTrainedModel = kind.from_pretrained(self.folder)
        return model

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer as transformers loads it."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder)
        return tokenizer

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row must have: `text`; `text` and `pair`; or `context` and `question`."""
        return self._predictor.columns

    def predict(self, rows: Any) -> pd.DataFrame:
        """What the model says of texts: a row each, in their order.

        Args:
            rows: A text, a list or Series of texts; a DataFrame with the columns in `columns`, whose index the answer
                keeps; or a list of mappings with these keys.

        Raises:
            InputError: a row cannot be answered: its number, from 1, and why.
        """
        import pandas as pd

        index = rows.index if isinstance(rows, pd.Series | pd.DataFrame) else None
        if isinstance(rows, pd.DataFrame):
            missing = [name for name in self.columns if name not in rows.columns]
            if missing:
                there = ", ".join(map(repr, map(str, rows.columns)))
                fix = f"frame.rename(columns={{…: {missing[0]!r}}})"
                raise InputError(f"has no column {missing[0]!r}, but {there}", where="the frame", fix=fix)
            rows = rows[list(self.columns)].to_dict("records")
        asked = [self._row(each) for each in ([rows] if isinstance(rows, str) else rows)]
        return pd.DataFrame(
            self._predictor.predict(asked), index=index, columns=None if asked else self._answer_columns
        )

    @property
    def _answer_columns(self) -> list[str]:
        return list(self._predictor.answer_types)

    def _row(self, row: object) -> Mapping[str, object]:
        if isinstance(row, Mapping):
            return row
        if len(self.columns) > 1:
            fix = "give a DataFrame, or a list of dicts"
            raise InputError(f"this model needs {' and '.join(self.columns)} in each row", where="predict", fix=fix)
        return {self.columns[0]: row}

    def __repr__(self) -> str:
        return f"<model {self.folder}: {', '.join(self.columns)} → {', '.join(self._answer_columns)}>"
