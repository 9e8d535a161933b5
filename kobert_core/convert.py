"""An encoder in any layout, KoBERT's own above all, as a folder that today's transformers load."""

from __future__ import annotations

from pathlib import Path

from kobert_core.config import ModelConfig
from kobert_core.errors import InputError
from kobert_core.io.atomic import atomic_folder, atomic_write_text, permit
from kobert_core.models.backbone import has_pooler, load_encoder, quiet_transformers
from kobert_core.tokenization import load_tokenizer

CARD = """\
---
language: ko
library_name: transformers
pipeline_tag: feature-extraction
{base}---

# {name} for today's transformers

The encoder `{name}` with its own weights and its own tokens, in a layout that needs no custom code:

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModel.from_pretrained("{folder}")
```

The licence is that of `{name}`.
"""


def convert(backbone: str, output: Path, *, revision: str | None = None) -> None:
    """Write an encoder's weights as safetensors, its tokenizer as `tokenizer.json`, and a `config.json` with the
    tokenizer's padding id: what `AutoModel` and `AutoTokenizer` load without custom code.

    The ids are those of the encoder's own tokenizer, but for what `SentencePieceTokenizer.save_pretrained` says.

    Args:
        backbone: A hub name, such as `skt/kobert-base-v1`, or a local folder.
        output: Folder to make.
        revision: Branch, tag or commit of the hub.

    Raises:
        InputError: the encoder is not there or of no known family, lacks weights, or does not fit its tokenizer; or
            the folder cannot be made.
    """
    tokenizer = load_tokenizer(backbone, revision=revision)
    asked = ModelConfig(init="pretrained", backbone=backbone, revision=revision)
    encoder = load_encoder(asked, tokenizer, longest=1, segments=1, pooler=has_pooler(asked))
    encoder.config.architectures = [type(encoder).__name__]
    shown = Path(backbone).name if Path(backbone).is_dir() else backbone
    base = "" if Path(backbone).is_dir() else f"base_model: {backbone}\n"
    try:
        with atomic_folder(output) as folder, quiet_transformers():
            encoder.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            atomic_write_text(folder / "README.md", CARD.format(name=shown, base=base, folder=output.name))
            for file in folder.iterdir():
                permit(file)
    except FileExistsError as error:
        raise InputError("is already there", where=output, fix="give a folder that is not there yet") from error
