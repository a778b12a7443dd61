"""What is said to a vLLM server over HTTP, and what it answers: token ids in, token ids and log-probabilities out.

A server that does not answer, or answers with a fault of its own, is `UnreachableError` and may be asked again; what it
refuses is `RefusedError` and would be refused again.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heed.errors import UserError

SUPPORTED = "0.32"
"""releases of vLLM whose answers are tested"""
ANSWERS_SOON = 30.0
"""seconds within which a server says what it is; drawing may take longer"""


class UnreachableError(Exception):
    """The server is away, too slow, or broken; what it says next may be better."""


class RefusedError(Exception):
    """The server understood and will not; `status` is HTTP's."""

    def __init__(self, status: int, said: str) -> None:
        self.status = status
        super().__init__(f"{status}: {said}")


@dataclass(frozen=True, slots=True)
class Drawn:
    """An answer as the server drew it."""

    ids: list[int]
    """with its stop token, if it ended with one"""
    logp: list[float]
    """log p of each at the temperature that it was drawn at, in nats"""
    stopped: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What answers to a prompt are asked for with."""

    max_new_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    num_samples: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself."""

    version: str
    model: str
    """the name that its base model goes by"""
    positions: int


def seed_of_prompt(seed: int, number: int) -> int:
    """What a prompt's draws depend on: the phase's seed and its place among all prompts.

    The server adds a sample's number to it, so that sums must not meet: 52 bits of a hash.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big") >> 12


@dataclass(frozen=True, slots=True)
class Server:
    """A vLLM server at an address."""

    url: str

    def call(self, path: str, body: object = None, *, timeout: float) -> Any:
        """What it answers: parsed JSON, or text where it is none; a POST where there is a body.

        Raises:
            UnreachableError, RefusedError: see above.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the engine is near: no proxy
        try:
            with opener.open(request, timeout=timeout) as answer:
                said = answer.read().decode()
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")[:300]
            if error.code >= 500:
                raise UnreachableError(f"it answers {error.code}: {told}") from None
            raise RefusedError(error.code, told) from None
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(str(reason) or type(error).__name__) from None
        try:
            return json.loads(said)
        except ValueError:
            if said[:1] in ("{", "["):
                raise UnreachableError(f"its answer is cut after {len(said):,} characters") from None
            return said

    def facts(self) -> Facts:
        """What the server is, if it is a vLLM server of a release that is supported."""
        try:
            version, models = (self.call(path, timeout=ANSWERS_SOON) for path in ("/version", "/v1/models"))
            facts = [
                Facts(str(version["version"]), str(each["id"]), int(each["max_model_len"]))
                for each in models["data"]
                if each["owned_by"] == "vllm" and each.get("parent") is None
            ]
            found = facts[0]
        except (RefusedError, KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                "there is no vLLM server at this address",
                where=f"--rollout.url {self.url}",
                found=f"something that answers, and not as vLLM does ({error})"[:200],
                expected=f"a vLLM server, release {SUPPORTED}: python -m vllm.entrypoints.openai.api_server",
                fix="--rollout.url http://127.0.0.1:8000, or wherever the server is",
            ) from None
        if not f"{found.version}.".startswith(f"{SUPPORTED}."):
            raise UserError(
                "this release of vLLM is not supported",
                where=f"--rollout.url {self.url}",
                found=found.version,
                expected=f"{SUPPORTED}.x, whose answers are tested",
                fix=f"pip install 'vllm=={SUPPORTED}.*' where the server runs",
            )
        return found

    def tokenize(self, model: str, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        tokens: list[int] = self.call("/tokenize", body, timeout=ANSWERS_SOON)["tokens"]
        return tokens

    def load_adapter(self, name: str, folder: str) -> None:
        """Serve the adapter in a folder under a name; nothing happens where it is served already."""
        try:
            self.call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, timeout=10 * ANSWERS_SOON)
        except RefusedError as error:
            if "already" not in str(error):
                raise

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no longer; nothing happens where it is not served."""
        try:
            self.call("/v1/unload_lora_adapter", {"lora_name": name}, timeout=ANSWERS_SOON)
        except RefusedError:
            return

    def reload_weights(self, folder: str) -> None:
        """Take the weights of the base model from a folder, and forget what was computed with the former ones."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        self.call("/collective_rpc", body, timeout=20 * ANSWERS_SOON)
        self.call("/reset_prefix_cache", {}, timeout=ANSWERS_SOON)

    def draw(self, model: str, prompt: Sequence[int], ask: Ask, *, seed: int, timeout: float) -> list[Drawn]:
        """Answers to a prompt; what is drawn depends on the weights, the prompt and the seed."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "n": ask.num_samples,
            "max_tokens": ask.max_new_tokens,
            "temperature": ask.temperature,
            "seed": seed,
            "stop_token_ids": list(ask.stop_ids),
            "ignore_eos": True,  # the stop tokens are ours
            "logprobs": 0,
            "return_token_ids": True,
            # What a checkpoint's generation config may set otherwise.
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }
        answer = self.call("/v1/completions", body, timeout=timeout)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            drawn = [_drawn(choice, prompt, ask) for choice in choices]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnreachableError(f"an answer that is none: {type(error).__name__} {error}") from None
        if len(drawn) != ask.num_samples:
            raise UnreachableError(f"{len(drawn)} answers where {ask.num_samples} were asked for")
        return drawn


def _drawn(choice: dict[str, Any], prompt: Sequence[int], ask: Ask) -> Drawn:
    """A choice of the server's, which must be whole."""
    ids = [int(token) for token in choice["token_ids"]]
    logp = [float(each) for each in choice["logprobs"]["token_logprobs"]]
    read = choice.get("prompt_token_ids")
    if read is not None and list(read) != list(prompt):
        raise ValueError("it read another prompt")
    stopped = bool(ids) and ids[-1] in ask.stop_ids
    is_whole = stopped or len(ids) == ask.max_new_tokens
    if not ids or len(ids) != len(logp) or not all(map(math.isfinite, logp)) or not is_whole:
        raise ValueError(f"{len(ids)} tokens, {len(logp)} log-probabilities, ended by {choice.get('finish_reason')}")
    return Drawn(ids, logp, stopped)
