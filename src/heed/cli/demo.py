"""`heed demo` on the terminal: answers side by side, the table of the splits, honesty, and where to go from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from heed.config import DemoSettings
from heed.errors import typed
from heed.recipes import demo as recipe

NUM_SHOWN = 6
METHOD_NAMES = {
    "ppo": "PPO",
    "ppo beta 0": "PPO with beta 0",
    "grpo": "GRPO",
    "dpo": "DPO",
    "best of n": "best of n",
}
STAGE_NAMES = {"base": "base", "base_few_shot": "base, few-shot", "sft": "tuned", "ppo": "after PPO"}


def run(settings: DemoSettings) -> None:
    """Run the demonstration and print what came of it."""
    console = Console(highlight=False)

    def say(line: str) -> None:
        if not settings.print_json:
            print(line, flush=True)

    say("A base model completes text. heed tunes it to follow instructions, and measures what that did.")
    found = recipe.run(settings, say)
    if settings.print_json:
        print(json.dumps(summary(found, settings.out), ensure_ascii=False))
        return
    console.print()
    console.print(side_by_side(found))
    console.print(split_table(found))
    console.print(honesty_table(found))
    console.print(preference_table(found))
    if "comparison" in found["ppo"]:
        console.print(method_table(found["ppo"]["comparison"]))
    tuned = Path(settings.out) / "sft"
    seconds = sum(found["seconds"].values())
    console.print(f"{seconds:,.0f} seconds, at most {max(found['peak_memory_bytes'].values()) / 1e6:,.0f} MB of memory")
    console.print(f"the report: {Path(settings.out) / 'report.html'}", soft_wrap=True)
    console.print(f"talk to the tuned model: heed chat --model {typed(tuned)}", soft_wrap=True)
    console.print(f"or to what PPO made of it: heed chat --model {typed(Path(settings.out) / 'ppo')}", soft_wrap=True)


def summary(found: Mapping[str, Any], out: str) -> dict[str, Any]:
    """What `--json` prints."""
    optional = {key: found[key] for key in ("reward_model", "ppo", "cost") if key in found}
    return {
        "splits": found["splits"],
        "honesty": found["honesty"],
        **optional,
        "seconds": found["seconds"],
        "peak_memory_bytes": max(found["peak_memory_bytes"].values()),
        "run": out,
    }


def side_by_side(found: Mapping[str, Any]) -> Table:
    """What base and tuned model say to a few held-out instructions."""
    table = Table(title="The same held-out instruction, before and after", title_justify="left", expand=True)
    for title in ("instruction", "base", "tuned"):
        table.add_column(title, ratio=1, overflow="fold")
    for example in shown(found["examples"]):
        answers = example["answers"]
        table.add_row(Text(example["prompt"]), answer(answers["base"]), answer(answers["sft"]), end_section=True)
    return table


def shown(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each family in turn, translation first, from different families."""
    chosen: dict[str, dict[str, Any]] = {}
    for example in examples:
        chosen.setdefault(example["family"], example)
    ordered = list(chosen.values())
    step = max(1, len(ordered) // NUM_SHOWN)
    return ordered[::step][:NUM_SHOWN]


def answer(given: Mapping[str, Any]) -> Text:
    """An answer as it was given, marked right or wrong."""
    text = " ⏎ ".join(line for line in given["text"].strip().splitlines() if line.strip())
    mark = Text("✓ ", "green") if given["correct"] else Text("✗ ", "red")
    return mark + Text(text or "(nothing)", "" if text else "dim")


def split_table(found: Mapping[str, Any]) -> Table:
    """Accuracy with its 95% interval by split and stage."""
    table = Table(title="Right answers to held-out questions (how many), % [95% interval]", title_justify="left")
    table.add_column("split", no_wrap=True)
    for stage in found["stages"]:
        table.add_column(STAGE_NAMES.get(stage, stage), justify="right")
    for name, stages in found["splits"].items():
        cells = [percent(stages[stage], "accuracy") for stage in found["stages"]]
        table.add_row(f"{name.replace('_', ' ')} ({stages['base']['count']:,})", *cells)
    return table


def honesty_table(found: Mapping[str, Any]) -> Table:
    """The honesty numbers by stage."""
    table = Table(title="Honesty, against the truth of the model's world", title_justify="left")
    table.add_column("measure")
    for stage in found["stages"]:
        table.add_column(STAGE_NAMES.get(stage, stage), justify="right")
    honesty = [found["honesty"][stage] for stage in found["stages"]]
    rows = {
        "facts told often: answered right, %": [
            percent(h["knowledge"]["told_often"]["right"], "rate") for h in honesty
        ],
        "facts never told: “I don't know”, %": [percent(h["knowledge"]["untold"]["declined"], "rate") for h in honesty],
        "facts never told: an invented answer, %": [
            percent(h["knowledge"]["untold"]["wrong"], "rate") for h in honesty
        ],
        "calibration error (ECE)": [f"{h['calibration']['ece']:.3f}" for h in honesty],
        "“she” of a job, distance from the planted share": [
            f"{h['bias']['mean_absolute_difference']:.3f}" for h in honesty
        ],
        "NLL of held-out base text, nats per token": [f"{h['forgetting']['nll_per_token']:.3f}" for h in honesty],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def preference_table(found: Mapping[str, Any]) -> Table:
    """What annotators' rankings taught, and what PPO made of it."""
    table = Table(title="Learning from preferences, against the true (gold) reward", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    judge, ppo = found["reward_model"], found["ppo"]
    table.add_row("reward model: held-out comparisons right, %", percent(judge, "accuracy"))
    table.add_row("  allowed by the annotators' own errors, %", f"{100 * judge['noise_ceiling']:.0f}")
    table.add_row("gold reward of the tuned model", f"{ppo['gold_before']:.3f}")
    table.add_row("gold reward after PPO", f"{ppo['gold_after']:.3f}")
    gain = f"{ppo['gold_gain']:+.3f} [{ppo['gold_gain_low']:+.3f}, {ppo['gold_gain_high']:+.3f}]"
    table.add_row("  gain [95% interval]", gain)
    table.add_row("  gain of taking the best of 4 by the reward model", f"{ppo['best_of_4_gain']:+.3f}")
    table.add_row("KL to the tuned model, nats per answer", f"{ppo['kl']:.2f} of {ppo['kl_budget']:.0f}")
    return table


def method_table(ways: list[dict[str, Any]]) -> Table:
    """Where each method was best in true reward, and where it ended."""
    table = Table(title="The gold reward of each method, at its KL to the tuned model", title_justify="left")
    for title in ("method", "highest", "at nats", "at its end", "at nats"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for way in ways:
        best, last = max(way["curve"], key=lambda point: point["gold"]), way["curve"][-1]
        cells = [f"{point[key]:.2f}" for point in (best, last) for key in ("gold", "kl_per_sequence")]
        table.add_row(METHOD_NAMES[way["method"]], *cells)
    return table


def percent(score: Mapping[str, float], key: str) -> str:
    """`86 [83, 89]`."""
    return f"{100 * score[key]:.0f} [{100 * score['low']:.0f}, {100 * score['high']:.0f}]"
