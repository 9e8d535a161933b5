"""An exported folder as a model that MLflow loads, serves and evaluates."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from packaging.version import Version

import kobert_core
from kobert_core.tasks import task_class

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, DataType, Object

MLMODEL = "MLmodel"
IMPORTED = (
    "mlflow",
    "numpy",
    "pandas",
    "protobuf",
    "pydantic",
    "regex",
    "safetensors",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
    "typing_extensions",
)
"""What `kobert_core` and the file that MLflow runs import to answer, by the names of packages."""
_CODE = Path(__file__).with_name("python_model.py")
_EXAMPLE = {
    "text": "지루할 틈이 없었다",
    "pair": "정말 재미있게 봤다",
    "context": "세종은 1397년에 한양에서 태어났다.",
    "question": "세종은 언제 태어났는가?",
}
"""Our own sentences: a model is given away, and a row of somebody's data is not."""


def write_mlflow_model(folder: Path, exported: Path, *, model_id: str, run_id: str | None) -> None:
    """Make a folder with the files of an exported one, as links, and beside them what MLflow needs.

    So transformers' Auto classes load what MLflow has as they load the export. Nothing of the model is run: signature
    and requirements are known.

    Args:
        folder: To make.
        exported: Of the model.
        model_id: Of MLflow's LoggedModel.
        run_id: Of the run that is its source.

    Raises:
        InputError: this is no exported folder.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model
    from mlflow.pyfunc import FLAVOR_NAME

    from kobert_core.pretrained import read_train_config

    config = read_train_config(exported)
    task = task_class(config.task)(config)
    about = Model(model_id=model_id, run_id=run_id, metadata={"task": config.task})
    mlflow.pyfunc.save_model(
        folder,
        python_model=_CODE,
        model_config={"column": ""},
        code_paths=[os.path.dirname(kobert_core.__file__)],
        pip_requirements=pinned(IMPORTED),
        signature=signature_of(task.input_columns, task.answer_types),
        input_example=pd.DataFrame([{name: _EXAMPLE.get(name, _EXAMPLE["text"]) for name in task.input_columns}]),
        mlflow_model=about,
    )
    about.flavors[FLAVOR_NAME]["model_code_path"] = _CODE.name  # and not where it lies on this machine
    for file in exported.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file.absolute())
    about.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    about.save(folder / MLMODEL)


def pinned(names: Iterable[str]) -> list[str]:
    """Packages in the versions that are here, as an index has them: it knows no `2.13.0+cpu`."""
    return [f"{name}=={Version(version(name)).public}" for name in names]


def signature_of(columns: Iterable[str], answer_types: Mapping[str, Any]) -> ModelSignature:
    """MLflow's signature of a model that takes texts in columns, and gives answers of these types."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name) for name in columns]),
        outputs=Schema([ColSpec(_mlflow_type(kind), name) for name, kind in answer_types.items()]),
    )


def _mlflow_type(kind: Any) -> DataType | Array | Object:
    from mlflow.types.schema import Array, DataType, Object, Property

    plain = {str: DataType.string, float: DataType.double, int: DataType.long}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is list:
        return Array(_mlflow_type(get_args(kind)[0]))
    return Object([Property(name, _mlflow_type(field)) for name, field in get_type_hints(kind).items()])
