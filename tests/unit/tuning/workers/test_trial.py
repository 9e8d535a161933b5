"""What a worker keeps from trial to trial."""

from __future__ import annotations

from pathlib import Path

from kobert_core.io.checksums import file_digest
from tuning.study import dump_study, load_study
from tuning.workers.train_trial import study_of

QUICKSTART = Path(__file__).resolve().parents[4] / "search_spaces" / "quickstart.yaml"


def test_a_study_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    dump_study(load_study(QUICKSTART), file)
    first = study_of(file, file_digest(file))
    assert study_of(file, file_digest(file)) is first
    dump_study(load_study(QUICKSTART, ["train.epochs=7"]), file)
    assert study_of(file, file_digest(file)).train.epochs == 7
