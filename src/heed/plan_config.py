"""Settings of `heed plan`, each defined once: YAML key, command-line flag, help text and docs table."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from heed.config import ALL, ALL_LINEAR, Bits, Quantise, Targets, Train, TrustRemoteCode
from heed.errors import UserError
from heed.memory_config import FORMER_SWITCH, FORMERLY, PlannedActivations
from heed.parallel_config import Offloading, Parallelism
from heed.settings import PathText, Settings, Whole

__all__ = ["PlanSettings"]

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
AMOUNT = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})")


def _checked_amount(given: object) -> object:
    if isinstance(given, str) and (found := AMOUNT.fullmatch(given.strip())) and float(found[1]) > 0:
        return given.strip()
    number = re.match(r"\d+(?:\.\d+)?", str(given))
    raise UserError(
        "an amount of memory needs a number and a unit",
        where="--memory",
        found=str(given),
        expected=f"a number above 0 and {', '.join(UNITS)}: 80GB",
        fix=f"--memory {number[0] if number and float(number[0]) else '80'}GB",
    )


def num_bytes(amount: str) -> int:
    """Bytes of an amount such as 80GB; GB are 10^9, GiB 2^30."""
    found = AMOUNT.fullmatch(amount)
    assert found is not None
    return int(float(found[1]) * UNITS[found[2]])


class PlanOptim(Settings):
    """Optimiser (AdamW)"""

    bits: Bits = 32


class PlanLora(Settings):
    """Low-rank adapter (LoRA)"""

    rank: Whole | None = Field(
        None, ge=0, description="rank of the adapter; 0 trains the model itself [default: the recipe's]"
    )
    targets: Targets = (ALL_LINEAR,)


class PlanSettings(Settings):
    """Tell what a run will hold in the memory of each device, before any is rented, and what to turn if it is too much.

    heed plan --model MODEL --world 8 --memory 80GB
    heed plan --model MODEL --lora.rank 16 --quantise nf4 --dtype bfloat16 --memory 24GB
    """

    common = (
        "model recipe world memory parallel offload dtype max_length max_tokens batch_size activations "
        "quantise lora.rank optim.bits json"
    )
    renamed = FORMERLY
    former_switches = frozenset({FORMER_SWITCH})

    model: PathText = Field(
        title="Model, devices", description="folder or hub name of the model; a folder with config.json alone will do"
    )
    recipe: Literal["sft", "reward", "dpo", "kto", "ppo", "grpo"] = Field("sft", description="what is to be run")
    world: Whole = Field(1, ge=1, description="processes, each with a device")
    per_machine: Whole = Field(8, ge=1, description="processes of a machine, for hsdp")
    memory: Annotated[str, BeforeValidator(_checked_amount)] = Field(
        "80GB", description="of a device, with its unit: 80GB, 24GiB"
    )
    device: Literal["cuda", "cpu"] = Field("cuda", description="kind of device")
    trust_remote_code: TrustRemoteCode = False
    print_json: bool = Field(False, alias="json", description="print one JSON object, and nothing else")
    parallel: Parallelism = Field("auto", title="The run")
    offload: Offloading = ()
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="activations; trained weights stay float32")
    max_length: Whole | None = Field(
        None, ge=2, description="tokens of a sequence [default: 2,048, or the model's positions if fewer]"
    )
    max_tokens: Whole | None = Field(None, ge=1, description="tokens per forward [default: the recipe's]")
    batch_size: Whole | None = Field(None, ge=1, description="of a step, over all devices [default: the recipe's]")
    group_size: Whole = Field(8, ge=2, description="grpo: answers per prompt, which stay in one forward")
    activations: PlannedActivations = "keep"
    train: Train = (ALL,)
    quantise: Quantise = None
    reward: Literal["model", "rule"] = Field("model", description="ppo, grpo: what scores; a rule takes no memory")
    optim: PlanOptim = PlanOptim()
    lora: PlanLora = PlanLora()
