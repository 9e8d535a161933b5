"""The orchestration: Ray, Optuna and MLflow around kobert_core."""
