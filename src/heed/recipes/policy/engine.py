"""Rollouts on vLLM servers: the policy's weights are given to them before every phase, and proved to be there.

The proof: a few answers of the server's to fixed prompts, whose log-probabilities the training forward computes too.
The same comparison is made of all answers of a phase.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from heed.dist.world import World
from heed.engine.client import Ask, Drawn, Facts, RefusedError, Server, UnreachableError
from heed.engine.servers import Servers, refusal
from heed.engine.start import StartedServer, command_of, refuse_taken, running
from heed.errors import UserError, typed
from heed.models.decode.answers import Answer
from heed.models.decode.sample import Completion
from heed.models.load import save
from heed.models.roles import Role
from heed.preference_config import Rollouts
from heed.recipes.policy.setup import PolicySettings, PolicySetup
from heed.recipes.training.loop import Place
from heed.recipes.training.setup import Opened
from heed.types import Tokens

SERVED = "served"
"""the folder of a whole model that a server is started with"""
NUM_PROBES, PROBE_TOKENS = 4, 8
PROBE_TEXTS = ("Mùa xuân, ça va? 12 345", "def f(x):\n\treturn x  # 👍", "  two  spaces\r\n\n…")
"""texts that tokenizers cut differently"""

LogpOf = Callable[[list[list[Tokens]]], list[list[np.ndarray]]]
"""of sequences by prompt: (1, n) log p of each one's trained tokens by the training forward, on every process"""


@dataclass(eq=False)
class Engine:
    """The servers that draw for a policy, and what they were last given of it."""

    servers: Servers
    settings: Rollouts
    opened: Opened
    policy: Role
    world: World
    folder: Path
    """where weights are put for the servers, which must see it under the same name"""
    probes: list[list[int]]
    """prompts of the proof"""
    temperature: float
    bases: dict[Server, str]
    """the name of each server's base model"""
    given: str = ""
    """name of what the servers have of the policy"""
    proofs: dict[Server, list[Drawn]] = field(default_factory=dict)
    """what each server drew to the probes with these weights"""

    @property
    def is_adapter(self) -> bool:
        """Whether the policy is an adapter on a base that the servers have."""
        return self.opened.loaded.adapter is not None

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        logp_of: LogpOf,
        *,
        num_samples: int,
        max_new_tokens: int,
        seed: int,
    ) -> list[list[Answer]]:
        """The policy's answers to this process's prompts, once the servers have its weights. Every process calls it.

        Args:
            numbers: of the prompts among those of all processes.
        """
        self._prove(self._give_all(), logp_of)
        ask = Ask(max_new_tokens, self.temperature, tuple(self.opened.stop_ids), num_samples)
        drawn = self.servers.draw(
            self._name_at, prompts, ask, seed=seed, numbers=numbers, give_weights=self._give_again
        )
        return [[self._answer(prompt, each) for each in group] for prompt, group in zip(prompts, drawn, strict=True)]

    def refuse_gap(self, gap: np.ndarray, where: str) -> None:
        """End the run where a server's log-probabilities are not those of the training forward; `gap` is per token."""
        if (mean := float(gap.mean())) <= self.settings.max_gap:
            return
        raise UserError(
            "the server draws from other weights, or computes them otherwise, than the run that learns",
            where=where,
            found=f"log-probabilities {mean:.2g} nats per token apart, at most {float(gap.max()):.2g}",
            expected=f"at most {self.settings.max_gap:g} on average (--rollout.max-gap): the model of --model, "
            "served in the dtype of training, with --logprobs-mode processed_logprobs",
            fix="--rollout.start, which starts a server like that; or for a dtype that rounds more, "
            f"--rollout.max-gap {max(0.05, 2 * mean):.1g}",
        )

    # -- weights ------------------------------------------------------------------------------------------------------

    def _give_all(self) -> list[list[Drawn]]:
        """Every server gets the policy as it is now, from the first process; what each then draws to the probes."""

        def give() -> tuple[str, list[list[Drawn]]]:
            with self.policy.active():
                name = f"policy-{_fingerprint(self.policy)}"
                folder = self.folder / name
                if not folder.is_dir():
                    unfinished = self.folder / f"{name}.unfinished"
                    shutil.rmtree(unfinished, ignore_errors=True)
                    unfinished.mkdir(parents=True)
                    write_policy(self.opened, unfinished)
                    unfinished.rename(folder)
            drawn = []
            for server in self.servers.servers:
                drawn.append(self.servers.until(server, lambda server=server: self._probe(server, name)))  # type: ignore[misc]
                if self.is_adapter and self.given not in ("", name):
                    self.servers.until(server, partial(server.unload_adapter, self.given))
            for older in self.folder.iterdir():
                if older.name != name:
                    shutil.rmtree(older, ignore_errors=True)
            return name, drawn

        self.given, drawn = self.world.on_first(give)
        return drawn

    def _give(self, server: Server, name: str) -> None:
        folder = str((self.folder / name).absolute())
        try:
            if self.is_adapter:
                server.load_adapter(name, folder)
            else:
                server.reload_weights(folder)
        except RefusedError as error:
            variables = "VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            flags = " --enable-lora --max-lora-rank of at least --lora.rank" if self.is_adapter else ""
            raise UserError(
                "the server does not take the policy's weights",
                where=f"--rollout.url {server.url}",
                found=str(error)[:400],
                expected=f"a server that sees {typed(folder)}, started with {variables}{flags}",
                fix="--rollout.start, which starts a server like that",
            ) from None

    def _give_again(self, server: Server) -> None:
        """A server that came back gets the weights again, and says what it said when it had them before."""
        again = self.servers.until(server, lambda: self._probe(server, self.given))
        same = [
            abs(a - b)
            for was, now in zip(self.proofs[server], again, strict=True)
            for a, b in zip(was.logp[: _in_common(was, now)], now.logp, strict=False)
        ]
        self.refuse_gap(np.array(same or [np.inf]), f"{server.url}, after it came back")

    def _name_at(self, server: Server, given: str | None = None) -> str:
        return (given or self.given) if self.is_adapter else self.bases[server]

    # -- the proof ----------------------------------------------------------------------------------------------------

    def _probe(self, server: Server, name: str) -> list[Drawn]:
        """Give a server the weights of this name, and let it answer the probes."""
        self._give(server, name)
        ask, timeout = Ask(PROBE_TOKENS, self.temperature, (), 1), self.servers.patience
        model = self._name_at(server, name)
        try:
            return [server.draw(model, ids, ask, seed=i, timeout=timeout)[0] for i, ids in enumerate(self.probes)]
        except RefusedError as error:
            if error.status == 404:  # started anew in between, it does not know the adapter
                raise UnreachableError(str(error)) from None
            raise refusal(server, error) from None

    def _prove(self, drawn_by_each: Sequence[list[Drawn]], logp_of: LogpOf) -> None:
        """What each server drew now has the log-probabilities that the training forward gives it."""
        for server, drawn in zip(self.servers.servers, drawn_by_each, strict=True):
            answers = [self._answer(ids, each) for ids, each in zip(self.probes, drawn, strict=True)]
            ours = np.concatenate([group[0][0] for group in logp_of([[answer.tokens] for answer in answers])])
            theirs = np.concatenate([answer.tempered_logp for answer in answers])
            self.refuse_gap(np.abs(ours - theirs), f"{server.url}, before a phase")
            self.proofs[server] = drawn

    def _answer(self, prompt: Sequence[int], drawn: Drawn) -> Answer:
        ids = drawn.ids
        text = self.opened.tokenizer.backend.decode(ids[:-1] if drawn.stopped else ids, skip_special_tokens=False)
        at_one = drawn.logp if self.temperature == 1 else [float("nan")] * len(ids)  # which the server does not tell
        return Answer.of(prompt, Completion(ids, at_one, drawn.logp, drawn.stopped), text)


def _in_common(one: Drawn, other: Drawn) -> int:
    """Tokens that two answers begin with alike."""
    differing = (i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b)
    return next(differing, min(len(one.ids), len(other.ids)))


def _fingerprint(role: Role) -> str:
    """Of what a role has learnt."""
    digest = hashlib.sha256()
    for name, parameter in role.trained_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def write_policy(opened: Opened, folder: Path) -> None:
    """Write the policy for a server: an adapter, or a whole model with its tokenizer."""
    save(opened.loaded, folder, template=opened.saved_template(), stop_tokens=opened.stops)


# -- opening ----------------------------------------------------------------------------------------------------------


@contextmanager
def drawing_as_asked(settings: PolicySettings, setup: PolicySetup, place: Place) -> Iterator[PolicySetup]:
    """The set-up with its servers, if the settings name some: started if asked, met, and held to be the right ones."""
    asked, models = settings.rollout, setup.models
    if asked.engine == "heed":
        yield setup
        return
    opened, world = models.opened, place.world
    if world.moves_together:
        raise UserError(
            "a server is given the policy's weights by one process, and each process has a part of them",
            where="--parallel, --rollout",
            found=f"a divided policy and --rollout {asked.engine}",
            expected="a copy of the policy on each process, or answers by heed's own sampler",
            fix="--parallel ddp, or --rollout heed",
        )
    refuse_what_no_server_does(settings, opened)
    positions = setup.prompts.longest + settings.max_new_tokens
    folder = place.folder.folder / "engine"
    world.on_first(lambda: folder.mkdir(exist_ok=True))
    started = server_beside(settings, opened, folder, positions) if asked.start and world.is_first else None
    if started is not None:
        refuse_taken(asked.url[0])
    with running(started), folder_for_weights(folder / "weights", world), folder_for_weights(folder / SERVED, world):
        revive = (lambda: None) if started is None else started.revive
        addresses = tuple(Server(url.rstrip("/")) for url in asked.url)
        servers = Servers(addresses, asked.patience, place.speaker.say, revive)
        facts = world.on_first(lambda: [met(servers, server, opened, positions) for server in addresses])
        for server, fact in zip(addresses, facts, strict=True):
            place.speaker.say(f"answers are drawn by vLLM {fact.version} at {server.url}")
        training = setup.prompts.sets[0].training[:NUM_PROBES]
        probes = [setup.prompts.sets[0].at(int(record)).ids.tolist() for record in training]
        engine = Engine(
            servers,
            asked,
            opened,
            models.roles.policy,
            world,
            folder / "weights",
            probes,
            settings.temperature,
            {server: fact.model for server, fact in zip(addresses, facts, strict=True)},
        )
        yield replace(setup, models=replace(models, engine=engine))


@contextmanager
def folder_for_weights(folder: Path, world: World) -> Iterator[None]:
    """A folder of copies for servers, which is gone when the run ends, however it ends."""
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def server_beside(settings: PolicySettings, opened: Opened, folder: Path, positions: int) -> StartedServer:
    """A server of the base that the adapter is on, or of the model that learns, ready to be started."""
    model = str(opened.loaded.model.name_or_path)
    if opened.loaded.adapter is None:
        model = str((folder / SERVED).absolute())
        shutil.rmtree(model, ignore_errors=True)
        Path(model).mkdir()
        write_policy(opened, Path(model))
    asked = settings.rollout
    command = command_of(
        asked.python, model, asked.url[0], dtype=settings.dtype, positions=positions, rank=settings.lora.rank
    )
    return StartedServer(command, folder / "server.log")


def met(servers: Servers, server: Server, opened: Opened, positions: int) -> Facts:
    """What a server says of itself, held to be fit for this run.

    Args:
        positions: tokens of the longest prompt with the longest answer.
    """
    facts = servers.meet(server)
    if facts.positions < positions:
        raise UserError(
            "the server has too few positions for a prompt with its answer",
            where=f"--rollout.url {server.url}",
            found=f"{facts.positions:,} positions",
            expected=f"{positions:,} tokens: the longest prompt, and --max-new-tokens",
            fix=f"start the server with --max-model-len {positions}, or give a smaller --max-new-tokens",
        )
    for text in (*PROBE_TEXTS, *opened.stops):
        ours = opened.tokenizer.backend.encode(text, add_special_tokens=False).ids
        try:
            theirs = servers.until(server, lambda text=text: server.tokenize(facts.model, text))  # type: ignore[misc]
        except (RefusedError, KeyError, TypeError) as error:
            raise UserError(
                "the server does not say how it cuts a text into tokens",
                where=f"--rollout.url {server.url}, /tokenize",
                found=f"{type(error).__name__}: {str(error)[:200]}",
                expected="token ids, as vLLM's own server gives them",
                fix="the address of the vLLM server itself, without a gateway before it; or --rollout.start",
            ) from None
        if ours != theirs:
            raise UserError(
                "the server has another tokenizer than the model that learns",
                where=f"--rollout.url {server.url}, which serves {facts.model}",
                found=f"{text!r} as the tokens {theirs[:12]}",
                expected=f"{ours[:12]}, as the tokenizer of --model has it",
                fix="start the server with the model of --model, or give --rollout.start",
            )
    return facts


def refuse_what_no_server_does(settings: PolicySettings, opened: Opened) -> None:
    """Settings under which a server could not draw from the policy."""
    asked = settings.rollout
    if asked.start and len(asked.url) > 1:
        raise UserError(
            "one server is started beside a run, not several",
            where="--rollout.start, --rollout.url",
            found=f"{len(asked.url)} addresses",
            expected="one address, or servers that were started before",
            fix=f"--rollout.url {asked.url[0]}",
        )
    for url in asked.url:
        if not url.startswith(("http://", "https://")):
            raise UserError(
                "this is no address of a server",
                where="--rollout.url",
                found=url,
                expected="http:// or https://, a host and a port",
                fix=f"--rollout.url http://{url.rpartition('//')[2]}",
            )
    if settings.quantise is not None:
        raise UserError(
            "a server has the whole base, and the policy learns on one in four bits: they are two models",
            where="--quantise, --rollout",
            found=f"--quantise {settings.quantise} with --rollout {asked.engine}",
            expected="one of them",
            fix="--rollout heed, or leave out --quantise",
        )
    if opened.new_token_ids and opened.loaded.adapter is not None:
        raise UserError(
            "a server takes no adapter that trains rows of new tokens",
            where="--rollout vllm, --template",
            found=f"{len(opened.new_token_ids)} tokens that the chat template adds",
            expected="a model that has the template's tokens already, such as a run of heed sft",
            fix="tune the model with heed sft and this --template first, or --rollout heed",
        )
