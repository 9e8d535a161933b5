"""Sweeps as Ray Jobs: they are sent to a cluster, and do not depend on the machine that sent them."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError
from tuning.cluster.web import problem_at
from tuning.study import StudyConfig, dump_study
from tuning.sweep_dir.layout import STUDY
from tuning.sweep_dir.names import sweep_address
from tuning.sweep_dir.opening import name_in_use, refuse_used
from tuning.tracking import address_problem, redact_uri

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PACKAGES = ("kobert_core", "search_spaces", "tuning")
SECONDS_TO_ANSWER = 8
SECONDS_TO_STOP = 120
"""The time of a stopped sweep for its last checkpoints; Ray's default of 3 s is too short."""
OURS = "kobert_tuning"
"""Key of a job's metadata that tells our jobs from others; its value is our version."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A sweep on a cluster."""

    id: str
    state: str
    """Of Ray: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    folder: str
    """Of the sweep, on the cluster."""
    started: float | None
    """Seconds since 1970."""
    seconds: float | None
    """So far, or until its end."""
    exit_code: int | None
    message: str | None
    """Ray's text about its state."""


class Jobs:
    """The job server of a cluster."""

    def __init__(self, address: str | None) -> None:
        """Connect to `http://HEAD:8265`; without an address to that of `RAY_API_SERVER_ADDRESS`, or of this machine.

        Raises:
            InputError: nothing answers there.
        """
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        self.address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
        if not re.match(r"https?://", self.address):
            raise InputError(
                "this is not the address of a job server", where=f"--address {self.address}", fix="http://HEAD:8265"
            )
        where = f"--address {self.address}" if address else self.address
        # Ray's client would wait without end; that a page is refused is an answer, too.
        if reason := problem_at(self.address, seconds=SECONDS_TO_ANSWER, refusals=False):
            raise self._unanswered(reason, where)
        try:
            self._client: JobSubmissionClient = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise InputError(
                "the cluster asks for a token",
                where=where,
                fix="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token",
            ) from error
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:  # requests' own are OSError, ValueError
            raise self._unanswered(str(error).strip().splitlines()[0], where) from error

    @staticmethod
    def _unanswered(reason: str, where: str) -> InputError:
        return InputError(
            f"no job server answers ({reason})",
            where=where,
            fix="start the head of the cluster with its dashboard (`ray start --head`, `ray[default]` installed)",
        )

    def submit(self, study: StudyConfig, folder: Path, *, options: Sequence[str] = ()) -> str:
        """Send a checked study with this package; the job's id.

        Args:
            study: With absolute paths, which must hold on the cluster.
            folder: Of the sweep, on storage of the cluster.
            options: More of `kobert-tune sweep`, such as `--resume`.

        Raises:
            InputError: a sweep of this folder runs, or has ended there, or an address holds a secret.
        """
        place = place_in(study, folder)
        earlier = [job for job in self.list() if job.folder == place]
        running = [job for job in earlier if job.state in ("PENDING", "RUNNING")]
        if running:
            raise InputError(
                f"the sweep runs as job {running[0].id}", where=place, fix=f"`kobert-tune stop {running[0].id}`"
            )
        if "--resume" not in options and study.home is None:  # else the store says whether its name is in use
            refuse_used(folder)
            unseen = not folder.parent.is_dir()  # the storage is the cluster's alone
            if unseen and any(job.state in ("SUCCEEDED", "STOPPED") for job in earlier):
                raise name_in_use(folder)
        command = ["python", "-m", "tuning", "sweep", STUDY, "--address", "auto"]
        command += ["--name", folder.name, *options]
        command += ["--output", str(folder.parent)] if study.home is None else []  # else a folder of the job's own
        with tempfile.TemporaryDirectory(prefix="kobert-tune-") as name:
            package_into(Path(name))
            dump_study(study, Path(name) / STUDY)
            job: str = self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job_id(folder.name),
                runtime_env={"working_dir": name, "env_vars": job_environment()},
                metadata={OURS: version("kobert-tuning"), "folder": place},
            )
        return job

    def list(self) -> list[Job]:
        """Our jobs, latest first."""
        found = [as_job(details) for details in self._client.list_jobs() if OURS in (details.metadata or {})]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def get(self, job: str) -> Job:
        """One of our jobs. Raises InputError when it is not there."""
        for each in self.list():
            if each.id == job:
                return each
        raise InputError(f"there is no job `{job}`", where=self.address, fix="see `kobert-tune status`")

    def log(self, job: str) -> str:
        """What a job has printed so far."""
        text: str = self._client.get_job_logs(job)
        return text

    def follow(self, job: str, say: Callable[[str], object]) -> Job:
        """Pass on what a job prints until it ends."""

        async def read() -> None:
            async for text in self._client.tail_job_logs(job):
                say(text)

        asyncio.run(read())
        return self._ended(job)

    def stop(self, job: str) -> Job:
        """Ask a sweep to stop as Ctrl-C does, and wait until it has ended."""
        self.get(job)
        self._client.stop_job(job)
        return self._ended(job)

    def _ended(self, job: str) -> Job:
        while not (found := self.get(job)).state.endswith(("STOPPED", "SUCCEEDED", "FAILED")):
            time.sleep(0.5)
        return found


def job_id(sweep: str) -> str:
    """The id of a new job: the sweep's name, made fit for an address, and the time."""
    plain = re.sub(r"[^\w.-]", "-", sweep)
    return f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"


def package_into(folder: Path) -> None:
    """Copy the Python packages of this installation, without what is compiled or hidden (such as `.env`)."""
    import kobert_core

    home = Path(kobert_core.__file__).parents[1]
    for package in PACKAGES:
        shutil.copytree(home / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))


def job_environment() -> dict[str, str]:
    """The environment of a job. Everybody who sees the dashboard sees it.

    Raises:
        InputError: the tracking address holds a secret, or no store can be there.
    """
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_TO_STOP), "PYTHONUNBUFFERED": "1"}
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    of_this_machine = re.match(r"(sqlite|file):|https?://(localhost|127\.|\[::1\])", uri)
    if uri and not of_this_machine:
        if problem := address_problem(uri):
            raise InputError(problem[0], where="MLFLOW_TRACKING_URI", fix=problem[1])
        if redact_uri(uri) != uri:
            raise InputError(
                "the dashboard of the cluster would show the password in it",
                where="MLFLOW_TRACKING_URI",
                fix="give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to the machines of the cluster",
            )
        environment["MLFLOW_TRACKING_URI"] = uri
    return environment


def as_job(details: JobDetails) -> Job:
    """A job from Ray's description, whose times are in milliseconds."""
    metadata = details.metadata or {}
    started = details.start_time / 1000 if details.start_time else None
    ended = details.end_time / 1000 if details.end_time else time.time()
    return Job(
        id=details.submission_id or "",
        state=str(getattr(details.status, "value", details.status)),
        folder=metadata.get("folder", ""),
        started=started,
        seconds=None if started is None else ended - started,
        exit_code=details.driver_exit_code,
        message=details.message,
    )


def place_in(study: StudyConfig, folder: Path) -> str:
    """Where a sweep is found when it has run: in its folder, or at its address in an object store."""
    return sweep_address(study, folder) or str(folder)
