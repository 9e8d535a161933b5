"""`Trainer.hyperparameter_search(backend="ray")`: the search that comes with HuggingFace's Trainer, from start to end.

The same space, searcher (TPE), ASHA and values of the trials as in `our_sweep.py`, on the same reviews. A Trainer has
one learning rate where ours has two: here it is given the second. Each run evaluates 10 times, and ASHA may stop it at
the first. Trials run at once on as many cores as there are. The accuracy is the best that any trial had at any
evaluation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from common import (
    LEARNING_RATES,
    NSMC_LENGTH,
    SWEEP_BATCH,
    SWEEP_DEV,
    SWEEP_EPOCHS,
    WARMUP_RATIOS,
    WEIGHT_DECAY,
    empty_folder,
    give,
    model_folder,
    read_reviews,
    reviews_file,
    search_points,
    sweep_arguments,
)

RUNGS = 10


def main() -> None:
    given = sweep_arguments(__doc__)

    os.environ["RAY_ADDRESS"] = "local"  # a file that another cluster left behind would have it wait for ever
    import numpy as np
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch
    from torch.utils.data import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    folder = model_folder("nsmc", "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    class Reviews(Dataset):
        """Tokenized beforehand."""

        def __init__(self, file: Any) -> None:
            texts, self.labels = read_reviews(file)
            self.encoded = tokenizer(texts, truncation=True, max_length=NSMC_LENGTH)

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {name: values[index] for name, values in self.encoded.items()} | {"labels": self.labels[index]}

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}

    def model_init(_: Any = None) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder)

    @dataclass
    class Arguments(TrainingArguments):
        """With a learning rate for the head."""

        classifier_lr: float = 0.0

    class TwoRates(Trainer):
        """What is not in the encoder has the learning rate `classifier_lr`."""

        def create_optimizer(self, *given: Any) -> Any:
            optimizer = super().create_optimizer(*given)
            head = {p for name, p in self.model.named_parameters() if not name.startswith("bert.")}
            for group in list(optimizer.param_groups):
                of_head = [p for p in group["params"] if p in head]
                group["params"] = [p for p in group["params"] if p not in head]
                optimizer.add_param_group(group | {"params": of_head, "lr": self.args.classifier_lr})
            return optimizer

    def space(_: Any) -> dict[str, Any]:
        return {
            "learning_rate": tune.loguniform(*LEARNING_RATES),
            "classifier_lr": tune.loguniform(*LEARNING_RATES),
            "warmup_steps": tune.uniform(*WARMUP_RATIOS),
        }

    steps = SWEEP_EPOCHS * -(-given.reviews // SWEEP_BATCH)
    output = empty_folder("hf-search")
    trainer = TwoRates(
        args=Arguments(
            output_dir=str(output / "trainer"),
            num_train_epochs=SWEEP_EPOCHS,
            per_device_train_batch_size=SWEEP_BATCH,
            per_device_eval_batch_size=64,
            weight_decay=WEIGHT_DECAY,
            warmup_steps=0.0,  # a float: the search casts its values to the type that is here, and a part of 1 to 0
            seed=given.seed,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            eval_strategy="steps",
            eval_steps=-(-steps // RUNGS),
            disable_tqdm=True,
        ),
        model_init=model_init,
        train_dataset=Reviews(reviews_file(given.reviews)),
        eval_dataset=Reviews(reviews_file(SWEEP_DEV, skip=given.reviews)),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    points = [
        {"learning_rate": p["backbone_lr"], "classifier_lr": p["classifier_lr"], "warmup_steps": p["warmup_ratio"]}
        for p in search_points(given.seed, given.trials)
    ]
    best = trainer.hyperparameter_search(
        hp_space=space,
        direction="maximize",
        backend="ray",
        n_trials=given.trials,
        resources_per_trial={"cpu": 1, "gpu": 0},
        search_alg=OptunaSearch(metric="objective", mode="max", seed=given.seed, points_to_evaluate=points),
        scheduler=ASHAScheduler(metric="objective", mode="max", max_t=RUNGS, grace_period=1, reduction_factor=3),
        storage_path=str(output / "ray"),
        verbose=0,
    )
    trials = best.run_summary.trials
    give(
        {
            "side": "Trainer.hyperparameter_search",
            "trials": len(trials),
            "whole": sum(trial.last_result["training_iteration"] >= RUNGS for trial in trials),
            "evaluations": sum(trial.last_result["training_iteration"] for trial in trials),
            "accuracy": max(trial.metric_analysis["objective"]["max"] for trial in trials),
            "last_accuracy": best.objective,
        }
    )


if __name__ == "__main__":
    main()
