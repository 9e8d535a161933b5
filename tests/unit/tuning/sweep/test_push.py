"""An exported model goes to the hub: a stand-in of its HTTP endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_write_text
from kobert_core.pretrained import save_model_files, save_weights
from kobert_core.tasks.text_classification.task import Nsmc
from tests.fixtures.hub import TOKEN, hub
from tests.fixtures.nodes import free_port
from tests.fixtures.tiny import tiny_config
from tuning.sweep.push import check_repo, push_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An exported model that was not trained."""
    task = Nsmc(tiny_config())
    folder = tmp_path / "model"
    save_model_files(folder, task)
    save_weights(folder, Nsmc, task.build_model().state_dict())
    atomic_write_text(folder / "README.md", "---\nlanguage: ko\n---\n\n# 모델\n")
    return folder


@pytest.fixture(autouse=True)
def large_files_by_git_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub takes them in two ways; the other one, xet, is a protocol of its own."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def test_all_of_a_folder_arrives_in_one_commit_and_nobody_else_sees_it(model: Path) -> None:
    with hub() as server:
        api = HfApi(endpoint=server.url, token=TOKEN)
        for _ in range(2):  # the second time the repository is there
            address = push_model(model, "lab/nsmc", license="mit", api=api)
        made = server.repos["lab/nsmc"]
        assert made.get("private") or made["visibility"] == "private", "as the version of the client says it"
        assert address == f"{server.url}/lab/nsmc"
        assert server.files == {file.name: file.read_bytes() for file in model.iterdir()}
        assert len(server.commits) == 2
    card = ModelCard.load(model / "README.md")
    assert (card.data.license, card.data.language) == ("mit", "ko") and "# 모델" in card.text


def test_what_the_hub_does_not_take_is_a_line(model: Path, tmp_path: Path) -> None:
    with hub() as server, pytest.raises(InputError, match=r"the hub does not take it.*hf auth login"):
        push_model(model, "lab/nsmc", api=HfApi(endpoint=server.url, token="hf_stolen"))
    with pytest.raises(InputError, match="the hub does not take it"):
        push_model(model, "lab/nsmc", api=HfApi(endpoint=f"http://127.0.0.1:{free_port()}", token=TOKEN))
    with pytest.raises(InputError, match="cannot be the name of a repository"):
        check_repo("lab//nsmc")
    with pytest.raises(InputError, match="this is no folder of an exported model"):
        push_model(tmp_path, "lab/nsmc")
