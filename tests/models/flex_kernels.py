"""PyTorch's Triton kernels of FlexAttention without a GPU: interpreted, or compiled for an H100 or H200.

    python flex_kernels.py interpreted CASE...
    python flex_kernels.py compiled CASE...

Inductor is told that the CPU is a card with Triton. This reaches into PyTorch by names that are not public, in a
process of its own, so that nothing else sees it; for other releases than `TORCH` it says so and stops. One JSON line
for each case comes out.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTERPRETED, COMPILED = "interpreted", "compiled"
TORCH, TRITON = "2.13", "3.7"
"""the releases whose private names these are"""

CASES: dict[str, dict[str, Any]] = {
    "tree": {},
    "window": {"window": 7},
    "soft-cap": {"softcap": 0.7},
    "sinks": {"with_sinks": True},
    "all": {"window": 7, "softcap": 0.7, "with_sinks": True},
    # Sizes of real models, to be compiled: (dtype, head size)
    "gpt2 float32": {"head_size": 64, "heads": (12, 12)},
    "gpt2 bfloat16": {"dtype": "bfloat16", "head_size": 64, "heads": (12, 12)},
    "llama float32": {"head_size": 128, "heads": (8, 2)},
    "llama bfloat16": {"dtype": "bfloat16", "head_size": 128, "heads": (8, 2)},
    "gemma bfloat16": {"dtype": "bfloat16", "head_size": 256, "heads": (8, 2), "softcap": 50.0, "window": 100},
}


def main(way: str, names: list[str]) -> None:
    warnings.simplefilter("ignore")
    if way == INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as cache:  # so that nothing made here is ever taken for something else
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"] = cache
        pretend_card()
        take_kernels_on_cpu()
        run = interpreted if way == INTERPRETED else compiled
        for name in names:
            print(json.dumps({"case": name, **run(CASES[name])}), flush=True)


def pretend_card() -> None:
    """Let Inductor believe that Triton drives this machine's CPU as it would an H100: compute capability 9.0."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    if not (torch.__version__.startswith(TORCH) and triton.__version__.startswith(TRITON)):
        raise SystemExit(f"written for torch {TORCH} and triton {TRITON}")

    class Card(DriverBase):
        """Answers what is asked of a driver before anything runs."""

        def __init__(self) -> None:
            pass

        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

        def get_active_torch_device(self) -> Any:
            return torch.device("cpu")

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: Any = None) -> int:
            return 0

        def get_device_interface(self) -> None:
            return None

        def get_benchmarker(self) -> Any:
            raise NotImplementedError

        def get_empty_cache_for_benchmark(self) -> Any:
            raise NotImplementedError

    compiler = types.SimpleNamespace(supports_target=lambda target: False)
    triton.backends.backends["cpu"] = types.SimpleNamespace(compiler=compiler, driver=Card)
    triton.runtime.driver.set_active(Card())


def take_kernels_on_cpu() -> None:
    """Undo what keeps the CPU from FlexAttention's Triton kernels, and take a card's sizes of tiles."""
    import torch
    import torch._inductor.choices as choices
    import torch._inductor.codegen.triton as codegen
    import torch._inductor.config as inductor
    import torch._inductor.kernel.flex.flex_attention as kernels
    import torch._inductor.lowering as lowering
    import torch.nn.attention.flex_attention as flex_attention

    inductor.cpu_backend = "triton"
    inductor.force_disable_caches = True
    flex_attention._validate_device = lambda *tensors: None
    again(
        flex_attention._apply_kernel_options, "any_inputs_on_cpu_device = (", "any_inputs_on_cpu_device = False and ("
    )
    lower = again(inspect.unwrap(kernels.flex_attention), 'query.get_device().type == "cpu"', "False")
    lowering.register_lowering(torch.ops.higher_order.flex_attention, type_promotion_kind=None)(lower)
    if "TRITON_INTERPRET" in os.environ:  # the interpreter has no library of the device
        codegen.TritonKernelOverrides.tanh = staticmethod(lambda x: f"(2 * tl.sigmoid(2 * ({x})) - 1)")
    else:
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        choices.CPUConfigHeuristic = choices.CUDAConfigHeuristic


def again(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """Define a function anew in its own module with one expression replaced."""
    source = inspect.getsource(function)
    assert old in source, f"{function.__name__} is another in this release"
    source = source[source.index(f"def {function.__name__}(") :].replace(old, new)
    exec(compile(source, function.__code__.co_filename, "exec"), function.__globals__)
    return function.__globals__[function.__name__]


def forest_and_inputs(case: dict[str, Any]) -> tuple[Any, list[Any], Any, dict[str, Any]]:
    """A small forest, queries, keys and values that learn, the gradient of the result, and the other arguments."""
    import numpy as np
    import torch

    from heed.forest.build import build
    from heed.types import Tokens

    rng = np.random.default_rng(0)
    root, sequences = rng.integers(3, 97, 30), []
    for number in range(4):
        ids = np.concatenate([root[: 30 if number % 2 else 12], rng.integers(3, 97, int(rng.integers(40, 60)))])
        sequences.append(Tokens(ids.astype(np.int32), (np.arange(len(ids)) > 0).astype(np.float32)))
    forest = build(sequences)
    (heads, key_heads), size = case.get("heads", (2, 1)), case.get("head_size", 16)
    dtype = getattr(torch, case.get("dtype", "float32"))
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(1, count, forest.num_tokens, size, generator=generator).to(dtype)
        for count in (heads, key_heads, key_heads, heads)
    )
    learning = [x.requires_grad_() for x in (query, key, value)]
    sinks = torch.linspace(-1, 3, heads).requires_grad_() if case.get("with_sinks") else None
    how = {"scale": 0.3, "window": case.get("window"), "softcap": case.get("softcap"), "sinks": sinks}
    return forest, learning, grad, how


def attention(
    forest: Any, learning: list[Any], grad: Any, how: dict[str, Any], attend: Callable[..., Any]
) -> list[Any]:
    """The result and all gradients."""
    import torch

    from heed.models.attention.layout import ForestLayout

    out = attend(*learning, ForestLayout.of(forest, torch.device("cpu")), **how)
    asked = learning if how["sinks"] is None else [*learning, how["sinks"]]
    return [out.detach(), *torch.autograd.grad(out, asked, grad)]


def with_kernels() -> None:
    """Let heed's attention go to the kernels, with buffers that the interpreter can bear."""
    import torch

    from heed.models.attention import flex

    torch._dynamo.reset()
    flex.SMALLEST = 128
    flex.flex_attention = torch.compile(torch.nn.attention.flex_attention.flex_attention, dynamic=False)


def interpreted(case: dict[str, Any]) -> dict[str, Any]:
    """How far heed's attention by the interpreted kernels is from plain attention, and which kernels ran."""
    import torch
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner

    from heed.models.attention import flex
    from heed.models.attention.tree_attention import plain_tree_attention

    ran: list[str] = []
    run = CachingAutotuner.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(f"{self.inductor_meta.get('kernel_name')} by {type(self.fn).__name__}")
        return run(self, *args, **kwargs)

    CachingAutotuner.run = noted
    with_kernels()
    inputs = forest_and_inputs(case)
    try:
        found = attention(*inputs, flex.flex_tree_attention)
    finally:
        CachingAutotuner.run = run
    expected = attention(*inputs, plain_tree_attention)
    apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)]
    assert all(torch.isfinite(x).all() for x in found)
    return {"forward": apart[0], "gradients": apart[1:], "kernels": [name for name in ran if "tem" in name]}


def compiled(case: dict[str, Any]) -> dict[str, Any]:
    """What the compiled kernels, forward and backward, take of a card; none of them is run."""
    import torch
    import triton
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    from triton.backends.compiler import GPUTarget

    from heed.models.attention import flex

    found: list[dict[str, Any]] = []
    compile_here = triton.compile

    def compile_for_card(*args: Any, **kwargs: Any) -> Any:
        kernel = compile_here(*args, **{**kwargs, "target": GPUTarget("cuda", 90, 32)})
        found.append(
            {
                "name": kernel.metadata.name,
                "warps": kernel.metadata.num_warps,
                "shared": kernel.metadata.shared,
                "cubin": len(kernel.asm["cubin"]),
                **resources(kernel.asm["cubin"]),
            }
        )
        return kernel

    def compile_alone(self: Any, *args: Any, **kwargs: Any) -> None:
        if not self.launchers:
            self.precompile()

    def no_launchers(self: Any) -> None:
        self.launchers = [None]

    triton.compile, CachingAutotuner.run, CachingAutotuner._make_launchers = (
        compile_for_card,
        compile_alone,
        no_launchers,
    )
    with_kernels()
    forest, learning, grad, how = forest_and_inputs(case)
    with contextlib.suppress(torch._dynamo.exc.Unsupported):
        attention(forest, learning, grad, how, flex.flex_tree_attention)
    triton.compile = compile_here
    return {"kernels": [kernel for kernel in found if "tem" in kernel["name"]]}


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack and local memory, where what does not fit registers goes."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    words = [word.split(":") for word in told.stdout.split() if word.startswith(("REG:", "STACK:", "LOCAL:"))]
    return {name.lower(): int(number) for name, number in words}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
