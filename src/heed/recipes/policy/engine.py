"""Rollouts on vLLM servers: the policy's weights are given to them before every phase, and proved to be there.

The proof: a few answers of the server's to fixed prompts, whose log-probabilities the training forward computes too, of
all servers together: they are to be within `--rollout.max-gap`, and nearer to the weights that were given than to older
ones (`heed.engine.freshness`, which says what it cannot tell). The gap is measured of all answers of a phase, too.
Weights are given under a new name before every drawing, so that nothing has to tell whether they changed.

A policy that is divided among processes is put together on the first, which writes it (an adapter alone, where the
policy is one); each process asks the servers for its own prompts.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from heed.dist.world import World
from heed.engine.client import Ask, Drawn, Facts, RefusedError, Server, UnreachableError
from heed.engine.freshness import Proof, gaps_in_common, stale
from heed.engine.servers import Servers, refusal
from heed.engine.start import StartedServer, command_of, refuse_taken, running, words_for_server
from heed.errors import UserError, typed
from heed.models.decode.answers import Answer
from heed.models.decode.sample import Completion
from heed.models.load import save
from heed.models.self_check import ChosenScore
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
    policy: ChosenScore
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
    proofs: dict[Server, list[Proof]] = field(default_factory=dict)
    """of each server: with the first weights, with those before, with these"""

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
        with written_by_first(self.policy, self.opened, self.world):
            name = self.world.on_first(self._write)

        def give() -> list[list[Drawn]]:
            drawn = []
            for server in self.servers.servers:
                drawn.append(self.servers.until(server, partial(self._probe, server, name)))
                if self.is_adapter and self.given:
                    self.servers.until(server, partial(server.unload_adapter, self.given))
            for older in self.folder.iterdir():
                if older.name != name:
                    shutil.rmtree(older, ignore_errors=True)
            return drawn

        drawn = self.world.on_first(give)
        self.given = name
        return drawn

    def _write(self) -> str:
        """The policy in a folder of a new name, which no earlier run's adapter at a server has either."""
        name = f"policy-{secrets.token_hex(8)}"
        (self.folder / name).mkdir(parents=True)
        write_policy(self.opened, self.folder / name)
        return name

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
        *older, now = self.proofs[server]
        [gap] = gaps_in_common(again, [now])
        where = f"{server.url}, after it came back"
        self.refuse_gap(gap if len(gap) else np.array([np.inf]), where)
        self._refuse_stale(again, now, older, where)

    def forget(self) -> None:
        """Leave the servers without the last adapter, those that answer; whole weights they keep, which is said."""
        if not self.given or not self.world.is_first:
            return
        for server in self.servers.servers:
            if not self.is_adapter:
                self.servers.say(f"{server.url} keeps the policy's weights of the last batch: start it anew for others")
                continue
            with suppress(UnreachableError):
                server.unload_adapter(self.given)

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
        """What each server drew now has the log-probabilities that the training forward gives it, by these weights."""
        of_probes = [
            [self._answer(ids, drawn[i]).tokens for drawn in drawn_by_each] for i, ids in enumerate(self.probes)
        ]
        ours = logp_of(of_probes)
        for number, (server, drawn) in enumerate(zip(self.servers.servers, drawn_by_each, strict=True)):
            proof = Proof(drawn, [of_servers[number][0] for of_servers in ours])
            older, where = self.proofs.get(server, []), f"{server.url}, before a phase"
            self.refuse_gap(proof.gap, where)
            self._refuse_stale(drawn, proof, older, where)
            self.proofs[server] = [*older[:1], *older[1:][-1:], proof]

    def _refuse_stale(self, drawn: list[Drawn], new: Proof, older: Sequence[Proof], where: str) -> None:
        """End the run where a server draws from weights that it had before."""
        if (found := stale(drawn, new, older)) is None:
            return
        raise UserError(
            "the server draws from weights of an earlier phase, though it was given new ones",
            where=where,
            found=f"log-probabilities {found[0]:.2g} nats per token from those of the new weights, and {found[1]:.2g} "
            "from those of older ones",
            expected="nearer to the new: a server that takes weights as vLLM does, and that no gateway stands before",
            fix="--rollout.start, which starts a server like that",
        )

    def _answer(self, prompt: Sequence[int], drawn: Drawn) -> Answer:
        ids = drawn.ids
        text = self.opened.tokenizer.backend.decode(ids[:-1] if drawn.stopped else ids, skip_special_tokens=False)
        at_one = drawn.logp if self.temperature == 1 else [float("nan")] * len(ids)  # which the server does not tell
        return Answer.of(prompt, Completion(ids, at_one, drawn.logp, drawn.stopped), text)


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
    refuse_what_no_server_does(settings, opened)
    positions = setup.prompts.longest + settings.max_new_tokens
    folder = place.folder.folder / "engine"
    policy = models.forwards[opened.loaded.model]
    world.on_first(lambda: folder.mkdir(exist_ok=True))
    started = server_beside(settings, opened, policy, folder, positions, world) if asked.start else None
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
            policy,
            world,
            folder / "weights",
            probes,
            settings.temperature,
            {server: fact.model for server, fact in zip(addresses, facts, strict=True)},
        )
        try:
            yield replace(setup, models=replace(models, engine=engine))
        finally:
            if not asked.start:
                engine.forget()


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


@contextmanager
def written_by_first(policy: ChosenScore, opened: Opened, world: World) -> Iterator[None]:
    """Around the first process's writing of the policy: it has what it writes whole, which may be divided otherwise."""
    if policy.sharded is None:
        yield
        return
    with policy.sharded.whole_on_first(world, trained_only=opened.loaded.adapter is not None):
        yield


def server_beside(
    settings: PolicySettings, opened: Opened, policy: ChosenScore, folder: Path, positions: int, world: World
) -> StartedServer | None:
    """A server of the base that the adapter is on, or of the model that learns, for the first process to start.

    Every process calls it.
    """
    model = str(opened.loaded.model.name_or_path)
    world.on_first(lambda: refuse_taken(settings.rollout.url[0]))
    if opened.loaded.adapter is None:
        model = str((folder / SERVED).absolute())

        def write() -> None:
            shutil.rmtree(model, ignore_errors=True)
            Path(model).mkdir()
            write_policy(opened, Path(model))

        with written_by_first(policy, opened, world):
            world.on_first(write)
    asked = settings.rollout
    command = command_of(
        asked.python, model, asked.url[0], dtype=settings.dtype, positions=positions, rank=settings.lora.rank
    )
    command += words_for_server(asked.words, command)
    return StartedServer(command, folder / "server.log") if world.is_first else None


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
    if asked.words and not asked.start:
        raise UserError(
            "these words are for a server that heed starts, and it starts none",
            where="--rollout.words, --rollout.start",
            found=f"--rollout.words={typed(asked.words)} without --rollout.start",
            expected="both, or the words given to the server where it was started",
            fix=f"--rollout.start --rollout.words={typed(asked.words)}",
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
