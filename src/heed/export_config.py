"""Settings of `heed export`, each defined once: YAML key, command-line flag, help text and docs table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from heed.config import TrustRemoteCode
from heed.errors import UserError, typed
from heed.settings import PathText, Settings, Whole

__all__ = ["ExportSettings"]


class ExportSettings(Settings):
    """Write a tuned model for other programs, read it back and compare: GGUF for llama.cpp and ollama, or a folder.

    heed export RUN --to gguf --out model.gguf
    heed export RUN --to gguf --dtype q8_0 --out model-q8_0.gguf
    heed export RUN --to folder --dtype bfloat16 --shards 4GB --out FOLDER
    """

    model: PathText = Field(description="run folder, model folder or hub name; an adapter is merged into its base")
    out: PathText = Field(description="GGUF file or folder to write; must not be there yet")
    to: Literal["gguf", "folder"] = Field("gguf", description="one file for llama.cpp and ollama, or safetensors")
    dtype: Literal["f32", "f16", "q8_0", "float32", "bfloat16", "float16"] | None = Field(
        None,
        description="gguf: f32, f16, q8_0; folder: float32, bfloat16, float16 [default: f32; as --model is stored]",
    )
    shards: Annotated[str, Field(pattern=r"^[1-9]\d*(KB|MB|GB)$")] = Field(
        "5GB", description="folder: largest size of one file of weights, such as 4GB"
    )
    answers: Whole = Field(25, ge=0, le=25, description="gguf: questions whose greedy answers are compared")
    trust_remote_code: TrustRemoteCode = False

    @model_validator(mode="after")
    def _known_to_the_format(self) -> ExportSettings:
        known = {"gguf": ("f32", "f16", "q8_0"), "folder": ("float32", "bfloat16", "float16")}[self.to]
        if self.dtype is not None and self.dtype not in known:
            raise UserError(
                "this format does not know the dtype",
                where="--dtype",
                found=f"{self.dtype}, with --to {self.to}",
                expected=" or ".join(known),
                fix=f"--dtype {known[0]}",
            )
        if self.to == "gguf" and not self.out.endswith(".gguf"):
            raise UserError(
                "a GGUF file's name ends in .gguf",
                where="--out",
                found=self.out,
                expected="a name that programs know the format by",
                fix=f"--out {typed(self.out.rstrip('/') + '.gguf')}; or --to folder",
            )
        return self
