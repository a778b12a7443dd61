"""Settings of the recipes that learn from preferences and rewards: YAML key, flag, help text and docs table."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from heed.config import (
    ALL,
    ALL_LINEAR,
    DEVICE_HELP,
    Alpha,
    Bits,
    Columns,
    Device,
    EndOfTurn,
    KeepBest,
    KeepStates,
    Lora,
    Names,
    Optim,
    PositiveNumber,
    Quantise,
    SaveDtype,
    Sources,
    SpecialTokens,
    StopEarly,
    Targets,
    Track,
    Train,
    TrustRemoteCode,
    columns_in_data,
    how_long,
)
from heed.memory_config import FORMER_SWITCH, FORMERLY, KeptActivations
from heed.parallel_config import Offloading, Parallelism, SequenceParallel
from heed.settings import Number, PathText, Settings, Whole

Model = Annotated[
    PathText,
    Field(title="Model, data, run", description="folder or hub name of the tuned model, such as a run of heed sft"),
]
Out = Annotated[PathText, Field(description="folder of this run; a run found there is resumed if its settings match")]
Data = Annotated[Sources, Field(min_length=1, description="file or hub name of a data set; may be given several times")]
EvalData = Annotated[Sources, Field(description="data only measured, never trained on [default: a held-out share]")]
EvalLimit = Annotated[
    Whole, Field(ge=0, description="held-out records of a data set that are measured, 0 for all; chosen by hash")
]
HeldOutShare = Annotated[Number, Field(ge=0, lt=1, description="share of prompts held out by hash")]
MaxBadRecords = Annotated[
    Number, Field(ge=0, le=1, description="share of unusable records up to which they are left out and listed")
]
Template = Annotated[
    PathText | None,
    Field(title="Conversations", description="jinja file, folder, alpaca, chatml or plain [default: the model's own]"),
]
Date = Annotated[
    datetime.date | None,
    Field(description="YYYY-MM-DD, for templates that print one [default: first day of the run]"),
]
MaxLength = Annotated[
    Whole | None, Field(ge=2, description="tokens of a prompt with an answer [default: the model's positions]")
]
TooLong = Annotated[Literal["error", "drop", "truncate"], Field(description="what happens to longer ones")]
DEFAULT_EPOCHS = 1
OptimiserSteps = Annotated[
    Whole | None, Field(ge=1, title="Training", description="optimiser steps, in place of --epochs")
]
Epochs = Annotated[Whole | None, Field(ge=1, description=f"passes over the data [default: {DEFAULT_EPOCHS}]")]
MaxTokens = Annotated[
    Whole | None,
    Field(ge=1, description="tokens per forward, for memory alone [default: enough to keep the device busy]"),
]
Dtype = Annotated[Literal["float32", "bfloat16"], Field(description="activations; trained weights stay float32")]
OnDevice = Annotated[Device, Field(description=DEVICE_HELP)]
Seed = Annotated[Whole, Field(ge=0, description="fixes the order of the data and every random start and draw")]
SaveEvery = Annotated[
    Whole,
    Field(ge=0, title="Keeping and measuring", description="steps between checkpoints; 0 saves at the end only"),
]
EvalEvery = Annotated[Whole, Field(ge=0, description="steps between measurements; 0 measures at start and end only")]
LabelSmoothing = Annotated[Number, Field(ge=0, le=0.5, description="share of the labels that is believed to be wrong")]
Reward = Annotated[
    PathText, Field(description="run of heed reward, FILE.py:FUNCTION, or 'command: ...', 'regex: ...'...")
]
MaxPromptLength = Annotated[
    Whole | None, Field(ge=1, description="tokens of a prompt [default: the positions that an answer leaves]")
]
Steps = Annotated[
    Whole, Field(ge=1, title="Training", description="batches of answers that are sampled and learnt from")
]
MaxNewTokens = Annotated[Whole, Field(ge=1, description="tokens of an answer at most")]
Temperature = Annotated[PositiveNumber, Field(description="of sampling, and of every log-probability")]
Passes = Annotated[Whole, Field(ge=1, description="passes over each batch")]
Minibatches = Annotated[Whole, Field(ge=1, description="optimiser steps per pass")]
Clip = Annotated[
    PositiveNumber, Field(description="relative change of a token's probability at which it stops learning")
]
ClipHigh = Annotated[
    PositiveNumber | None, Field(description="the same of tokens that become likelier (clip-higher) [default: as clip]")
]
MissingStop = Annotated[Number, Field(ge=0, description="taken off the score of an answer that did not end by itself")]
LearningRate = Annotated[
    PositiveNumber | Literal["auto"], Field(description="auto: a tenth of what suits supervised tuning")
]
KlBudget = Annotated[PositiveNumber | None, Field(description="KL at which the run ends early [default: none]")]


FORMER_NAMES = {"rank": "lora.rank", "rollout": "rollout.engine"} | FORMERLY
"""of settings of the recipes that sample answers"""


class SftTerm(Settings):
    """Supervised term beside the preferences (RPO)"""

    weight: Number = Field(0.0, ge=0, description="of the better answers' NLL per token, beside the objective's loss")


class RewardSettings(Settings):
    """Train a reward model on ranked answers: which of two answers is the better one?

    heed reward --model runs/tuned --data RANKINGS.jsonl --out runs/reward
    """

    common = "model data out epochs batch_size max_length max_tokens device optim.lr lora.rank"
    renamed = FORMERLY
    former_switches = frozenset({FORMER_SWITCH})

    model: Model
    data: Data
    out: Out
    eval_data: EvalData = ()
    eval_limit: EvalLimit = 512
    columns: Columns = Field({})
    held_out_share: HeldOutShare = 0.05
    max_bad_records: MaxBadRecords = 0.0005
    trust_remote_code: TrustRemoteCode = False
    template: Template = None
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: Date = None
    max_length: MaxLength = None
    too_long: TooLong = "error"
    steps: OptimiserSteps = None
    epochs: Epochs = None
    batch_size: Whole = Field(8, ge=1, description="prompts with all their answers per step, over all devices")
    max_tokens: MaxTokens = None
    train: Train = (ALL,)
    quantise: Quantise = None
    parallel: Parallelism = "auto"
    offload: Offloading = ()
    sequence_parallel: SequenceParallel = 1
    activations: KeptActivations = "keep"
    dtype: Dtype = "float32"
    device: OnDevice = "auto"
    seed: Seed = 0
    save_every: SaveEvery = 100
    eval_every: EvalEvery = 100
    keep_states: KeepStates = False
    keep_best: KeepBest = False
    stop_early: StopEarly = None
    track: Track = "none"
    margin: Number = Field(
        0.0, ge=0, title="Comparisons", description="lead asked for per point of score between two answers"
    )
    centring: Number = Field(0.01, ge=0, description="pull of rewards towards 0, which comparisons leave open")
    label_smoothing: LabelSmoothing = 0.0
    optim: Optim = Optim()
    lora: Lora = Lora()

    _place_columns = columns_in_data

    @model_validator(mode="before")
    @classmethod
    def _how_long(cls, given: object) -> object:
        return how_long(given, DEFAULT_EPOCHS)


class DpoSettings(Settings):
    """Tune a model on preferences directly, without a reward model (DPO, IPO, SimPO, KTO).

    heed dpo --model runs/tuned --data PREFERENCES.jsonl --out runs/dpo
    heed dpo --model runs/tuned --data JUDGED.jsonl --objective kto --out runs/kto
    """

    common = "model data out objective beta epochs batch_size max_length max_tokens device optim.lr lora.rank"
    renamed = FORMERLY
    former_switches = frozenset({FORMER_SWITCH})

    model: Model
    data: Data
    out: Out
    eval_data: EvalData = ()
    eval_limit: EvalLimit = 512
    columns: Columns = Field({})
    held_out_share: HeldOutShare = 0.05
    max_bad_records: MaxBadRecords = 0.0005
    trust_remote_code: TrustRemoteCode = False
    template: Template = None
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: Date = None
    max_length: MaxLength = None
    too_long: TooLong = "error"
    steps: OptimiserSteps = None
    epochs: Epochs = None
    batch_size: Whole = Field(8, ge=1, description="prompts with all their answers per step, over all devices")
    max_tokens: MaxTokens = None
    train: Train = (ALL,)
    quantise: Quantise = None
    parallel: Parallelism = "auto"
    offload: Offloading = ()
    sequence_parallel: SequenceParallel = 1
    activations: KeptActivations = "keep"
    dtype: Dtype = "float32"
    device: OnDevice = "auto"
    seed: Seed = 0
    save_every: SaveEvery = 100
    save_dtype: SaveDtype = "checkpoint"
    eval_every: EvalEvery = 100
    keep_states: KeepStates = False
    keep_best: KeepBest = False
    stop_early: StopEarly = None
    track: Track = "none"
    objective: Literal["dpo", "ipo", "simpo", "kto"] = Field(
        "dpo", title="Objective", description="what is learnt from; kto: single judged answers"
    )
    beta: PositiveNumber | Literal["auto"] = Field(
        "auto", description="pull towards the model it starts from; auto: 0.1, and 2.0 for simpo"
    )
    label_smoothing: LabelSmoothing = 0.0
    gamma: Number = Field(1.0, ge=0, description="lead that simpo asks of the better answer")
    sft: SftTerm = SftTerm()
    optim: Optim = Optim()
    lora: Lora = Lora()

    _place_columns = columns_in_data

    @model_validator(mode="before")
    @classmethod
    def _how_long(cls, given: object) -> object:
        return how_long(given, DEFAULT_EPOCHS)


class PolicyOptim(Settings):
    """Optimiser (AdamW)"""

    bits: Bits = 32


class PolicyLora(Settings):
    """Low-rank adapters on one base (LoRA)"""

    rank: Whole = Field(16, ge=0, description="rank of each; 0 trains all parameters of models of their own")
    alpha: Alpha = None
    targets: Targets = (ALL_LINEAR,)


class Kl(Settings):
    """Distance from the model it starts from (KL, nats per answer)"""

    beta: Number = Field(0.05, ge=0, description="price of a nat in the reward, at the start")
    target: PositiveNumber | None = Field(None, description="KL that beta is adapted to [default: beta stays]")
    budget: KlBudget = None


class KlOfGroups(Settings):
    """Distance from the model it starts from (KL, nats per answer)"""

    beta: Number = Field(0.05, ge=0, description="price of a nat, beside advantages of size 1")
    within: Literal["loss", "reward"] = Field(
        "loss", description="loss: k2 of each token; reward: k1 of the whole answer, exact for long answers too"
    )
    budget: KlBudget = None


class Rollouts(Settings):
    """Who draws the answers: heed itself, or vLLM servers"""

    engine: Literal["heed", "vllm"] = Field(
        "heed", description="vllm: servers, of which each process asks for its share; --rollout for short"
    )
    url: Names = Field(
        ("http://127.0.0.1:8000",), description="address of a server; several, with commas, are asked in turn"
    )
    start: bool = Field(False, description="start the server at the address beside the run, and end it with the run")
    python: PathText = Field(".venv-engine/bin/python", description="Python of vLLM's environment, to start it with")
    words: str = Field(
        "",
        description='more words for vLLM when it is started: --rollout.words="--device-ids 1" for a GPU of its own, '
        '--rollout.words="--gpu-memory-utilization 0.4" beside training',
    )
    max_weight: Number = Field(
        2.0, ge=1, description="limit of a token's importance weight, its p in training / its p at the server"
    )
    max_gap: PositiveNumber = Field(
        0.01, description="mean difference of log p, server from training, in nats per token, that ends the run"
    )
    patience: PositiveNumber = Field(600.0, description="seconds that a server may be silent before the run ends")


class Critic(Settings):
    """Value model (critic), which counts in the running size of rewards"""

    lr: PositiveNumber | Literal["auto"] = Field("auto", description="peak of its learning rate; auto: the policy's")
    clip: PositiveNumber = Field(0.2, description="change of a value at which it stops learning, in sizes of rewards")
    warmup: Number = Field(0.05, ge=0, le=1, description="share of the batches in which, at first, it learns alone")


class Ptx(Settings):
    """Against forgetting (PPO-ptx)"""

    data: Sources = Field(
        (), description="conversations that are trained on beside the rewards, as heed sft reads them"
    )
    columns: Columns = Field({})
    weight: PositiveNumber = Field(0.5, description="of their loss per token, beside the policy's of 1")

    _place_columns = columns_in_data


class PpoSettings(Settings):
    """Let a model answer prompts and learn from the rewards (PPO with a KL penalty).

    heed ppo --model runs/tuned --reward runs/reward --data PROMPTS.jsonl --out runs/ppo
    heed ppo --model runs/tuned --reward "contains: words" --data PROMPTS.jsonl --out runs/ppo
    """

    common = "model reward data out steps batch_size max_new_tokens max_tokens device kl.beta lr lora.rank"
    renamed = FORMER_NAMES
    former_switches = frozenset({FORMER_SWITCH})

    model: Model
    reward: Reward
    data: Data
    out: Out
    eval_limit: EvalLimit = 64
    columns: Columns = Field({})
    max_bad_records: MaxBadRecords = 0.0005
    trust_remote_code: TrustRemoteCode = False
    template: Template = None
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: Date = None
    max_prompt_length: MaxPromptLength = None
    too_long: TooLong = "error"
    steps: Steps = 100
    batch_size: Whole = Field(64, ge=1, description="answers per batch, each to a prompt of its own")
    max_new_tokens: MaxNewTokens = 128
    temperature: Temperature = 1.0
    epochs: Passes = 2
    minibatches: Minibatches = 2
    max_tokens: MaxTokens = None
    train: Train = (ALL,)
    quantise: Quantise = None
    parallel: Parallelism = "auto"
    offload: Offloading = ()
    sequence_parallel: SequenceParallel = 1
    activations: KeptActivations = "keep"
    dtype: Dtype = "float32"
    device: OnDevice = "auto"
    seed: Seed = 0
    save_every: SaveEvery = 10
    save_dtype: SaveDtype = "checkpoint"
    keep_states: KeepStates = False
    track: Track = "none"
    clip: Clip = Field(0.2, title="PPO")
    clip_high: ClipHigh = None
    gamma: Number = Field(1.0, ge=0, le=1, description="discount of rewards per token")
    gae_lambda: Number = Field(0.95, ge=0, le=1, description="nearer 1 trusts rewards, nearer 0 the value model")
    missing_stop: MissingStop = 1.0
    lr: LearningRate = "auto"
    optim: PolicyOptim = PolicyOptim()
    lora: PolicyLora = PolicyLora()
    value: Critic = Critic()
    kl: Kl = Kl()
    rollout: Rollouts = Rollouts()
    ptx: Ptx = Ptx()

    _place_columns = columns_in_data


class GrpoSettings(Settings):
    """Let a model answer each prompt several times and learn from which answers were better (GRPO, RLOO).

    heed grpo --model runs/tuned --reward "equals: answer" --data PROMPTS.jsonl --out runs/grpo
    """

    common = "model reward data out steps batch_size group_size max_new_tokens max_tokens device kl.beta lr lora.rank"
    renamed = FORMER_NAMES
    former_switches = frozenset({FORMER_SWITCH})

    model: Model
    reward: Reward
    data: Data
    out: Out
    eval_limit: EvalLimit = 64
    columns: Columns = Field({})
    max_bad_records: MaxBadRecords = 0.0005
    trust_remote_code: TrustRemoteCode = False
    template: Template = None
    end_of_turn: EndOfTurn = "template"
    special_tokens_in_text: SpecialTokens = "error"
    date: Date = None
    max_prompt_length: MaxPromptLength = None
    too_long: TooLong = "error"
    steps: Steps = 100
    batch_size: Whole = Field(64, ge=2, description="answers per batch, a multiple of the group size")
    group_size: Whole = Field(8, ge=2, description="answers per prompt")
    max_new_tokens: MaxNewTokens = 128
    temperature: Temperature = 1.0
    epochs: Passes = 1
    minibatches: Minibatches = 1
    max_tokens: MaxTokens = None
    train: Train = (ALL,)
    quantise: Quantise = None
    parallel: Parallelism = "auto"
    offload: Offloading = ()
    sequence_parallel: SequenceParallel = 1
    activations: KeptActivations = "keep"
    dtype: Dtype = "float32"
    device: OnDevice = "auto"
    seed: Seed = 0
    save_every: SaveEvery = 10
    save_dtype: SaveDtype = "checkpoint"
    keep_states: KeepStates = False
    track: Track = "none"
    advantage: Literal["group", "centred", "leave-one-out"] = Field(
        "group",
        title="GRPO",
        description="what a score is compared with",
    )
    mean_over: Literal["sequence", "token", "length"] = Field(
        "sequence", description="what weighs the same as any other; length: a constant"
    )
    clip: Clip = 0.2
    clip_high: ClipHigh = None
    missing_stop: MissingStop = 1.0
    lr: LearningRate = "auto"
    optim: PolicyOptim = PolicyOptim()
    lora: PolicyLora = PolicyLora()
    kl: KlOfGroups = KlOfGroups()
    rollout: Rollouts = Rollouts()

    _place_columns = columns_in_data
