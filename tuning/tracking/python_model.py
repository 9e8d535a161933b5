"""What MLflow runs in the place of a model: this file lies beside the model's own files, with `kobert_core` in `code/`,
and needs nothing of `tuning`."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class KobertModel(PythonModel):
    """A trained model that answers for the rows of a DataFrame, as `kobert-tune predict` does for those of a file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the folder that this file is in.

        Raises:
            MlflowException: the model config asks for a column that answers do not have.
        """
        from kobert_core.inference import Predictor  # takes long, and is not needed to save the model

        self._predictor = Predictor.load(Path(__file__).parent)
        self._alone = Lock()  # MLflow's server asks from several threads
        self._columns = [*self._predictor.task.answer_types]
        self._column = (context.model_config or {}).get("column")
        if self._column and self._column not in self._columns:
            what = f"no column `{self._column}`; answers have {', '.join(self._columns)}"
            raise MlflowException.invalid_parameter_value(what)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame | pd.Series:
        """An answer for each row; of the model config's `column` alone, if it names one.

        Raises:
            MlflowException: a row cannot be answered; its message says which, and why.
        """
        from kobert_core.errors import InputError

        rows = model_input.astype(object).where(model_input.notna(), None).to_dict("records")
        try:
            with self._alone:
                answers = self._predictor.predict(rows)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        found = pd.DataFrame(answers, columns=self._columns)
        return found[self._column] if self._column else found


set_model(KobertModel())
