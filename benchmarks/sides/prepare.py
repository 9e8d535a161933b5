"""Makes the models and files that the sides share, so that no measurement has to."""

from __future__ import annotations

from common import SHAPES, SIZES, SWEEP_DEV, SWEEP_REVIEWS, model_folder, reviews_file, training_file


def main() -> None:
    for task in ("nsmc", "korquad"):
        training_file(task, 8)
        for shape in SHAPES:
            model_folder(task, shape)
            for examples in SIZES[task, shape][:2]:
                training_file(task, examples)
    for reviews in (320, 50_000, SWEEP_REVIEWS, 10 * SWEEP_REVIEWS):
        reviews_file(reviews)
    for reviews in (SWEEP_REVIEWS, 10 * SWEEP_REVIEWS):
        reviews_file(SWEEP_DEV, skip=reviews)


if __name__ == "__main__":
    main()
