"""A name of another tool is answered by what it means here, not by what it looks like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kobert_core.errors import InputError
from kobert_core.tasks import SPECS
from search_spaces.aliases import ALIASES, UNNEEDED, meant_by
from search_spaces.distributions.kinds import DISTRIBUTIONS
from search_spaces.validation import suggest_known
from tests.unit.tuning.study.test_study import STUDY
from tuning.study import load_study

QUESTIONS = re.sub("  max_length: 64\n|  model.label_smoothing.*\n", "", STUDY.replace("task: nsmc", "task: korquad"))


def answer(tmp_path: Path, text: str, override: str) -> str:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_study(tmp_path / "study.yaml", [override])
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("parameters.optim.learning_rate={min: 0, max: 1}", "`optim.backbone_lr` or `optim.classifier_lr`"),
        ("parameters.learning_rate={min: 0, max: 1}", "`optim.backbone_lr` or `optim.classifier_lr`"),
        ("parameters.num_train_epochs={min: 1, max: 2}", "`train.epochs`"),
        ("parameters.dropout={min: 0, max: 0.5}", "`model.dropout`"),
        ("optim.learning_rate=1e-5", "`backbone_lr` or `classifier_lr`"),
        ("optim.per_device_train_batch_size=8", "`batch_size`"),
        ("optim.gradient_accumulation_steps=8", "`accumulation`"),
        ("optim.warmup_proportion=0.1", "`warmup_ratio`"),
        ("optim.adam_beta1=0.9", "`betas`"),
        ("train.train_batch_size=8", "`optim.batch_size`"),
        ("train.batch_size=8", "`optim.batch_size`"),
        ("train.max_epochs=8", "`epochs`"),
        ("train.fp16=true", "`precision`"),
        ("num_train_epochs=3", "`train.epochs`"),
        ("model_name_or_path=skt/kobert-base-v1", "`model.backbone`"),
        ("model.pretrained_model_name_or_path=skt/kobert-base-v1", "`backbone`"),
        ("model.tokenizer_name=x", "`tokenizer`"),
        ("model.freeze_layers=4", "`freeze`"),
        ("model.pooling_mode=mean", "`pooling`"),
        ("data.train_file=x.tsv", "`train`"),
        ("data.validation_file=x.tsv", "`dev`"),
        ("test_file=x.tsv", "`data.test`"),
        ("data.max_seq_len=64", "`max_length`"),
        ("data.max_seq_length=64", "`max_length`"),
        ("budget.n_trials=3", "`trials`"),
        ("n_trials=3", "`budget.trials`"),
        ("budget.num_samples=3", "`trials`"),
        ("budget.timeout=3h", "`wall_time`"),
        ("max_concurrent_trials=3", "`resources.concurrent`"),
        ("objective.direction=maximize", "`mode`"),
        ("objective={metric: eval/accuracy, mode: maximize}", "`max`"),
        ("objective={metric: f1, mode: max}", "`eval/f1`"),
        ("objective={metric: eval_accuracy, mode: max}", "`eval/accuracy`"),
        ("objective={metric: val_loss, mode: min}", "`eval/loss`"),
        ("search.algorithm=bayes", "`tpe`"),
        ("search.algorithm=optuna", "`tpe`"),
        ("search.algorithm=TPE", "`tpe`"),
        ("search.method=bayes", "`algorithm`"),
        ("scheduler.name=ASHAScheduler", "`asha`"),
        ("scheduler.grace_period=1", "`grace_percent`"),
        ("parameters.train.seed={distribution: uniform_int, min: 1, max: 3}", "`int`"),
        ("parameters.train.seed={distribution: choice, values: [1, 3]}", "`categorical`"),
        ("parameters.optim.eps={distribution: loguniform, min: 1e-9, max: 1e-6}", "`log_uniform`"),
        ("parameters.optim.eps={distribution: uniform, low: 1e-9, high: 1e-6}", "`min`"),
    ],
)
def test_a_study_key_of_another_tool_is_understood(tmp_path: Path, override: str, meant: str) -> None:
    assert f"did you mean {meant}?" in answer(tmp_path, STUDY, override)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("data.max_length=64", "did you mean `max_seq_length`?"),
        ("objective={metric: em, mode: max}", "did you mean `eval/exact_match`?"),
        ("objective={metric: eval/accuracy, mode: max}", "known: eval/f1, eval/exact_match, eval/loss"),
    ],
)
def test_what_is_meant_depends_on_the_task(tmp_path: Path, override: str, meant: str) -> None:
    assert meant in answer(tmp_path, QUESTIONS, override)


def test_what_has_no_counterpart_is_to_be_left_out(tmp_path: Path) -> None:
    message = answer(tmp_path, STUDY, "train.do_train=true")
    assert message.endswith("unknown key `train.do_train`; leave it out: `sweep` trains, compares and tests")


def test_spelling_is_the_last_resort() -> None:
    assert suggest_known("epocs", ["epochs", "seed"]) == "did you mean `epochs`?"
    assert suggest_known("zzz", ["epochs", "seed"]) == "known: epochs, seed"


def test_every_alias_leads_to_something_that_is_there() -> None:
    """Whatever a section is renamed to, its aliases go with it."""
    from tuning.study.config import StudyConfig, StudyHead
    from tuning.study.objectives import LOOP_METRICS

    names = {*StudyHead.model_fields, *DISTRIBUTIONS, *SPECS, *LOOP_METRICS, "parameters"}
    for field in ("min", "max", "q", "values", "when"):
        assert any(field in model.model_fields for model in DISTRIBUTIONS.values())
        names.add(field)
    sections = [*StudyConfig.model_fields.items()]
    for section, info in sections:
        models = [info.annotation] if hasattr(info.annotation, "model_fields") else []
        models += [getattr(task, section.title()) for task in SPECS.values() if section in ("data", "model")]
        names |= {section, *(f"{section}.{name}" for model in models for name in model.model_fields)}
    names |= {metric for task in SPECS.values() for metric in task.metrics}
    values = {"tpe", "gp", "random", "grid", "cmaes", "asha", "promotion", "hyperband", "median", "pbt", "none"}
    values |= {"max", "min", "constant", "fp32", "bf16"}
    for alias, meanings in ALIASES.items():
        assert set(meanings) <= names | values, alias
        assert meant_by(alias.upper().replace("_", "-")) == meanings
    assert not ALIASES.keys() & UNNEEDED.keys()
