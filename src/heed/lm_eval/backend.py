"""lm-evaluation-harness's view of a model: texts in, log-likelihoods and answers out, as its `hf` backend gives them.

What is asked is made of texts exactly as the `hf` backend of lm-eval 0.4.13 does it (BOS, edges between context and
continuation, what is cut on the left); how it is computed is heed's: all requests of a kind are one plan of forests.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from heed.config import tokens_per_forward
from heed.errors import UserError
from heed.models.decode.sample import GREEDY, Sampling, sample
from heed.models.four_bits import num_parameters
from heed.models.intake.access import Access
from heed.models.intake.dtypes import dtype_to_load
from heed.models.kernels.speed import speed_up
from heed.models.likelihood import likelihoods
from heed.models.load import choose_device, load_with_tokenizer
from heed.models.self_check import ChosenScore, choose_score, everything_trained
from heed.models.stops import stop_ids
from heed.types import Tokens

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256
"""of an answer, where a task does not say"""

PROBE_TOKENS = 64
"""of a sequence that the forest is tried on"""

GENERATION = ("do_sample", "temperature", "top_p", "top_k", "until", "max_gen_toks")
"""what a task may say of how answers are drawn"""

NEUTRAL: Mapping[str, Any] = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}
"""what it may say because it changes nothing"""

Pair = tuple[tuple[str, str] | None, list[int], list[int]]
"""a context and its continuation: their texts, where they are a request of their own, and their ids"""


@register_model("heed")
class HeedLM(TemplateLM):
    """A model of heed's under lm-evaluation-harness."""

    def __init__(
        self,
        pretrained: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        max_tokens: int | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        trust_remote_code: bool = False,
        max_sequences: int = 64,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        """Load a run of heed's, a model folder, an adapter or a hub name.

        Args:
            device: `cpu` or `cuda`; where lm-eval asks for a GPU that there is not, the CPU, as its `hf` backend does.
            dtype: of the weights: `float32`, `bfloat16`, `float16`, or `auto`, the one that they are stored in.
            max_tokens: new tokens of a forward, heed's unit of memory; None is what keeps the device busy.
            max_length: the most tokens of a sequence; None is the model's own limit.
            add_bos_token: whether texts begin with BOS; None is what the tokenizer does.
            prefix_token_id: what stands before a text without a context; None is BOS, or the end of text.
            max_sequences: answers that are decoded at a time.
            seed: of the answers that are drawn; heed draws each by its number, so they are the same every time.
            batch_size, max_batch_size: lm-eval hands them to every backend; forests have no rows to count.
        """
        super().__init__()
        if unknown:
            raise UserError(
                "heed's lm-eval backend does not know this argument",
                where="--model_args",
                found=", ".join(sorted(unknown)),
                expected="pretrained, device, dtype, max_tokens, max_length, add_bos_token, prefix_token_id, "
                "trust_remote_code, max_sequences or seed",
                fix="leave it out",
            )
        at = choose_device(_device_at_hand(device))
        access = Access(bool(trust_remote_code), log.warning)
        loaded = load_with_tokenizer(pretrained, at, dtype_to_load(dtype, pretrained), access, add_bos=add_bos_token)
        loaded.model.requires_grad_(False).eval()
        speed_up(loaded.model)
        self.model, self.tokenizer, self._device = loaded.model, loaded.tokenizer, at
        self.pretrained, self.add_bos_token, self.seed = pretrained, add_bos_token, seed
        self.max_length = max_length or resolve_max_length(loaded.model.config, loaded.tokenizer)
        self.max_tokens = tokens_per_forward(max_tokens, at.type, loaded.width)
        self.max_sequences = max_sequences
        self._prefix = prefix_token_id
        self._scores: dict[bool, ChosenScore] = {}

    # ---- texts and tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        if self._prefix is not None:
            return self._prefix
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps rendered requests under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def max_gen_toks(self) -> int:
        """The most tokens of an answer, where a task does not say."""
        return MAX_NEW_TOKENS

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """Ids of a text; a BOS that it is written with is not doubled."""
        if add_special_tokens is None:
            add_special_tokens = self.add_bos_token
            if has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                add_special_tokens = False
        return self._encode(string, add_special_tokens)

    def _encode(self, string: str, add_special_tokens: bool | None) -> list[int]:
        how = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **how))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model reads it. One that ends with words of the assistant's goes on from them."""
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, **how))
        except TemplateError as error:
            log.warning(
                "the chat template refuses the conversation (%s): it is asked without its system message", error
            )
            others = [message for message in chat_history if message["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(others, tokenize=False, **how))

    # ---- log-likelihoods

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        """log P(continuation | context) in nats, and whether greedy decoding would write the continuation."""
        found: list[tuple[float, bool]] = [(float("nan"), False)] * len(requests)
        sequences = [self._sequence(request) for request in requests]
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests")
        for number, logp, is_greedy in likelihoods(self._score(sequences), sequences, max_tokens=self.max_tokens):
            found[number] = float(logp.sum()), is_greedy
            if (texts := requests[number][0]) is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[number])
            bar.update()
        bar.close()
        return found

    def _sequence(self, request: Pair) -> Tokens:
        """Context and continuation, the latter asked for; too long a one loses its beginning, as lm-eval has it."""
        texts, context, continuation = request
        if not context or not continuation or len(continuation) > self.max_length:
            raise UserError(
                "a log-likelihood cannot be asked for",
                where=f"the continuation {texts[1]!r}" if texts else "a window of a text",
                found=f"{len(context):,} tokens of context and {len(continuation):,} of continuation",
                expected=f"at least one of each, and at most {self.max_length:,} of continuation",
                fix="another delimiter or option in the task: a tokenizer may merge what is on both sides of the edge",
            )
        whole = context + continuation
        if (surplus := len(whole) - (self.max_length + 1)) > 0:
            log.warning("%d tokens were cut off the beginning of a context of %d", surplus, len(context))
        ids = np.array(whole[-(self.max_length + 1) :], dtype=np.int32)
        weight = np.zeros(len(ids), dtype=np.float32)
        weight[-len(continuation) :] = 1
        return Tokens(ids, weight)

    def _score(self, sequences: Sequence[Tokens]) -> ChosenScore:
        """How this model is scored: by the forest, where it is proved to compute what the model does."""
        config = self.model.config.get_text_config()
        longest = max(sequences, key=len, default=Tokens(np.zeros(2, dtype=np.int32), np.zeros(2, dtype=np.float32)))
        outgrown = len(longest) > (getattr(config, "sliding_window", None) or len(longest))
        if outgrown not in self._scores:
            self._scores[outgrown] = choose_score(
                self.model,
                everything_trained(longest.ids[:PROBE_TOKENS]),
                longest_in_data=len(longest),
                num_positions=self.max_length,
                share=True,
                max_tokens=self.max_tokens,
            )
            log.info(self._scores[outgrown].note)
        return self._scores[outgrown]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log P(text) in nats, each text by itself, in disjoint windows as long as the model allows."""
        windows: list[Pair] = []
        owners = []
        for owner, (text,) in enumerate(request.args for request in requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [(None, *make_disjoint_window(window)) for window in rolling]
            windows += own
            owners += [owner] * len(own)
        totals = [0.0] * len(requests)
        for owner, (logp, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += logp
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # ---- answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The model's answers, without the text that ended them."""
        answers = [""] * len(requests)
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        settings = [_settings(request.args[1]) for request in requests]
        for how, group in groupby(
            sorted(range(len(requests)), key=lambda i: repr(settings[i])), key=settings.__getitem__
        ):
            numbers = list(group)
            sampling, until, max_new_tokens = how
            prompts = [self._prompt(requests[number].args[0], max_new_tokens) for number in numbers]
            drawn = sample(
                self.model,
                prompts,
                stop_ids=tuple({*stop_ids(self.model, self.tokenizer), self.eot_token_id}),
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                seed=self.seed,
                numbers=numbers,
                max_sequences=self.max_sequences,
                on_done=lambda _: bar.update(),
                stop_strings=until,
                decode=lambda ids: str(self.tokenizer.decode(ids, skip_special_tokens=False)),
            )
            stops = [*until, str(self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False))]
            for number, (completion,) in zip(numbers, drawn, strict=True):
                text = self.tokenizer.decode(completion.ids, skip_special_tokens=True)
                answers[number] = postprocess_generated_text(text, stops, None)
                self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
        bar.close()
        return answers

    def _prompt(self, context: str, max_new_tokens: int) -> list[int]:
        """Ids of a context; too long a one loses its beginning, so that the answer has room, as lm-eval has it."""
        is_begun = has_bos_prefix(context, self.tokenizer.bos_token)
        ids = self._encode(context, False if is_begun else self.add_bos_token) or [self.prefix_token_id]
        room = self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                "an answer this long leaves no room for its question",
                where="the task's generation_kwargs",
                found=f"max_gen_toks of {max_new_tokens:,}",
                expected=f"fewer than {self.max_length:,}, the positions of the model",
                fix=f"--gen_kwargs max_gen_toks={max(1, self.max_length // 2)}",
            )
        if len(ids) > room:
            log.warning("%d tokens were cut off the beginning of a prompt of %d", len(ids) - room, len(ids))
        return ids[-room:]

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results."""
        return {
            "model_num_parameters": num_parameters(self.model),
            "model_dtype": str(self.model.dtype),
            "model_forward": [score.note for score in self._scores.values()],
        }


def _device_at_hand(name: str | None) -> str:
    """lm-eval's command line asks for `cuda:0` unless told otherwise, and its own backend takes what there is."""
    wanted = name or "auto"
    if wanted.startswith("cuda"):
        chosen = choose_device("auto").type
        if chosen == "cpu":
            log.warning("there is no GPU that PyTorch can use: %s becomes cpu", wanted)
            return chosen
    return wanted


def _settings(said: Mapping[str, Any]) -> tuple[Sampling, tuple[str, ...], int]:
    """How answers are drawn, the texts that end them and the most tokens of one, as a task says it.

    Raises:
        UserError: the task asks for something that heed does not do.
    """
    how = dict(normalize_gen_kwargs(dict(said), MAX_NEW_TOKENS))
    unknown = [name for name in how if name not in GENERATION and (name not in NEUTRAL or how[name] != NEUTRAL[name])]
    if unknown:
        raise UserError(
            "heed does not generate in this way",
            where="the task's generation_kwargs",
            found=", ".join(f"{name}={how[name]}" for name in unknown),
            expected=", ".join(GENERATION),
            fix=f"--gen_kwargs {unknown[0]}=None"
            if unknown[0] not in NEUTRAL
            else f"--gen_kwargs {unknown[0]}={NEUTRAL[unknown[0]]}",
        )
    until = tuple(stop for stop in _listed(how["until"]) if stop)
    temperature = float(how.get("temperature") or 0.0)
    if not how["do_sample"] or not temperature:
        return GREEDY, until, how["max_gen_toks"]
    return Sampling(temperature, float(how.get("top_p") or 1.0), int(how.get("top_k") or 0)), until, how["max_gen_toks"]


def _listed(until: str | Iterable[str] | None) -> list[str]:
    return [] if until is None else [until] if isinstance(until, str) else list(until)
