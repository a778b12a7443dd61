"""Prove on a GPU what heed promises: equal results, compiled kernels, speed and memory beside TRL and lm-eval.

    python tools/prove_on_gpu.py --out build/gpu                       # a card of 80 GB or more, about an hour
    python tools/prove_on_gpu.py --out build/cpu --device cpu --tiny   # the program itself, on any machine

Writes `proofs.json` and `proofs.md`, anew after every row; `finished` is false until the last one. Every part stands
alone: one that fails is a row that says how, and the rest goes on. The exit status is 1 where a row failed; what was
skipped says why and fails nothing.

Parts: `forest` (every family's loss and gradient by heed's forest and by the model's own forward), `device` (the same
and the losses of preference and policy training on this device and on the CPU), `kernels` (attention compiled, against
plain attention), `sft`, `dpo`, `eval`, `sample` (the programs in bench/, both sides in turns on the same card).
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
for folder in ("tests/models", "bench"):
    sys.path.insert(0, str(ROOT / folder))

import families  # noqa: E402  (of the tests)
from measure import machine, versions, wait_for_device  # noqa: E402  (of the benches)

from heed.forest.build import build  # noqa: E402
from heed.models.attention.layout import ForestLayout  # noqa: E402
from heed.models.attention.tree_attention import plain_tree_attention  # noqa: E402
from heed.models.score import autocast, forest_logp, forest_score, plain_logp, plain_score  # noqa: E402

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
BOUND = 2e-4
"""largest relative difference of a gradient, and of a loss: of two orders of float32 sums"""
TIMES, MOST = 2.0, 0.5
"""in bfloat16 both may be apart by so many times what the model's own forward loses against itself in float32: two
independent roundings; and never by more than half, for families in which a rounding sends a token elsewhere"""
LARGE = ("--layers", "18", "--width", "2048")
"""GPT-2's shape with a billion parameters"""
SMALL = ("--layers", "1", "--width", "64", "--pool", "64", "--repeats", "1", "--threads", "1")


@dataclass
class Row:
    """One line of the table."""

    part: str
    case: str
    status: str
    figures: dict[str, Any] = field(default_factory=dict)
    why: str = ""


class SkippedError(Exception):
    """A part that cannot run here, and why."""


Part = Callable[[argparse.Namespace], Iterator[tuple[str, Callable[[], dict[str, Any]]]]]
"""the cases of a part: a name, and what measures it; an assertion that does not hold fails the case"""


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the program, and prove nothing of speed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--families", nargs="+", help="of models [all]")
    parser.add_argument("--limit", type=float, default=3600, help="seconds that one measured program may take")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of every measurement, the sides in turns")
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use; --device cpu --tiny tries the program")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    write(options, rows, finished=False)
    for name in options.parts:
        for row in rows_of(name, PARTS[name], options):
            rows.append(row)
            print(f"{row.part:<8} {row.case:<44} {row.status:<8} {told(row)}", file=sys.stderr, flush=True)
            write(options, rows, finished=False)
    write(options, rows, finished=True)
    return int(any(row.status == FAILED for row in rows))


def rows_of(name: str, part: Part, options: argparse.Namespace) -> Iterator[Row]:
    """Every case as a row, whatever it raises."""
    try:
        cases = list(part(options))
    except Exception as error:
        yield failed(name, "", error)
        return
    for case, measure in cases:
        try:
            yield Row(name, case, PASSED, measure())
        except Exception as error:
            yield failed(name, case, error)


def failed(part: str, case: str, error: Exception) -> Row:
    """A row for what was raised."""
    if isinstance(error, SkippedError):
        return Row(part, case, SKIPPED, why=str(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:500]} ({Path(where.filename).name}:{where.lineno})"
    return Row(part, case, FAILED, why=why)


# ---- equivalence


def forest_cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Every family's gradient by the forest and by its own forward, in both precisions."""
    for family in options.families or families.FOREST:
        for dtype in ("float32", "bfloat16"):
            yield f"{family}, {dtype}", lambda family=family, dtype=dtype: forest_against_plain(options, family, dtype)


def on_device(family: str, device: str) -> Any:
    return families.tiny(family, dtype=torch.float32).to(device)


def forest_against_plain(options: argparse.Namespace, family: str, dtype: str) -> dict[str, Any]:
    """heed's forest, and the model's own forward over one sequence at a time."""
    model, forest = on_device(family, options.device), build(families.branching_sequences())
    apart = build(families.branching_sequences(), share=False)
    ours = scored(model, lambda: forest_score(model, forest)[0], dtype)
    theirs = scored(model, lambda: plain_score(model, apart, max_tokens=1)[0], dtype)
    if dtype == "float32":
        return compared(ours, theirs, BOUND)
    exact = scored(model, lambda: plain_score(model, apart, max_tokens=1)[0], "float32")
    lost = families.difference(theirs[1], exact[1])
    return compared(ours, theirs, min(MOST, TIMES * lost)) | {"lost by rounding": lost}


def scored(model: Any, loss_of: Callable[[], torch.Tensor], dtype: str) -> tuple[float, families.Gradient]:
    """A loss and its gradient."""
    model.zero_grad(set_to_none=True)
    with autocast(model.device, dtype):
        loss = loss_of()
    loss.backward()
    return loss.item(), {name: gradient.cpu() for name, gradient in families.gradient_of(model).items()}


def compared(ours: tuple[float, Any], theirs: tuple[float, Any], bound: float) -> dict[str, Any]:
    """How far losses and gradients are apart; beyond the bound it is a failure."""
    loss = abs(ours[0] - theirs[0]) / abs(theirs[0])
    gradient = families.difference(ours[1], theirs[1])
    assert loss <= bound, f"losses are {loss:.1e} apart, gradients {gradient:.1e}; the bound is {bound:.1e}"
    assert gradient <= bound, f"gradients are {gradient:.1e} apart; the bound is {bound:.1e}"
    return {"loss apart": loss, "gradient apart": gradient, "bound": bound}


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "supervised": lambda logp: -logp.sum(),
    "preferences": lambda logp: -torch.nn.functional.logsigmoid(0.1 * (logp[::2].sum() - logp[1::2].sum())),
    "policy": lambda logp: -(logp - logp.detach() - 0.1).exp().clamp(0.8, 1.2).sum() + 0.1 * (logp - 1).square().sum(),
}
"""of log-probabilities, with the shapes that training has: linear, a sigmoid of differences, clipped ratios"""


def device_cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Gradients of each kind of loss here and on the CPU."""
    for family in options.families or ("gpt2", "llama", "mistral with a window"):
        for loss in LOSSES:
            yield f"{family}, {loss}", lambda family=family, loss=loss: against_cpu(options, family, loss)


def against_cpu(options: argparse.Namespace, family: str, loss: str) -> dict[str, Any]:
    """heed's forest on this device, and the model's own forward on the CPU."""
    here, there = on_device(family, options.device), on_device(family, "cpu")
    forest, apart = (build(families.branching_sequences(), share=share) for share in (True, False))
    ours = scored(here, lambda: LOSSES[loss](forest_logp(here, forest).logp), "float32")
    theirs = scored(there, lambda: LOSSES[loss](plain_logp(there, apart).logp), "float32")
    return compared(ours, theirs, BOUND)


# ---- compiled kernels


def kernel_cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Compiled attention against plain attention, with the shapes of GPT-2 and of a Llama."""
    for shape, heads, key_heads, size in (("gpt2", 12, 12, 64), ("llama", 32, 8, 64), ("small heads", 4, 2, 8)):
        for dtype in (torch.float32, torch.bfloat16):
            for extra in ({}, {"window": 100}, {"softcap": 30.0}):
                name = f"{shape}, {str(dtype).removeprefix('torch.')}, {extra or 'tree'}"
                yield (
                    name,
                    lambda of=(heads, key_heads, size), dtype=dtype, extra=extra: attention(options, *of, dtype, extra),
                )


def attention(
    options: argparse.Namespace, heads: int, key_heads: int, size: int, dtype: torch.dtype, extra: dict[str, Any]
) -> dict[str, Any]:
    """Forward and backward compiled, how far from plain attention in float64, and what a call takes."""
    if options.device == "cpu":
        raise SkippedError("the compiled kernels are a GPU's")
    from heed.models.attention.flex import flex_tree_attention

    forest = build(families.branching_sequences() * (1 if options.tiny else 4), share=False)
    generator = torch.Generator().manual_seed(0)
    drawn = [
        torch.randn(1, count, forest.num_tokens, size, generator=generator).to(options.device, dtype)
        for count in (heads, key_heads, key_heads, heads)
    ]
    how = {"scale": size**-0.5, "window": None, "softcap": None, "sinks": None} | extra

    def run(attend: Callable[..., Any], *tensors: torch.Tensor) -> list[torch.Tensor]:
        learning = [x.detach().requires_grad_() for x in tensors[:3]]
        out = attend(*learning, ForestLayout.of(forest, torch.device(options.device)), **how)
        return [out.detach(), *torch.autograd.grad(out, learning, tensors[3])]

    began = time.perf_counter()
    found = run(flex_tree_attention, *drawn)
    wait_for_device()
    compiled_after = time.perf_counter() - began
    expected = run(plain_tree_attention, *(x.double() for x in drawn))
    apart = max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    assert apart <= bound, f"{apart:.1e} apart; the bound is {bound:g}"
    return {
        "apart": apart,
        "bound": bound,
        "compiled after s": compiled_after,
        "ms": median_ms(options.repeats, lambda: run(flex_tree_attention, *drawn)),
        "plain ms": median_ms(options.repeats, lambda: run(plain_tree_attention, *drawn)),
        "rounds": options.repeats,
    }


def median_ms(rounds: int, call: Callable[[], object]) -> float:
    """The median of so many calls, each waited for."""
    taken = []
    for _ in range(rounds):
        wait_for_device()
        began = time.perf_counter()
        call()
        wait_for_device()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


# ---- speed and memory


def bench_part(script: str, full: dict[str, tuple[str, ...]], tiny: tuple[str, ...], peer: str, alone: str) -> Part:
    """The cases of a program in bench/: by name its arguments, those of `--tiny`, and what it needs beside."""

    def cases(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for name, arguments in ({"tiny": tiny} if options.tiny else full).items():
            yield name, lambda arguments=arguments: bench(options, script, arguments, peer, alone)

    return cases


def bench(
    options: argparse.Namespace, script: str, arguments: tuple[str, ...], peer: str, alone: str
) -> dict[str, Any]:
    """Run the program; its whole line is kept, and what the table shows of it is picked out."""
    has_peer = peer in versions([peer])
    rounds = () if "--repeats" in arguments else ("--repeats", str(options.repeats))
    without = () if has_peer or not alone else (alone,)
    if not has_peer and not alone:
        raise SkippedError(f"{peer} is not installed")
    command = [sys.executable, str(ROOT / "bench" / script), "--device", options.device]
    status, told_out, told_err = run_to_end([*command, *arguments, *rounds, *without], options.limit)
    assert status is not None, f"{script} took longer than {options.limit:g} s and was ended"
    assert status == 0, f"{script} ended with status {status}: {told_err.strip()[-400:]}"
    line = json.loads(told_out.strip().splitlines()[-1])
    if not has_peer:
        line["note"] = f"heed alone: {peer} is not installed"
    return line


def run_to_end(command: list[str], limit: float) -> tuple[int | None, str, str]:
    """Its exit status and what it says; None where it took longer and was ended with all that it started."""
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    try:
        said = started.communicate(timeout=limit)
    except BaseException as error:  # an interrupted proof, too, leaves no program behind
        os.killpg(started.pid, signal.SIGKILL)
        said = started.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, *said
    return started.returncode, *said


SHORT = ("--steps", "1", "--search-steps", "1")
MODELS: dict[str, tuple[str, ...]] = {"gpt2 124M": (), "1B": LARGE}

PARTS: dict[str, Part] = {
    "forest": forest_cases,
    "device": device_cases,
    "kernels": kernel_cases,
    "sft": bench_part("sft.py", MODELS, (*SMALL, *SHORT), "trl", "--settings"),
    "dpo": bench_part("dpo.py", MODELS, (*SMALL, *SHORT), "trl", "--rows"),
    "eval": bench_part(
        "eval.py",
        {"gpt2 124M": ("--questions", "100"), "1B": (*LARGE, "--questions", "100")},
        ("--layers", "1", "--width", "64", "--threads", "1", "--questions", "2", "--search-questions", "1",
         "--beside-questions", "1", "--rows", "4", "--repeats", "1"),
        "lm_eval",
        "",
    ),
    "sample": bench_part("sample.py", {"lab 3M": ()}, ("--repeats", "1", "--threads", "1"), "transformers", ""),
}  # fmt: skip


# ---- results

SHOWN = ("cpu_ratio_vs_trl_best", "cpu_ratio", "memory_ratio", "memory_ratio_vs_trl_best", "tokens_per_second_ratio")


def told(row: Row) -> str:
    """A row's figures in a line."""
    figures = dict(row.figures)
    if "bench" in figures:
        sides = {name: figures.get(name) for name in ("heed", "trl_best", "hf")}
        walls = {f"{name} s": side["wall_seconds"] for name, side in sides.items() if isinstance(side, dict)}
        if len(walls) == 2:
            ours, theirs = walls.values()
            walls["times faster"] = theirs / ours
        figures = walls | {name: figures[name] for name in (*SHOWN, "note") if figures.get(name) is not None}
        if row.figures.get("device") == "cuda":  # a processor's seconds say little of a card's
            figures = {name: value for name, value in figures.items() if not name.startswith("cpu_ratio")}
    shown = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    ]
    return row.why or ", ".join(shown)


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Where it ran."""
    found: dict[str, Any] = {
        "device": options.device,
        "tiny": options.tiny,
        "machine": machine(),
        "versions": versions(["heed-lm", "torch", "triton", "transformers", "peft", "trl", "lm_eval"]),
        "system": platform.platform(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        except OSError:
            driver = "unknown: no nvidia-smi"
        found |= {
            "card": card.name,
            "card_memory_bytes": card.total_memory,
            "driver": driver,
            "cuda": torch.version.cuda,
        }
    return found


def write(options: argparse.Namespace, rows: list[Row], *, finished: bool) -> None:
    """Both files, after every row: what was measured stays, whatever comes."""
    where = environment(options)
    whole = {"environment": where, "finished": finished, "rows": [asdict(row) for row in rows]}
    replace(options.out / "proofs.json", json.dumps(whole, indent=1, default=str) + "\n")
    counts = {status: sum(row.status == status for row in rows) for status in (PASSED, FAILED, SKIPPED)}
    names = ("card", "driver", "cuda")
    title = [where["device"], *(f"{name} {where[name]}" for name in names if name in where)]
    title += [f"{name} {version}" for name, version in where["versions"].items()]
    lines = [
        ", ".join(title) + (" (sizes that prove nothing of speed)" if options.tiny else ""),
        "",
        ", ".join(f"{count} {status}" for status, count in counts.items()) + ("" if finished else "; not finished"),
        "",
        "| part | case | result | |",
        "|---|---|---|---|",
        *(f"| {row.part} | {row.case} | {row.status} | {told(row).replace('|', '/')} |" for row in rows),
    ]
    replace(options.out / "proofs.md", "\n".join(lines) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file whole, or leave it as it was."""
    beside = path.with_suffix(".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
