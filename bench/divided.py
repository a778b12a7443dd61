"""What a process holds of a model that is divided: parameters, gradients, moments, and its peak memory.

    python bench/divided.py                       # 1, 2 and 4 processes
    python bench/divided.py --read-whole          # every process reads the whole model before it is divided

A Llama shape from a fixed seed, saved in float32, all parameters trained by `heed sft --parallel fsdp` for two steps of
a few short conversations, so that activations are little beside weights. `peak` is the kernel's high-water mark of a
process less what it had after its imports: `opened` when the model is divided, `trained` after the steps.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MB = 1e6
SECONDS_AT_MOST = 500


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--read-whole", action="store_true", help="divide what every process has read whole")
    parser.add_argument("--process", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def make(folder: Path, options: argparse.Namespace) -> int:
    """Write the model and a few conversations; returns its parameters."""
    import tokenizers
    import transformers as t
    from tokenizers import models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate(["<|endoftext|>", *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = t.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=options.width,
        intermediate_size=8 * options.width // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        max_position_embeddings=256,
        eos_token_id=0,
    )
    model = t.LlamaForCausalLM(config)
    model.save_pretrained(folder / "model", max_shard_size="100MB")
    t.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder / "model")
    records = [{"instruction": f"What is {i} and one?", "output": f"It is {i + 1}."} for i in range(16)]
    (folder / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return sum(parameter.numel() for parameter in model.parameters())


def resident(what: str) -> int:
    """Bytes of this process by the kernel's account: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))


def one(folder: Path, number: int, options: argparse.Namespace) -> None:
    """What a process does: the command line, measured on the way."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from heed.cli.main import main
    from heed.dist.divided import num_local_bytes
    from heed.recipes import ppo, sft  # noqa: F401 (what is imported late would count as the model's)
    from heed.recipes.training import setup

    found: dict[str, Any] = {"before": resident("VmRSS")}
    if options.read_whole:
        setup.may_be_divided = lambda settings, world: False
    make_optimiser = sft.optimiser_for

    def optimiser_for(*given: Any, **named: Any) -> Any:
        found["opened"] = resident("VmHWM") - found["before"]
        return make_optimiser(*given, **named)

    def before(optimiser: Any, *_: Any) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        found["parameters"] = num_local_bytes(parameters)
        found["gradients"] = num_local_bytes(p.grad for p in parameters if p.grad is not None)

    def after(optimiser: Any, *_: Any) -> None:
        states = (state for of in optimiser.state.values() for state in of.values())
        found["moments"] = num_local_bytes(states)
        found["trained"] = resident("VmHWM") - found["before"]

    sft.optimiser_for = optimiser_for
    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
    words = ["sft", "--model", str(folder / "model"), "--data", str(folder / "data.jsonl"), "--device", "cpu"]
    words += ["--out", str(folder / f"run-{number}"), "--steps", "2", "--batch-size", "8", "--template", "alpaca"]
    words += ["--held-out-share", "0", "--save-every", "0", *(["--parallel", "fsdp"] if number > 1 else [])]
    status = main(words)
    (folder / f"found-{number}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found), encoding="utf-8")
    sys.exit(status)


def together(folder: Path, number: int, options: argparse.Namespace) -> list[dict[str, int]]:
    """A run on so many processes; what each of them found."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    meeting = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if number > 1 else {}
    command = [sys.executable, __file__, "--process", str(folder), str(number)]
    command += ["--read-whole"] if options.read_whole else []
    started = []
    for rank in range(number):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else {}
        started.append(subprocess.Popen(command, env={**os.environ, **meeting, **own}, stderr=subprocess.PIPE))
    for process in started:
        _, told = process.communicate(timeout=SECONDS_AT_MOST)
        if process.returncode:
            raise SystemExit(told.decode())
    return [json.loads((folder / f"found-{number}-{rank}.json").read_text()) for rank in range(number)]


def main() -> None:
    """Measure, and print a table and one JSON line."""
    options = arguments()
    if options.process:
        one(Path(options.process[0]), int(options.process[1]), options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_parameters = make(folder, options)
        print(f"{num_parameters / 1e6:.1f}M parameters, {4 * num_parameters / MB:.0f} MB in float32", file=sys.stderr)
        columns = ("parameters", "gradients", "moments", "opened", "trained")
        print("processes rank " + " ".join(f"{column:>12}" for column in columns) + "   MB", file=sys.stderr)
        result = {}
        for number in options.processes:
            result[number] = together(folder, number, options)
            for rank, found in enumerate(result[number]):
                numbers = " ".join(f"{found[column] / MB:12.1f}" for column in columns)
                print(f"{number:>9} {rank:>4} {numbers}", file=sys.stderr)
    told = {"bench": "divided", "num_parameters": num_parameters, "read_whole": options.read_whole, "processes": result}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
