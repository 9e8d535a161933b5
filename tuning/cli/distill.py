"""What `distill` does before and after the sweep of a student."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kobert_core.data.source import Source
from kobert_core.tasks import task_class
from tuning.cli.progress import beside, watching
from tuning.cli.tables import cell
from tuning.study import StudyConfig
from tuning.sweep_dir.layout import CACHE, SOFT_LABELS
from tuning.sweep_dir.opening import locked_folder, nothing_to_resume, refuse_used

if TYPE_CHECKING:
    from tuning.sweep.distill import Size


def teach(
    study: StudyConfig,
    folder: Path,
    teacher: Path,
    unlabelled: Sequence[Source],
    *,
    resume: bool,
    say: Callable[[str], object],
) -> tuple[str, tuple[Path, ...]]:
    """Write what the teacher says into the folder of the student's sweep.

    Returns:
        The file, as an override takes its path, and the teacher's models.
    """
    from tuning.sweep.distill import as_student, other_split, teachers_of, write_soft_labels

    if not resume:
        refuse_used(folder)
    elif not folder.is_dir():
        raise nothing_to_resume(folder)
    models = teachers_of(teacher.resolve())
    if (doubt := other_split(teacher.resolve(), study)) is not None:
        say(f"warning: {doubt}")
    say(f"the teacher: {len(models)} model(s) of {teacher.name}")
    with watching() as progress:
        config = study.train_config(study.example_values())
        student = as_student(task_class(study.task)(config, cache=folder.parent / CACHE, progress=progress))
        with locked_folder(folder):
            write_soft_labels(student, models, unlabelled, folder, say=beside(progress, err=True), progress=progress)
    return json.dumps(str(folder / SOFT_LABELS)), models


def show_sizes(study: StudyConfig, folder: Path, models: Sequence[Path], console: Console) -> list[dict[str, object]]:
    """Hold the students against their teacher; print that, write it into their sweep, and return it as JSON values."""
    from tuning.sweep.distill import compare_sizes, write_sizes
    from tuning.sweep_dir.trial_table import TrialTable

    table = TrialTable.of(folder, study)
    with watching() as progress:
        sizes = compare_sizes(study, table, models, cache=folder.parent / CACHE, progress=progress)
    write_sizes(folder, sizes)
    console.print(students_table(sizes, study.objective.metric))
    return [asdict(size) for size in sizes]


def students_table(sizes: Sequence[Size], metric: str) -> Table:
    """Score, size and latency of each, the teacher first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    asked = list(sizes[0].p50_ms)
    for name in (metric.removeprefix("eval/"), "MB", *(f"p50 ms, {count} text(s)" for count in asked)):
        table.add_column(name, justify="right")
    for size in sizes:
        times = [f"{size.p50_ms[count]:.1f}" for count in asked]
        table.add_row(cell(size.model), f"{size.value:.4f}", f"{size.weights * 4 / 1e6:.1f}", *times)
    return table
