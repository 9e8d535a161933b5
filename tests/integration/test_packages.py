"""A lab's own task, encoder family and searcher, each in a package that is not this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, environment
from tests.fixtures.tiny import SIZES

TASK = """
from dataclasses import replace

from kobert_core.config import Objective
from kobert_core.tasks.text_classification.config import NSMC

SPEC = replace(
    NSMC, name="irony", metrics=(*NSMC.metrics, "eval/always"), objective=Objective(metric="eval/always", mode="max"),
    implementation="irony_lab.task:Irony",
)
"""
IMPLEMENTATION = """
from irony_lab.spec import SPEC
from kobert_core.tasks.text_classification.task import Nsmc


class Irony(Nsmc):
    spec = SPEC

    def score(self, examples, outputs):
        return super().score(examples, outputs) | {"eval/always": 0.25}
"""
SEARCHER = """
import optuna


def halton(search, space, seed):
    return optuna.samplers.QMCSampler(qmc_type="halton", seed=seed, warn_independent_sampling=False)
"""
ENCODER = """
from kobert_core.families import FAMILIES

CAMEMBERT = FAMILIES["roberta"]
"""
ENTRIES = """[kobert_tuning.tasks]
irony = irony_lab.spec:SPEC
broken = irony_lab.missing:SPEC
no-task = irony_lab.search:halton
other-name = irony_lab.spec:SPEC

[kobert_tuning.searchers]
halton = irony_lab.search:halton
nothing = irony_lab.search:missing

[kobert_tuning.encoders]
camembert = irony_lab.encoders:CAMEMBERT
"""
STUDY = f"""
schema_version: 1
name: irony
task: irony
data: {{train: {ROOT}/search_spaces/sample/train.tsv, dev_fraction: 0.25, max_length: 16, max_train_examples: 64}}
model: {{init: random, tokenizer_vocab_size: 400, config: {SIZES}}}
optim: {{batch_size: 32}}
train: {{epochs: 1}}
parameters: {{optim.backbone_lr: {{distribution: log_uniform, min: 1e-4, max: 1e-2}}}}
budget: {{trials: 2}}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip would install it."""
    folder = tmp_path_factory.mktemp("lab")
    package, info = folder / "irony_lab", folder / "irony_lab-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    files = {"__init__": "", "spec": TASK, "task": IMPLEMENTATION, "search": SEARCHER, "encoders": ENCODER}
    for name, content in files.items():
        (package / f"{name}.py").write_text(content, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: irony-lab\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRIES, encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return folder


def run(lab: Path, *command: object, code: int = 0) -> str:
    variables = environment()
    variables["PYTHONPATH"] = f"{lab}:{variables['PYTHONPATH']}"
    words = [sys.executable, "-m", "tuning", *map(str, command)]
    done = subprocess.run(words, cwd=lab, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_its_task_and_its_searcher_run_as_those_of_this_package(lab: Path) -> None:
    printed = run(lab, "train", "study.yaml", "--set", "search.algorithm=halton", "--output", "model")
    assert "eval/always" in printed and (lab / "model" / "model.safetensors").is_file()
    assert "always " in run(lab, "evaluate", "model", ROOT / "search_spaces" / "sample" / "test.tsv")


@pytest.mark.slow
def test_its_family_of_encoders_is_trained(lab: Path) -> None:
    config = SIZES | {"model_type": "camembert"}
    printed = run(lab, "train", "study.yaml", "--set", f"model.config={config}", "--output", "camembert")
    assert "eval/always" in printed
    assert '"CamembertForSequenceClassification"' in (lab / "camembert" / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task=broken", "error: the package irony-lab, which adds `broken` to kobert_tuning.tasks: "
         "irony_lab.missing:SPEC cannot be imported (ModuleNotFoundError: No module named 'irony_lab.missing'); "
         "mend or uninstall it"),
        ("task=no-task", "irony_lab.search:halton must be a TaskSpec, but is a function; mend or uninstall it"),
        ("task=other-name", "irony_lab.spec:SPEC calls itself `irony`; give both the same name"),
        ("task=irnoy", "`task` cannot be \"irnoy\"; did you mean `irony`?"),
        ("search.algorithm=nothing", "adds `nothing` to kobert_tuning.searchers: irony_lab.search:missing cannot be"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_package_is_one_line_that_names_it(lab: Path, override: str, said: str) -> None:
    printed = run(lab, "train", "study.yaml", "--set", override, code=2)
    assert said in printed and len(printed.splitlines()) == 1


@pytest.mark.slow
def test_workers_have_it_too(lab: Path) -> None:
    run(lab, "sweep", "study.yaml", "--set", "search.algorithm=halton", "--set", "resources.concurrent=2")
    assert (lab / "sweeps" / "irony" / "winner.json").is_file()
    assert "eval/always" in (lab / "sweeps" / "irony" / "trials.csv").read_text(encoding="utf-8")
