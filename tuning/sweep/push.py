"""An exported model as a repository of the HuggingFace hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kobert_core.errors import InputError, reason_of
from kobert_core.pretrained import read_train_config
from kobert_core.progress import Progress, unseen

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_repo(repo: str) -> None:
    """Refuse what no repository can be called, before anything is exported.

    Raises:
        InputError: the hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"`{repo}` cannot be the name of a repository", where="--push", fix=str(error)) from error


def push_model(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    license: str | None = None,
    api: HfApi | None = None,
    progress: Progress = unseen,
) -> str:
    """Upload a model's folder in one commit; the repository is made if it is not there. Who may do so, the token says
    that `hf auth login` or the variable HF_TOKEN left.

    Args:
        folder: Of an exported model.
        repo: Such as `lab/nsmc`.
        public: Whether everybody may see a repository that is made; one that is there stays as it is.
        license: Its name on the hub, such as `mit`, for the model card.
        api: Where the hub is.
        progress: Hears that it works.

    Returns:
        The address of the repository.

    Raises:
        InputError: this is no exported model, or the hub does not take it.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    read_train_config(folder)
    api = api or HfApi()
    if license is not None:
        card = ModelCard.load(folder / "README.md")
        card.data.license = license
        card.save(folder / "README.md")
    work = f"pushing to {repo}"
    progress(work, 0)
    disable_progress_bars()
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{folder.name} of kobert-tuning")
    except Exception as error:  # the hub's client lets through the errors of the libraries below it
        fix = "check the name and the network, and log in with `hf auth login`"
        raise InputError(f"the hub does not take it ({reason_of(error)})", where=repo, fix=fix) from error
    finally:
        progress(work, 1, 1)
    return str(made)
