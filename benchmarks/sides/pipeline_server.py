"""transformers' `pipeline()` behind FastAPI, as tutorials have it: a model, a function, a route.

`def` is called in FastAPI's pool of threads, several at a time; with --async-def it is called in the event loop, one at
a time.
"""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Row(BaseModel):
    text: str


def make_app(folder: str, *, async_def: bool) -> FastAPI:
    """The app."""
    app, classify = FastAPI(), pipeline("text-classification", model=folder, top_k=None)
    if async_def:

        @app.post("/predict")
        async def predict_in_loop(row: Row) -> Any:
            return classify(row.text)

    else:

        @app.post("/predict")
        def predict(row: Row) -> Any:
            return classify(row.text)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--async-def", action="store_true")
    given = parser.parse_args()
    uvicorn.run(make_app(given.folder, async_def=given.async_def), port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
