"""A study file's values are plain, know their lines, and never end in anything but a study or one clear line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kobert_core.errors import InputError
from search_spaces.loader import MAX_BYTES, RawStudy, load_study_file


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str | bytes, *overrides: str) -> RawStudy:
        file = tmp_path / "study.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_study_file(file, overrides)

    return read


def test_yaml_1_2(read: Any) -> None:
    text = """{a: 1e-5, b: 5E-5, c: no, d: .5, e: 0o17, f: ~, g: true, h: on, i: 017, j: '1e-5', k: 1:30,
    l: 부정, m: 12e03}"""
    values = read(text).values
    expected = {"a": 1e-5, "b": 5e-5, "c": "no", "d": 0.5, "e": 15, "f": None, "g": True, "h": "on", "i": 17,
                "j": "1e-5", "k": "1:30", "l": "부정", "m": 12000.0}  # fmt: skip
    assert values == expected
    assert [type(value) for value in values.values()] == [type(value) for value in expected.values()]


def test_keys_are_text(read: Any) -> None:
    assert read("labels: {0: negative, 1: positive, yes: 1, 1e-5: 2}").values == {
        "labels": {"0": "negative", "1": "positive", "yes": 1, "1e-5": 2}
    }


def test_lines_and_places(read: Any, tmp_path: Path) -> None:
    raw = read(
        "# a comment\noptim:\n  eps: 1e-8\n  betas: [0.9,\n    0.99]\n"
        "parameters:\n  optim.backbone_lr:\n    min: 1e-5\n    max: 1\n",
        "train.epochs=3",
        "parameters.optim.backbone_lr.max=2e-5",
    )
    assert raw.lines["optim"] == 2 and raw.lines["optim.eps"] == 3 and raw.lines["optim.betas.1"] == 5
    file = tmp_path / "study.yaml"
    assert raw.where("optim.eps") == f"{file}:3"
    assert raw.where("optim.epsilon") == f"{file}:2", "the place of what would hold it"
    assert raw.where("parameters.optim.backbone_lr.min") == f"{file}:8"
    assert raw.where("parameters.optim.backbone_lr.max") == "--set parameters.optim.backbone_lr.max=2e-5"
    assert raw.where("train.epochs.x") == raw.where("train") == "--set train.epochs=3"
    assert raw.where("nothing") == str(file)
    assert raw.space["optim.backbone_lr"].ends() == (1e-5, 2e-5)
    assert raw.folder_of("optim.eps") == tmp_path and raw.folder_of("train.epochs") == Path.cwd()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "`a` is given twice; the first is in line 1"),
        ("a:\n  x: 1\n  'x': 2", 3, "`x` is given twice"),
        ("a: {0: x, '0': y}", 1, "`0` is given twice"),
        ("a: 1\nb: [1, 2", 2, "this is not YAML"),
        ("a: 1\n b: 2", 2, "this is not YAML"),
        ("a: 1\n---\nb: 1", 2, "this is not YAML"),
        ("a: *x", 1, "found undefined alias"),
        ("a: !foo 1", 1, "the type !foo are not supported"),
        ("\na: !!python/object/apply:os.system [ls]", 2, "python/object/apply:os.system are not supported"),
        ("a: 2020-01-01", 1, "timestamp are not supported; if it is a text, put it in quotes"),
        ("a: 2020-99-99", 1, "timestamp are not supported"),
        ("a: !!int x", 1, "`x` is not a value of its type"),
        ("a: !!bool x", 1, "`x` is not a value of its type"),
        ("a: .inf", 1, "not a finite number"),
        ("a: .nan", 1, "not a finite number"),
        ("a: 1e999", 1, "not a finite number"),
        ("a: 99999999999999999999", 1, "or too large"),
        ("a: " + "9" * 5000, 1, "is not a value of its type"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, "merge keys (`<<`) are not supported"),
        ("? [a]\n: 1", 1, "a key must be a text"),
        ('a: "\\0"', 1, "a character that no file can hold"),
        ('a: "\\uD800"', 1, "a character that no file can hold"),
        ("%YAML 1.1\n---\na: no", 2, "a study file is YAML 1.2"),
        ("a: " + "[" * 33 + "]" * 33, 1, "nested more than 32 deep"),
        ("a: &x [*x]", 1, "nested more than 32 deep"),
        ("a: 1\nb: '\xe9".encode("latin-1"), 2, "this is not UTF-8"),
    ],
)
def test_broken_files(read: Any, tmp_path: Path, text: str | bytes, line: int, words: str) -> None:
    with pytest.raises(InputError) as error:
        read(text)
    assert str(error.value).startswith(f"{tmp_path / 'study.yaml'}:{line}: ")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing", "[1, 2]", "3", "\0", "a: \x07"])
def test_no_mapping(read: Any, text: str) -> None:
    with pytest.raises(InputError, match=r"must be a mapping|this is not YAML"):
        read(text)


def test_bombs_are_refused_quickly(read: Any) -> None:
    begin = time.monotonic()
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    for text, words in (
        (laughs, "more than 100000 values"),
        ("a: " + "[" * 500_000, "nested more than 32 deep"),
        ("a: " + "{a: " * 200_000, "nested more than 32 deep"),
        ("#" * (MAX_BYTES + 1), f"{MAX_BYTES} bytes at most"),
    ):
        with pytest.raises(InputError) as error:
            read(text)
        assert words in str(error.value)
    assert time.monotonic() - begin < 30


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, Path("a\0b"), tmp_path / ("x" * 5000)):
        with pytest.raises(InputError, match="the study file cannot be read"):
            load_study_file(path)


STUDY = "optim: {eps: 1e-8}\ntrain:\nparameters:\n  optim.backbone_lr: {min: 1e-5, max: 1e-4}\n"


def test_overrides(read: Any) -> None:
    raw = read(
        STUDY,
        "optim.eps=1e-6",
        "train.epochs=2",
        "data.labels={0: bad, 1: good}",
        "data.labels.0=no",
        "search.points=[{optim.backbone_lr: 2e-5}]",
        "name=a=b",
        "tracking.uri=",
        "parameters.optim.backbone_lr={value: 1e-4}",
        "parameters.train.seed={values: [1, 2]}",
    )
    assert raw.values == {
        "optim": {"eps": 1e-6},
        "train": {"epochs": 2},
        "data": {"labels": {"0": "no", "1": "good"}},
        "search": {"points": [{"optim.backbone_lr": 2e-5}]},
        "name": "a=b",
        "tracking": {"uri": None},
    }
    assert raw.space.to_dict() == {
        "optim.backbone_lr": {"distribution": "constant", "value": 1e-4},
        "train.seed": {"distribution": "categorical", "values": [1, 2]},
    }


def test_an_override_replaces_an_earlier_one(read: Any) -> None:
    raw = read(STUDY, "optim.eps=1", "optim={batch_size: 4}", "optim.batch_size=8")
    assert raw.values["optim"] == {"batch_size": 8}
    assert raw.where("optim.eps") == "--set optim={batch_size: 4}"
    assert raw.where("optim.batch_size") == "--set optim.batch_size=8"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.eps", "`optim.eps` is not of the form KEY=VALUE"),
        ("=3", "not of the form KEY=VALUE"),
        ("a..b=3", "not of the form KEY=VALUE"),
        ("optim.eps.x=3", "`eps` has no keys in it; set `eps` as a whole"),
        ("optim.eps=[1", "--set optim.eps:1: this is not YAML"),
        ("optim.eps=!x 1", "not supported"),
        ("parameters=3", "`parameters` must be a mapping"),
        ("parameters.optim.backbone_lr=3", "--set parameters.optim.backbone_lr=3: "),
    ],
)
def test_wrong_overrides(read: Any, override: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        read(STUDY, override)
    assert words in str(error.value)


def test_what_is_searched_has_no_fixed_value(read: Any) -> None:
    with pytest.raises(InputError) as error:
        read(STUDY, "optim.backbone_lr=3")
    assert str(error.value).startswith("--set optim.backbone_lr=3: `optim.backbone_lr` has a fixed value here, but")
    assert "study.yaml:4)" in str(error.value)
    assert str(error.value).endswith("or fix it with `parameters.optim.backbone_lr={value: 3}`")
    with pytest.raises(InputError, match=r"study.yaml:1: .* but it is searched \(.*study.yaml:2\)"):
        read("train: {seed: 3}\nparameters: {train.seed: {values: [1, 2]}}")
    conditional = "train: {seed: 3}\nparameters: {a: {value: 1}, train.seed: {values: [1], when: {a: 1}}}"
    assert read(conditional).values["train"] == {"seed": 3}, "for when the condition does not hold"
