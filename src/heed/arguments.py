"""The arguments of `heed.sft` and its brothers, for editors and type checkers.

Written by `python tools/make_api.py` from the settings; do not edit.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

if TYPE_CHECKING:
    from heed.api import Data


class LossArguments(TypedDict, total=False):
    """Loss"""

    mean_over: Literal["token", "sequence"]
    """what weighs the same as any other"""


class OptimArguments(TypedDict, total=False):
    """Optimiser (AdamW)"""

    lr: float | Literal["auto"]
    """peak; auto: 2.7e-3 at 0.26M parameters, 1.4e-4 at 124M, 2e-5 at 7B; LoRA x10"""
    warmup: float
    """share of the steps in which the learning rate rises from 0"""
    weight_decay: float
    """pull of matrices towards 0, per unit of learning rate"""
    max_norm: float
    """gradient norm above which the gradient is scaled down"""
    schedule: Literal["cosine", "linear", "constant"]
    """way of the learning rate after warm-up"""
    bits: Literal[32, 8]
    """of a number of AdamW's two states; 8 by bitsandbytes"""


class LoraArguments(TypedDict, total=False):
    """Low-rank adapter (LoRA)"""

    rank: int
    """rank of the adapter; 0 trains all parameters of the model itself"""
    alpha: float | None
    """scale of the adapter is alpha / rank [default: 2 x rank]"""
    targets: Sequence[str | os.PathLike[str]]
    """layers that get one: all-linear, attention, mlp, or names: q_proj,v_proj"""


class SftArguments(TypedDict, total=False):
    """Tune a base language model on instructions and answers."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the base model"""
    data: Required[Data]
    """file or hub name of a data set; may be given several times"""
    out: Required[str | os.PathLike[str]]
    """folder of this run; a run found there is resumed if its settings match"""
    eval_data: Data
    """data only measured, never trained on [default: a held-out share]"""
    eval_limit: int
    """held-out records of a data set that are measured, 0 for all"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    held_out_share: float
    """share of conversations held out by hash where there is no --eval-data"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    template: str | os.PathLike[str] | None
    """jinja file, folder, alpaca, chatml or plain [default: the model's own]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: first day of the run]"""
    max_length: int | None
    """tokens of a conversation [default: the model's positions]"""
    too_long: Literal["error", "drop", "truncate"]
    """what happens to longer ones"""
    steps: int | None
    """optimiser steps, in place of --epochs"""
    epochs: int | None
    """passes over the data [default: 2]"""
    batch_size: int
    """conversations per optimiser step, over all devices"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    sequence_parallel: int
    """processes that share each forward's sequences, tokens exchanged for heads in attention"""
    share_prefixes: bool
    """compute a beginning that conversations share only once"""
    activations: Literal["keep", "recompute", "selective", "offload"]
    """kept for the backward: all, layers' inputs, and products, inputs on the CPU"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    seed: int
    """fixes the order of the data and every random start"""
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    save_dtype: Literal["checkpoint", "float32", "bfloat16"]
    """of the weights that are left; checkpoint: as in the files of --model; adapters stay float32"""
    keep_checkpoints: int
    """number of latest checkpoints that are kept"""
    eval_every: int
    """steps between measurements; 0 measures at start and end only"""
    keep_states: bool
    """keep the optimiser states of a finished run's checkpoints"""
    keep_best: bool
    """leave the model of the best measurement, by loss, and not the last one"""
    stop_early: int | None
    """end after so many measurements without a lower loss [default: never]"""
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    """where the numbers are shown, too, by the package of that name"""
    loss: LossArguments
    """Loss"""
    optim: OptimArguments
    """Optimiser (AdamW)"""
    lora: LoraArguments
    """Low-rank adapter (LoRA)"""


class RewardArguments(TypedDict, total=False):
    """Train a reward model on ranked answers: which of two answers is the better one?"""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the tuned model, such as a run of heed sft"""
    data: Required[Data]
    """file or hub name of a data set; may be given several times"""
    out: Required[str | os.PathLike[str]]
    """folder of this run; a run found there is resumed if its settings match"""
    eval_data: Data
    """data only measured, never trained on [default: a held-out share]"""
    eval_limit: int
    """held-out records of a data set that are measured, 0 for all; chosen by hash"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    held_out_share: float
    """share of prompts held out by hash"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    template: str | os.PathLike[str] | None
    """jinja file, folder, alpaca, chatml or plain [default: the model's own]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: first day of the run]"""
    max_length: int | None
    """tokens of a prompt with an answer [default: the model's positions]"""
    too_long: Literal["error", "drop", "truncate"]
    """what happens to longer ones"""
    steps: int | None
    """optimiser steps, in place of --epochs"""
    epochs: int | None
    """passes over the data [default: 1]"""
    batch_size: int
    """prompts with all their answers per step, over all devices"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    sequence_parallel: int
    """processes that share each forward's sequences, tokens exchanged for heads in attention"""
    activations: Literal["keep", "recompute", "selective", "offload"]
    """kept for the backward: all, layers' inputs, and products, inputs on the CPU"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    seed: int
    """fixes the order of the data and every random start and draw"""
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    eval_every: int
    """steps between measurements; 0 measures at start and end only"""
    keep_states: bool
    """keep the optimiser states of a finished run's checkpoints"""
    keep_best: bool
    """leave the model of the best measurement, by loss, and not the last one"""
    stop_early: int | None
    """end after so many measurements without a lower loss [default: never]"""
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    """where the numbers are shown, too, by the package of that name"""
    margin: float
    """lead asked for per point of score between two answers"""
    centring: float
    """pull of rewards towards 0, which comparisons leave open"""
    label_smoothing: float
    """share of the labels that is believed to be wrong"""
    optim: OptimArguments
    """Optimiser (AdamW)"""
    lora: LoraArguments
    """Low-rank adapter (LoRA)"""


class SftTermArguments(TypedDict, total=False):
    """Supervised term beside the preferences (RPO)"""

    weight: float
    """of the better answers' NLL per token, beside the objective's loss"""


class DpoArguments(TypedDict, total=False):
    """Tune a model on preferences directly, without a reward model (DPO, IPO, SimPO, KTO)."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the tuned model, such as a run of heed sft"""
    data: Required[Data]
    """file or hub name of a data set; may be given several times"""
    out: Required[str | os.PathLike[str]]
    """folder of this run; a run found there is resumed if its settings match"""
    eval_data: Data
    """data only measured, never trained on [default: a held-out share]"""
    eval_limit: int
    """held-out records of a data set that are measured, 0 for all; chosen by hash"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    held_out_share: float
    """share of prompts held out by hash"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    template: str | os.PathLike[str] | None
    """jinja file, folder, alpaca, chatml or plain [default: the model's own]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: first day of the run]"""
    max_length: int | None
    """tokens of a prompt with an answer [default: the model's positions]"""
    too_long: Literal["error", "drop", "truncate"]
    """what happens to longer ones"""
    steps: int | None
    """optimiser steps, in place of --epochs"""
    epochs: int | None
    """passes over the data [default: 1]"""
    batch_size: int
    """prompts with all their answers per step, over all devices"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    sequence_parallel: int
    """processes that share each forward's sequences, tokens exchanged for heads in attention"""
    activations: Literal["keep", "recompute", "selective", "offload"]
    """kept for the backward: all, layers' inputs, and products, inputs on the CPU"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    seed: int
    """fixes the order of the data and every random start and draw"""
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    save_dtype: Literal["checkpoint", "float32", "bfloat16"]
    """of the weights that are left; checkpoint: as in the files of --model; adapters stay float32"""
    eval_every: int
    """steps between measurements; 0 measures at start and end only"""
    keep_states: bool
    """keep the optimiser states of a finished run's checkpoints"""
    keep_best: bool
    """leave the model of the best measurement, by loss, and not the last one"""
    stop_early: int | None
    """end after so many measurements without a lower loss [default: never]"""
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    """where the numbers are shown, too, by the package of that name"""
    objective: Literal["dpo", "ipo", "simpo", "kto"]
    """what is learnt from; kto: single judged answers"""
    beta: float | Literal["auto"]
    """pull towards the model it starts from; auto: 0.1, and 2.0 for simpo"""
    label_smoothing: float
    """share of the labels that is believed to be wrong"""
    gamma: float
    """lead that simpo asks of the better answer"""
    sft: SftTermArguments
    """Supervised term beside the preferences (RPO)"""
    optim: OptimArguments
    """Optimiser (AdamW)"""
    lora: LoraArguments
    """Low-rank adapter (LoRA)"""


class PolicyOptimArguments(TypedDict, total=False):
    """Optimiser (AdamW)"""

    bits: Literal[32, 8]
    """of a number of AdamW's two states; 8 by bitsandbytes"""


class PolicyLoraArguments(TypedDict, total=False):
    """Low-rank adapters on one base (LoRA)"""

    rank: int
    """rank of each; 0 trains all parameters of models of their own"""
    alpha: float | None
    """scale of the adapter is alpha / rank [default: 2 x rank]"""
    targets: Sequence[str | os.PathLike[str]]
    """layers that get one: all-linear, attention, mlp, or names: q_proj,v_proj"""


class CriticArguments(TypedDict, total=False):
    """Value model (critic), which counts in the running size of rewards"""

    lr: float | Literal["auto"]
    """peak of its learning rate; auto: the policy's"""
    clip: float
    """change of a value at which it stops learning, in sizes of rewards"""
    warmup: float
    """share of the batches in which, at first, it learns alone"""


class KlArguments(TypedDict, total=False):
    """Distance from the model it starts from (KL, nats per answer)"""

    beta: float
    """price of a nat in the reward, at the start"""
    target: float | None
    """KL that beta is adapted to [default: beta stays]"""
    budget: float | None
    """KL at which the run ends early [default: none]"""


class RolloutsArguments(TypedDict, total=False):
    """Who draws the answers: heed itself, or vLLM servers"""

    engine: Literal["heed", "vllm"]
    """vllm: servers, of which each process asks for its share; --rollout for short"""
    url: Sequence[str | os.PathLike[str]]
    """address of a server; several, with commas, are asked in turn"""
    start: bool
    """start the server at the address beside the run, and end it with the run"""
    python: str | os.PathLike[str]
    """Python of vLLM's environment, to start it with"""
    words: str | os.PathLike[str]
    """more words for vLLM when it is started: --rollout.words='--device-ids 1' for a GPU of its own, --rollout.words='--gpu-memory-utilization 0.4' beside training"""
    max_weight: float
    """limit of a token's importance weight, its p in training / its p at the server"""
    max_gap: float
    """mean difference of log p, server from training, in nats per token, that ends the run"""
    patience: float
    """seconds that a server may be silent before the run ends"""


class PtxArguments(TypedDict, total=False):
    """Against forgetting (PPO-ptx)"""

    data: Data
    """conversations that are trained on beside the rewards, as heed sft reads them"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    weight: float
    """of their loss per token, beside the policy's of 1"""


class PpoArguments(TypedDict, total=False):
    """Let a model answer prompts and learn from the rewards (PPO with a KL penalty)."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the tuned model, such as a run of heed sft"""
    reward: Required[str | os.PathLike[str]]
    """run of heed reward, FILE.py:FUNCTION, or 'command: ...', 'regex: ...'..."""
    data: Required[Data]
    """file or hub name of a data set; may be given several times"""
    out: Required[str | os.PathLike[str]]
    """folder of this run; a run found there is resumed if its settings match"""
    eval_limit: int
    """held-out records of a data set that are measured, 0 for all; chosen by hash"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    template: str | os.PathLike[str] | None
    """jinja file, folder, alpaca, chatml or plain [default: the model's own]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: first day of the run]"""
    max_prompt_length: int | None
    """tokens of a prompt [default: the positions that an answer leaves]"""
    too_long: Literal["error", "drop", "truncate"]
    """what happens to longer ones"""
    steps: int
    """batches of answers that are sampled and learnt from"""
    batch_size: int
    """answers per batch, each to a prompt of its own"""
    max_new_tokens: int
    """tokens of an answer at most"""
    temperature: float
    """of sampling, and of every log-probability"""
    epochs: int
    """passes over each batch"""
    minibatches: int
    """optimiser steps per pass"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    sequence_parallel: int
    """processes that share each forward's sequences, tokens exchanged for heads in attention"""
    activations: Literal["keep", "recompute", "selective", "offload"]
    """kept for the backward: all, layers' inputs, and products, inputs on the CPU"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    seed: int
    """fixes the order of the data and every random start and draw"""
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    save_dtype: Literal["checkpoint", "float32", "bfloat16"]
    """of the weights that are left; checkpoint: as in the files of --model; adapters stay float32"""
    keep_states: bool
    """keep the optimiser states of a finished run's checkpoints"""
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    """where the numbers are shown, too, by the package of that name"""
    clip: float
    """relative change of a token's probability at which it stops learning"""
    clip_high: float | None
    """the same of tokens that become likelier (clip-higher) [default: as clip]"""
    gamma: float
    """discount of rewards per token"""
    gae_lambda: float
    """nearer 1 trusts rewards, nearer 0 the value model"""
    missing_stop: float
    """taken off the score of an answer that did not end by itself"""
    lr: float | Literal["auto"]
    """auto: a tenth of what suits supervised tuning"""
    optim: PolicyOptimArguments
    """Optimiser (AdamW)"""
    lora: PolicyLoraArguments
    """Low-rank adapters on one base (LoRA)"""
    value: CriticArguments
    """Value model (critic), which counts in the running size of rewards"""
    kl: KlArguments
    """Distance from the model it starts from (KL, nats per answer)"""
    rollout: RolloutsArguments
    """Who draws the answers: heed itself, or vLLM servers"""
    ptx: PtxArguments
    """Against forgetting (PPO-ptx)"""


class KlOfGroupsArguments(TypedDict, total=False):
    """Distance from the model it starts from (KL, nats per answer)"""

    beta: float
    """price of a nat, beside advantages of size 1"""
    within: Literal["loss", "reward"]
    """loss: k2 of each token; reward: k1 of the whole answer, exact for long answers too"""
    budget: float | None
    """KL at which the run ends early [default: none]"""


class GrpoArguments(TypedDict, total=False):
    """Let a model answer each prompt several times and learn from which answers were better (GRPO, RLOO)."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the tuned model, such as a run of heed sft"""
    reward: Required[str | os.PathLike[str]]
    """run of heed reward, FILE.py:FUNCTION, or 'command: ...', 'regex: ...'..."""
    data: Required[Data]
    """file or hub name of a data set; may be given several times"""
    out: Required[str | os.PathLike[str]]
    """folder of this run; a run found there is resumed if its settings match"""
    eval_limit: int
    """held-out records of a data set that are measured, 0 for all; chosen by hash"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    template: str | os.PathLike[str] | None
    """jinja file, folder, alpaca, chatml or plain [default: the model's own]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: first day of the run]"""
    max_prompt_length: int | None
    """tokens of a prompt [default: the positions that an answer leaves]"""
    too_long: Literal["error", "drop", "truncate"]
    """what happens to longer ones"""
    steps: int
    """batches of answers that are sampled and learnt from"""
    batch_size: int
    """answers per batch, a multiple of the group size"""
    group_size: int
    """answers per prompt"""
    max_new_tokens: int
    """tokens of an answer at most"""
    temperature: float
    """of sampling, and of every log-probability"""
    epochs: int
    """passes over each batch"""
    minibatches: int
    """optimiser steps per pass"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    sequence_parallel: int
    """processes that share each forward's sequences, tokens exchanged for heads in attention"""
    activations: Literal["keep", "recompute", "selective", "offload"]
    """kept for the backward: all, layers' inputs, and products, inputs on the CPU"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    seed: int
    """fixes the order of the data and every random start and draw"""
    save_every: int
    """steps between checkpoints; 0 saves at the end only"""
    save_dtype: Literal["checkpoint", "float32", "bfloat16"]
    """of the weights that are left; checkpoint: as in the files of --model; adapters stay float32"""
    keep_states: bool
    """keep the optimiser states of a finished run's checkpoints"""
    track: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    """where the numbers are shown, too, by the package of that name"""
    advantage: Literal["group", "centred", "leave-one-out"]
    """what a score is compared with"""
    mean_over: Literal["sequence", "token", "length"]
    """what weighs the same as any other; length: a constant"""
    clip: float
    """relative change of a token's probability at which it stops learning"""
    clip_high: float | None
    """the same of tokens that become likelier (clip-higher) [default: as clip]"""
    missing_stop: float
    """taken off the score of an answer that did not end by itself"""
    lr: float | Literal["auto"]
    """auto: a tenth of what suits supervised tuning"""
    optim: PolicyOptimArguments
    """Optimiser (AdamW)"""
    lora: PolicyLoraArguments
    """Low-rank adapters on one base (LoRA)"""
    kl: KlOfGroupsArguments
    """Distance from the model it starts from (KL, nats per answer)"""
    rollout: RolloutsArguments
    """Who draws the answers: heed itself, or vLLM servers"""


class EvalArguments(TypedDict, total=False):
    """Measure models on tasks: accuracy, calibration, knowledge, bias, every number with its interval."""

    model: Sequence[str | os.PathLike[str]]
    """run folder, model folder, adapter or hub name; several are compared, each with the first"""
    task: Sequence[str | os.PathLike[str]]
    """NAME=FILE_OR_FOLDER, NAME alone (its data from the hub), or a task file MINE.yaml"""
    out: str | os.PathLike[str]
    """folder of the results; one found there is gone on with"""
    num_shots: int | None
    """worked examples before every question [default: the task's]"""
    shots: Literal["fixed", "per-item"]
    """the same examples before all questions, or others before each"""
    limit: int | None
    """items of each task at most, chosen by hash [default: all]"""
    seed: int
    """fixes which examples are taken"""
    template: str | os.PathLike[str]
    """chat template that questions are asked in: own, none, alpaca, chatml, plain or a jinja file"""
    bos: Literal["auto", "on", "off"]
    """BOS before a prompt without a template; auto: as the tokenizer does"""
    too_long: Literal["error", "drop-shots", "drop"]
    """a prompt that the model cannot read: stop, ask it with fewer examples, or leave it out"""
    max_bad_records: float
    """share of a task's records that cannot be asked up to which they are left out and counted"""
    tax: Sequence[str | os.PathLike[str]]
    """a text file, or a task as for --task: what tuning must not cost, told in a table of its own"""
    max_new_tokens: int | None
    """tokens of an answer at most [default: the task's]"""
    max_tokens: int | None
    """tokens per forward; memory depends on it, no result does [default: by device and model]"""
    dtype: Literal["float32", "bfloat16"]
    """of weights and activations"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""


class MergeArguments(TypedDict, total=False):
    """Fold an adapter into its base model, and check that the logits agree."""

    model: Required[str | os.PathLike[str]]
    """run folder or adapter folder"""
    out: Required[str | os.PathLike[str]]
    """folder to write the merged model to; must be empty or absent"""
    base: str | os.PathLike[str] | None
    """folder or hub name of the base [default: the one the adapter names]"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""


class ExportArguments(TypedDict, total=False):
    """Write a tuned model for other programs, read it back and compare: GGUF for llama.cpp and ollama, or a folder."""

    model: Required[str | os.PathLike[str]]
    """run folder, model folder or hub name; an adapter is merged into its base"""
    out: Required[str | os.PathLike[str]]
    """GGUF file or folder to write; must not be there yet"""
    to: Literal["gguf", "folder"]
    """one file for llama.cpp and ollama, or safetensors"""
    dtype: Literal["f32", "f16", "q8_0", "float32", "bfloat16", "float16"] | None
    """gguf: f32, f16, q8_0; folder: float32, bfloat16, float16 [default: f32; as --model is stored]"""
    shards: str | os.PathLike[str]
    """folder: largest size of one file of weights, such as 4GB"""
    answers: int
    """gguf: questions whose greedy answers are compared"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""


class PlanOptimArguments(TypedDict, total=False):
    """Optimiser (AdamW)"""

    bits: Literal[32, 8]
    """of a number of AdamW's two states; 8 by bitsandbytes"""


class PlanLoraArguments(TypedDict, total=False):
    """Low-rank adapter (LoRA)"""

    rank: int | None
    """rank of the adapter; 0 trains the model itself [default: the recipe's]"""
    targets: Sequence[str | os.PathLike[str]]
    """layers that get one: all-linear, attention, mlp, or names: q_proj,v_proj"""


class PlanArguments(TypedDict, total=False):
    """Tell what a run will hold in the memory of each device, before any is rented, and what to turn if it is too much."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the model; a folder with config.json alone will do"""
    recipe: Literal["sft", "reward", "dpo", "kto", "ppo", "grpo"]
    """what is to be run"""
    world: int
    """processes, each with a device"""
    per_machine: int
    """processes of a machine, for hsdp"""
    memory: str | os.PathLike[str]
    """of a device, with its unit: 80GB, 24GiB"""
    device: Literal["cuda", "cpu"]
    """kind of device"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"]
    """under torchrun: copies (ddp), shards (fsdp), shards on each machine (hsdp); auto: ddp if it fits"""
    offload: Sequence[Literal["parameters", "optimiser"]]
    """of a divided model, kept in the CPU's memory between uses: parameters, optimiser"""
    dtype: Literal["float32", "bfloat16"]
    """activations; trained weights stay float32"""
    max_length: int | None
    """tokens of a sequence [default: 2,048, or the model's positions if fewer]"""
    max_tokens: int | None
    """tokens per forward [default: the recipe's]"""
    batch_size: int | None
    """of a step, over all devices [default: the recipe's]"""
    group_size: int
    """grpo: answers per prompt, which stay in one forward"""
    activations: Literal["keep", "recompute"]
    """kept for the backward: all, or layers' inputs alone"""
    train: Sequence[str | os.PathLike[str]]
    """without an adapter: all, last:N, head, embeddings, norms, names"""
    quantise: Literal["nf4"] | None
    """keep the frozen base of an adapter in four bits, by bitsandbytes [default: no]"""
    reward: Literal["model", "rule"]
    """ppo, grpo: what scores; a rule takes no memory"""
    optim: PlanOptimArguments
    """Optimiser (AdamW)"""
    lora: PlanLoraArguments
    """Low-rank adapter (LoRA)"""


class CalibrateArguments(TypedDict, total=False):
    """Make a model's confidence honest, and certify a threshold beyond which it says that it does not know."""

    run: Required[str | os.PathLike[str]]
    """folder that heed eval has written"""
    model: str | os.PathLike[str] | None
    """which of its models, by name [default: the only one]"""
    task: str | os.PathLike[str] | None
    """which of its tasks, by name [default: the only one]"""
    guarantee: Literal["selective", "joint", "batch"]
    """of the answers given, so many are wrong; of all questions; of answers selected from a batch"""
    max_error: float
    """share of wrong answers that is promised at most"""
    confidence: float
    """of the selective promise, over the draw of the items; others are on average"""
    tuning_share: float
    """share of the items, by hash, on which confidences are scaled and thresholds chosen"""


class KnownArguments(TypedDict, total=False):
    """Ask a base model what it knows, and write records that teach it to say of the rest that it does not know."""

    model: Required[str | os.PathLike[str]]
    """folder or hub name of the base model"""
    data: Required[Data]
    """questions with their answers: a file or hub name; may be given several times"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    out: Required[str | os.PathLike[str]]
    """folder of the answers; one found there is gone on with if its settings match"""
    limit: int
    """questions to ask, from the first; 0 asks all"""
    max_bad_records: float
    """share of unusable records up to which they are left out and listed"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    form: str | os.PathLike[str]
    """how an example stands in the prompt; the first character behind {answer} ends an answer"""
    check: Literal["starts", "line", "number"]
    """an answer is right if its first line starts with, or is, an alias; or by its first number"""
    num_prompts: int
    """few-shot prompts that each question is asked under"""
    num_shots: int
    """examples in each, drawn from the data, never the question itself"""
    num_samples: int
    """answers drawn under each prompt, beside the likeliest one"""
    temperature: float
    """at which they are drawn"""
    max_new_tokens: int
    """tokens of an answer at most"""
    seed: int
    """fixes examples and draws"""
    maybe: Literal["answer", "refuse", "leave-out"]
    """what is taught where only some likeliest answers are right"""
    weakly: Literal["answer", "refuse", "leave-out"]
    """what is taught where only drawn answers are right"""
    max_agreement: float
    """unknown questions on which the drawn answers agree more are left out, not refused"""
    min_agreement: float
    """known questions on which they agree less are left out"""
    max_refusals: float
    """share of refusals among the records at most; those that the model is least certain of stay"""
    dtype: Literal["float32", "bfloat16"]
    """of weights and activations"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""


class ShowArguments(TypedDict, total=False):
    """Show conversations or ranked answers of a data set as the model will read them, the trained tokens in colour."""

    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    model: str | os.PathLike[str] | None
    """folder or hub name of a model, for its tokenizer and its template"""
    tokenizer: str | os.PathLike[str] | None
    """folder that holds a tokenizer.json, in place of --model"""
    template: str | os.PathLike[str] | None
    """jinja file, tokenizer_config.json, folder, alpaca, chatml, plain [default: the model's]"""
    end_of_turn: Literal["template", "eos"]
    """what ends an answer; eos where the template writes no stop token"""
    special_tokens_in_text: Literal["error", "as-text", "strip"]
    """special tokens written out in the data"""
    date: datetime.date | str | None
    """YYYY-MM-DD, for templates that print one [default: today]"""
    record: int | None
    """number of the one record to show, counted from 1"""
    limit: int
    """records to show of each data set; 0 shows all"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""


class DataCheckArguments(TypedDict, total=False):
    """Find what is wrong in instruction and preference data: broken text, bad answers, duplicates, habits."""

    data: Required[Data]
    """file, folder or hub name; may be given several times"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    eval_data: Data
    """held-out data, whose prompts should not be among the others"""
    model: str | os.PathLike[str] | None
    """model whose positions the lengths are compared with"""
    template: str | os.PathLike[str] | None
    """chat template for the lengths [default: the model's]"""
    only: Sequence[str | os.PathLike[str]]
    """kinds to look for, by the names of the table [default: all]"""
    ignore: Sequence[str | os.PathLike[str]]
    """kinds not to look for"""
    examples: int
    """findings of each kind that are shown"""
    out: str | os.PathLike[str] | None
    """file for all findings, a line of JSON each"""
    html: str | os.PathLike[str] | None
    """file for the findings as a page"""
    workers: int | None
    """processes that look at records [default: one a processor]"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""


class DataMendArguments(TypedDict, total=False):
    """Mend text that is broken for certain, into a new file, with a list of changes that undoes them all."""

    data: Required[str | os.PathLike[str]]
    """file, folder or hub name"""
    out: Required[str | os.PathLike[str]]
    """file to write, .jsonl; the changes are listed beside it, in .changes.jsonl"""
    safe: bool
    """what is certain: encodings, composed accents, control characters [default]"""
    guess: bool
    """what is certain, and letters of which a byte was lost, as likely"""
    undo: str | os.PathLike[str] | None
    """changes that are to be taken back"""
    workers: int | None
    """processes that look at records [default: one a processor]"""


class DataDedupeArguments(TypedDict, total=False):
    """Leave out records that say what another one says, or nearly, and those that stand in held-out data."""

    data: Required[Data]
    """file, folder or hub name; may be given several times"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    out: Required[str | os.PathLike[str]]
    """file to write, .jsonl: the records that are left, as they stood"""
    near: float | None
    """Jaccard similarity of their runs of three words from which on two records are one [default: word for word alone]"""
    against: Data
    """held-out data: what stands there, or asks what is asked there, is left out"""
    keep: Literal["first", "longest", "best"]
    """which one stays; best: fewest faults by heed data check, then the longest"""
    by: Literal["record", "prompt", "answer"]
    """what of a record is compared"""
    clusters: str | os.PathLike[str] | None
    """file for the clusters, a line of JSON each, .jsonl"""
    workers: int | None
    """processes that look at records [default: one a processor]"""


class DataDecontaminateArguments(TypedDict, total=False):
    """Leave out records that hold questions or answers of evaluation sets, each with the match shown."""

    data: Required[Data]
    """file, folder or hub name; may be given several times"""
    against: Required[Sequence[str | os.PathLike[str]]]
    """evaluation sets: files in any layout, folders of them, or hub names"""
    out: Required[str | os.PathLike[str]]
    """file to write, .jsonl: the records that are left; the others stand beside it, in .removed.jsonl"""
    coverage: float
    """share of a text's runs of words, from which on a record holds that text"""
    n: int
    """words in a run; shorter texts are not looked for"""
    workers: int | None
    """processes that look at records [default: one a processor]"""


class DataSelectArguments(TypedDict, total=False):
    """Choose the records that are worth most for tuning, and measure whether a choice is better than one at random."""

    data: Required[Data]
    """file, folder or hub name; may be given several times"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    out: Required[str | os.PathLike[str]]
    """file to write, .jsonl, scores beside it; with --curve a folder"""
    model: str | os.PathLike[str] | None
    """model whose losses, states or tokens decide"""
    template: str | os.PathLike[str] | None
    """chat template [default: the model's, or alpaca]"""
    budget: int
    """records to choose; with --curve at most"""
    by: Sequence[Literal["ifd", "longest", "k-center", "deita", "random"]]
    """ifd, longest, k-center, deita or random; several with --curve, as ifd,deita"""
    threshold: float
    """of deita: the cosine above which records are too much alike"""
    seed: int
    """of random; with --curve the first of --seeds"""
    all_scores: str | os.PathLike[str] | None
    """file for the scores of all records, a line of JSON each"""
    max_tokens: int | None
    """tokens per forward, for memory alone [default: enough to keep the device busy]"""
    dtype: Literal["float32", "bfloat16"]
    """of the model's weights and activations"""
    device: str | os.PathLike[str]
    """auto, cpu, cuda or cuda:N; auto takes the GPU if there is one"""
    workers: int | None
    """processes that look at records [default: one a processor]"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
    curve: bool
    """tune on growing choices by each way and measure the models"""
    eval_data: Data
    """held-out data that tuned models are measured on"""
    budgets: Sequence[int]
    """records of each choice, as 50,100,200 [default: five up to --budget, each twice the last]"""
    seeds: int
    """tunings of each choice, which differ in seed"""
    steps: int
    """optimiser steps of every tuning, whatever the number of records"""
    tuning: str | os.PathLike[str] | None
    """YAML of heed sft settings for the tunings, in place of --steps"""


class DataMixArguments(TypedDict, total=False):
    """Mix data sets by weights or shares, into one file or Parquet shards, the same for the same seed."""

    data: Required[Data]
    """file, folder or hub name, each with a weight behind a colon, as A.jsonl:0.5, or a share of the mixture, as A.jsonl:50%"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    out: Required[str | os.PathLike[str]]
    """file to write, .jsonl, or a folder for Parquet; what was drawn stands beside it, in .mixture.yaml"""
    size: int | None
    """records of the mixture [default: as the weights say; with shares as many as can be]"""
    cap: int | None
    """records of each data set that count at most, unless it says so"""
    repeat: bool
    """draw records again where a data set has fewer than its part of --size"""
    as_: Literal["messages", "alpaca", "preference"] | None
    """shape that all records are written in [default: each as it stands]"""
    shards: str | os.PathLike[str] | None
    """size of the Parquet files in the folder, as 200MB [default: 500MB]"""
    seed: int
    """of the order, and of what is drawn where not all is"""
    workers: int | None
    """processes that look at records [default: one a processor]"""


class DataCardArguments(TypedDict, total=False):
    """Write a README for the hub: counts, languages, findings, where the records come from, examples."""

    data: Required[Data]
    """file, folder or hub name; may be given several times"""
    columns: dict[str, Any]
    """NAME=COLUMN ...: which columns of the data are meant, where they have no usual name"""
    eval_data: Data
    """held-out data, the split `test`"""
    out: Required[str | os.PathLike[str]]
    """file to write, .md; README.md is what the hub shows"""
    licence: str | os.PathLike[str] | None
    """of the data, as cc-by-4.0 [default: not said]"""
    name: str | os.PathLike[str] | None
    """of the data set [default: the first file's]"""
    languages: Sequence[str | os.PathLike[str]]
    """codes of ISO 639, as vi,en [default: as found]"""
    examples: int
    """records that are shown"""
    model: str | os.PathLike[str] | None
    """model whose tokens are counted [default: characters alone]"""
    workers: int | None
    """processes that look at records [default: one a processor]"""
    trust_remote_code: bool
    """run Python code that comes with the model, with all that this account may do"""
