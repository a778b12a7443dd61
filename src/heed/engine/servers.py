"""Several servers that draw answers in turn, and what happens when one of them dies: it is waited for.

What is drawn depends on the weights, the prompt, the seed and the number of the draw, so what a server lost is asked
for again, of itself, and is what it would have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from heed.engine.client import Ask, Drawn, Facts, RefusedError, Server, UnreachableError, seed_of_prompt
from heed.errors import UserError

AT_A_TIME = 64
"""prompts that a server is asked at a time; it batches them as it likes"""
BETWEEN_LOOKS = 1.0
"""seconds between two looks for a server that is away"""
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Servers:
    """The servers of a run."""

    servers: tuple[Server, ...]
    patience: float
    """seconds without an answer after which the run ends"""
    say: Callable[[str], None]
    revive: Callable[[], None] = lambda: None
    """starts a server that heed started and that is gone"""

    def meet(self, server: Server) -> Facts:
        """What a server says of itself, waited for as long as patience lasts."""
        return self.until(server, server.facts)

    def until(self, server: Server, work: Callable[[], Result], since: float | None = None) -> Result:
        """Try something again until the server does it or patience is over; says once that it waits."""
        began, is_told = time.monotonic() if since is None else since, False
        while True:
            try:
                return work()
            except UnreachableError as error:
                if time.monotonic() - began > self.patience:
                    raise self.gave_up(server, error) from None
                if not is_told:
                    self.say(f"{server.url} does not answer ({error}): waiting, up to {self.patience:g} s")
                is_told = True
                self.revive()
                time.sleep(BETWEEN_LOOKS)

    def gave_up(self, server: Server, error: Exception) -> UserError:
        """The end of patience."""
        return UserError(
            "the server that draws answers does not answer",
            where=f"--rollout.url {server.url}",
            found=f"{error}, for {self.patience:g} s",
            expected="a vLLM server that answers; what the last checkpoint holds is not lost",
            fix="start the server and give the same command again, or --rollout heed, with another --out",
        )

    def draw(
        self,
        name_at: Callable[[Server], str],
        prompts: Sequence[Sequence[int]],
        ask: Ask,
        *,
        seed: int,
        numbers: Sequence[int],
        give_weights: Callable[[Server], None],
    ) -> list[list[Drawn]]:
        """Answers to each prompt, prompt i of server i modulo their number.

        Args:
            name_at: what the policy is called at a server.
            numbers: of the prompts among those of all processes.
            give_weights: gives a server that came back the weights that it lost, and proves that it has them.
        """
        found: dict[int, list[Drawn]] = {}
        last_answer = time.monotonic()
        failed: dict[Server, Exception] = {}

        def one(i: int) -> None:
            nonlocal last_answer
            server = self.servers[numbers[i] % len(self.servers)]
            if server in failed:
                return
            try:
                of_prompt = seed_of_prompt(seed, numbers[i])
                found[i] = server.draw(name_at(server), prompts[i], ask, seed=of_prompt, timeout=self.patience)
                last_answer = time.monotonic()
            except UnreachableError as error:
                failed[server] = error
            except RefusedError as error:
                if error.status != 404:  # started anew, it does not know the adapter
                    raise refusal(server, error) from None
                failed[server] = error

        with ThreadPoolExecutor(AT_A_TIME * len(self.servers)) as pool:
            while missing := [i for i in range(len(prompts)) if i not in found]:
                list(pool.map(one, missing))
                for server, error in failed.items():
                    if time.monotonic() - last_answer > self.patience:
                        raise self.gave_up(server, error)
                    num_left = sum(i not in found for i in missing)
                    self.say(f"{server.url} was lost ({error}): waiting for it, with {num_left:,} prompts to ask again")
                    self.revive()
                    time.sleep(BETWEEN_LOOKS)
                    self.until(server, server.facts, last_answer)
                    give_weights(server)
                failed.clear()
        return [found[i] for i in range(len(prompts))]


def refusal(server: Server, error: RefusedError) -> UserError:
    """What a server that understands will not do."""
    return UserError(
        "the server refuses to draw an answer",
        where=f"--rollout.url {server.url}",
        found=str(error)[:300],
        expected="answers to prompts given as token ids",
        fix="start the server as --rollout.start does, with the model of --model",
    )
