"""What a study says of this task. Nothing here needs PyTorch: a mistake in a study file is found in no time."""

from __future__ import annotations

from kobert_core.config import Objective
from kobert_core.tasks.labelled_texts.config import ColumnName, LabelledTextsData, TextModel
from kobert_core.tasks.spec import TaskSpec


class RegressionData(LabelledTextsData):
    """Texts, or pairs of them, each with a number."""

    label_column: ColumnName = "label"
    """Column of the number."""

    @property
    def label_columns_read(self) -> tuple[str, ...]:
        return (self.label_column,)


class RegressionModel(TextModel):
    """One output; the squared error is the loss."""


SPEC = TaskSpec(
    name="regression",
    Data=RegressionData,
    Model=RegressionModel,
    metrics=("eval/pearson", "eval/spearman", "eval/mse", "eval/mae", "eval/loss"),
    objective=Objective(metric="eval/pearson", mode="max"),
    pipeline_tag="text-classification",
    takes_soft_labels=True,
    implementation="kobert_core.tasks.regression.task:Regression",
)
