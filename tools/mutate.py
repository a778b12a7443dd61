"""Show that the tests of the numerics can fail: apply wrong edits one by one, each of which must turn them red.

python tools/mutate.py                    # all; minutes
python tools/mutate.py forest/build head  # those whose file or name contains one of these words
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 600
COPIED = ("src", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """A wrong edit of a file under `src/heed`; `old` is in it exactly once."""

    file: str
    name: str
    old: str
    new: str


TESTS = {
    "forest/build.py": "tests/forest",
    "forest/plan.py": "tests/forest/test_plan.py",
    "forest/weights.py": "tests/forest/test_weights.py",
    "objectives/supervised.py": "tests/objectives/test_supervised.py",
    "models/head.py": "tests/models/test_head.py tests/models/test_adapters.py tests/models/test_families.py",
    "models/tree_attention.py": "tests/models/test_tree_attention.py tests/models/test_families.py",
    "models/rows.py": "tests/models/test_row_attention.py",
    "models/row_attention.py": "tests/models/test_row_attention.py",
    "models/draw.py": "tests/models/test_sample.py",
    "evaluate/intervals.py": "tests/evaluate/test_intervals.py",
    "evaluate/calibration.py": "tests/evaluate/test_calibration.py",
    "evaluate/bias.py": "tests/evaluate/test_bias.py",
    "evaluate/knowledge.py": "tests/evaluate/test_knowledge.py",
    "models/flex.py": "tests/models/test_tree_attention.py",
    "models/layout.py": "tests/models/test_tree_attention.py tests/models/test_self_check.py",
    "models/attention.py": "tests/models/test_families.py tests/models/test_self_check.py",
    "models/score.py": "tests/models/test_families.py tests/models/test_adapters.py",
    "models/check.py": "tests/models/test_self_check.py tests/models/test_families.py",
    "models/matmul.py": "tests/models/test_matmul.py",
    "models/speed.py": "tests/models/test_speed.py tests/models/test_families.py",
    "models/adapters.py": "tests/models/test_adapters.py",
    "models/load.py": "tests/models/test_families.py",
    "train/step.py": "tests/train/test_step.py",
    "train/optimiser.py": "tests/train/test_optimiser.py",
    "train/schedule.py": "tests/train/test_schedule.py",
    "recipes/sft.py": "tests/recipes/test_equivalence.py",
}
"""which tests must notice a wrong edit of a file, the quickest first"""

M = Mutation
BUILD, PLAN, WEIGHTS = "forest/build.py", "forest/plan.py", "forest/weights.py"
HEAD, TREE, FLEX, ATTENTION = "models/head.py", "models/tree_attention.py", "models/flex.py", "models/attention.py"
SCORE, CHECK, MATMUL, SPEED = "models/score.py", "models/check.py", "models/matmul.py", "models/speed.py"
STEP, OPTIMISER, SCHEDULE, SFT = "train/step.py", "train/optimiser.py", "train/schedule.py", "recipes/sft.py"
LAYOUT, LOAD, ADAPTERS = "models/layout.py", "models/load.py", "models/adapters.py"
SUPERVISED = "objectives/supervised.py"
ROWS, ROW, DRAW = "models/rows.py", "models/row_attention.py", "models/draw.py"
INTERVALS, CALIBRATION = "evaluate/intervals.py", "evaluate/calibration.py"
BIAS, KNOWLEDGE = "evaluate/bias.py", "evaluate/knowledge.py"

MUTATIONS = [
    M(BUILD, "no shift by one", "path[np.flatnonzero(tokens.weight) - 1]", "path[np.flatnonzero(tokens.weight)]"),
    M(BUILD, "sequences in the order given", "key=lambda i: sort_key(sequences[i].ids)) if share", "key=int) if share"),
    M(BUILD, "bytes the wrong way round", '.astype(">i4")', '.astype("<i4")'),
    M(BUILD, "one token too few shared", "int(different[0]) if", "max(0, int(different[0]) - 1) if"),
    M(BUILD, "a contained sequence shares nothing", "if len(different) else length", "if len(different) else 0"),
    M(
        BUILD,
        "positions in the buffer",
        "position.append(np.arange(num_shared, len(tokens)))",
        "position.append(np.arange(num_tokens, num_tokens + num_new))",
    ),
    M(
        BUILD,
        "shared though not asked",
        "common_prefix(previous, tokens.ids) if share else 0",
        "common_prefix(previous, tokens.ids)",
    ),
    M(BUILD, "the last path is not closed", "    closings.append((path, num_tokens))\n", ""),
    M(
        BUILD,
        "subtrees closed one token early",
        "closings.append((path[num_shared:], num_tokens))",
        "closings.append((path[num_shared:], num_tokens - 1))",
    ),
    M(
        BUILD,
        "sources in the order of the buffer",
        "sources[index] for index in range(len(sequences))",
        "sources[index] for index in order",
    ),
    M(BUILD, "weights in float32", "                np.float64\n", "                np.float32\n"),
    M(BUILD, "any first token", "or tokens.weight[0] != 0", ""),
    M(BUILD, "empty sequences", "len(tokens) == 0 or", ""),
    M(BUILD, "shared tokens are not counted", "sum(len(tokens) for tokens in sequences)", "num_tokens"),
    M(
        BUILD,
        "the second to last token is the last",
        "last[index] = path[-1]",
        "last[index] = path[max(-2, -len(path))]",
    ),
    M(BUILD, "trees next to each other are one node", "np.diff(ends, prepend=-1)", "np.diff(ends, prepend=-1) > 0"),
    M(PLAN, "budget overrun by one", "if self.num_tokens <= max_tokens:", "if self.num_tokens <= max_tokens + 1:"),
    M(PLAN, "budget not used up", "if self.num_tokens <= max_tokens:", "if self.num_tokens < max_tokens:"),
    M(
        PLAN,
        "a new forward counts from where the last was",
        "            size = SharedSize(share)\n            size.add",
        "            size.add",
    ),
    M(PLAN, "the first group is not counted", "            size.add(groups[index])\n", ""),
    M(
        PLAN,
        "order given",
        "sorted(range(len(groups)), key=lambda i: sort_key(groups[i][0].ids)) if share else",
        "range(len(groups)) if share else",
    ),
    M(PLAN, "only the left neighbour", "self.sorted[max(0, at - 1) : at + 1]", "self.sorted[max(0, at - 1) : at]"),
    M(PLAN, "only the right neighbour", "self.sorted[max(0, at - 1) : at + 1]", "self.sorted[at : at + 1]"),
    M(PLAN, "sharing counted where there is none", "        if not self.share:\n            return len(ids)\n", ""),
    M(
        PLAN,
        "a refused group still counts",
        "self.num_tokens, self.sorted = before[0], before[1]",
        "self.sorted = before[1]",
    ),
    M(
        PLAN,
        "a refused group is still shared with",
        "self.num_tokens, self.sorted = before[0], before[1]",
        "self.num_tokens = before[0]",
    ),
    M(PLAN, "even budget too small", "return high", "return low"),
    M(
        PLAN,
        "even budget of the unshared",
        "len(plan(groups, middle, share=share))",
        "len(plan(groups, middle, share=False))",
    ),
    M(
        PLAN,
        "forwards rounded down",
        "-(-num_forwards // multiple_of) * multiple_of",
        "num_forwards // multiple_of * multiple_of",
    ),
    M(PLAN, "processes forgotten", "    num_forwards = -(-num_forwards // multiple_of) * multiple_of\n", ""),
    M(
        WEIGHTS,
        "each branch a conversation",
        "total = sum(float(tokens.weight.sum(dtype=np.float64)) for tokens in group)",
        "total = float(group[0].weight.sum(dtype=np.float64))",
    ),
    M(WEIGHTS, "rounded to float32", "np.float64(total)", "np.float32(total)"),
    M(WEIGHTS, "counted, not summed", "float(tokens.weight.sum(dtype=np.float64))", "float((tokens.weight > 0).sum())"),
    M(WEIGHTS, "the other mean", 'mean_over == "token"', 'mean_over == "sequence"'),
    M(SUPERVISED, "sign", "-weight * logp", "weight * logp"),
    M(SUPERVISED, "no weight", "-weight * logp", "-logp"),
    M(HEAD, "no division by the sum", "(row_weight / total)[:, None]", "row_weight[:, None]"),
    M(HEAD, "row weight forgotten", "(row_weight / total)[:, None]", "(1 / total)[:, None]"),
    M(HEAD, "a target twice counts once", "-weight[entries], accumulate=True", "-weight[entries], accumulate=False"),
    M(
        HEAD,
        "weights of other entries",
        "index_put_((local, tokens), -weight[entries]",
        "index_put_((local, tokens), -weight[: len(entries)]",
    ),
    M(
        HEAD,
        "logp in the order of rows",
        "logp[entries] = chosen - total.log()[local]",
        "logp[bounds[chunk.start] : bounds[chunk.stop]] = chosen - total.log()[local]",
    ),
    M(HEAD, "no largest logit taken off", "logits.sub_(logits.amax(dim=-1, keepdim=True))", "logits"),
    M(HEAD, "rows counted from the batch's start", "row[entries] - chunk.start, target", "row[entries], target"),
    M(HEAD, "soft-cap's slope forgotten", "grad.mul_(1 - (logits / self.softcap).square_())", "pass"),
    M(
        HEAD,
        "soft-cap's slope of the softmax",
        "logits.clone() if head.softcap is not None and (needs_rows or needs_weight) else",
        "logits",
    ),
    M(HEAD, "scale's slope forgotten", "return grad.mul_(self.scale) if self.scale != 1.0 else grad", "return grad"),
    M(
        HEAD,
        "scale or soft-cap, not both",
        "logits = logits * scale if logits.requires_grad else logits.mul_(scale)",
        "logits = logits * (scale if softcap is None else 1.0)",
    ),
    M(HEAD, "Granite multiplied", "scale /= divisor", "scale *= divisor"),
    M(HEAD, "Cohere forgotten", 'getattr(config, "logit_scale", None) or 1.0', "1.0"),
    M(HEAD, "Gemma forgotten", 'getattr(config, "final_logit_softcapping", None)\n', "None\n"),
    M(HEAD, "an adapter's head taken for a plain one", "if type(layer) is not torch.nn.Linear:", "if False:"),
    M(
        HEAD,
        "head's gradient of the last chunk",
        "add_transposed_product(grad_weight,",
        "grad_weight.zero_(); add_transposed_product(grad_weight,",
    ),
    M(HEAD, "bias's gradient of the last chunk", "grad_bias.add_(grad.sum(0))", "grad_bias.copy_(grad.sum(0))"),
    M(HEAD, "factor on the loss forgotten", "if grad_loss.item() != 1.0:", "if False:"),
    M(
        HEAD,
        "weight forgotten in the loss",
        "return -(weight * logp).sum(), logp\n\n    @staticmethod",
        "return -logp.sum(), logp\n\n    @staticmethod",
    ),
    M(HEAD, "gradients while measuring", "if not torch.is_grad_enabled():", "if False:"),
    M(HEAD, "autocast forgotten", "if torch.is_autocast_enabled(device):", "if False:"),
    M(HEAD, "logits kept in bfloat16", "return dtype if dtype == torch.float64 else torch.float32", "return dtype"),
    M(
        HEAD,
        "chunks over their size",
        "max(1, -(-num_rows // max(1, CHUNK_ELEMENTS // vocabulary)))",
        "max(1, num_rows * vocabulary // CHUNK_ELEMENTS)",
    ),
    M(
        TREE,
        "no causal mask in a node",
        "0.0, mask is None, attn_mask=mask, scale=scale\n            )\n        # A",
        "0.0, False, attn_mask=mask, scale=scale\n            )\n        # A",
    ),
    M(TREE, "ancestors forgotten", "            merge(out[:, :, below]", "            0 and merge(out[:, :, below]"),
    M(TREE, "sums not merged", "    log_sum.copy_(merged)\n", ""),
    M(TREE, "old output not scaled", "    out.mul_((log_sum - merged).exp_().unsqueeze(-1).to(out.dtype))\n", ""),
    M(TREE, "new output not scaled", "(block_log_sum - merged).exp_()", "(block_log_sum - block_log_sum).exp_()"),
    M(TREE, "blind queries see", 'block_log_sum = block_log_sum.masked_fill(blind, float("-inf"))', "pass"),
    M(
        TREE,
        "default scale in the forward",
        "query[:, :, below], key[:, :, own], value[:, :, own], 0.0, False, attn_mask=mask, scale=scale",
        "query[:, :, below], key[:, :, own], value[:, :, own], 0.0, False, attn_mask=mask",
    ),
    M(TREE, "default scale in the backward", "attn_mask=mask, scale=ctx.scale,", "attn_mask=mask,"),
    M(TREE, "backward without ancestors", "for rows in (own, below) if end > stop else (own,):", "for rows in (own,):"),
    M(
        TREE,
        "queries' gradients overwritten",
        "(is_root(ctx.layout, start), rows is own, rows is own)",
        "(True, rows is own, rows is own)",
    ),
    M(
        TREE,
        "gradients onto what was in memory",
        "(is_root(ctx.layout, start), rows is own, rows is own)",
        "(is_root(ctx.layout, start), False, False)",
    ),
    M(TREE, "keys' gradients from one block", "grad[:, :, at] += part", "grad[:, :, at] = part"),
    M(
        TREE,
        "no window in the backward",
        "window_mask(ctx.layout, rows, own, ctx.window, query)",
        "window_mask(ctx.layout, rows, own, None, query)",
    ),
    M(
        TREE,
        "windows count in the buffer",
        "row, column = layout.position[rows, None], layout.position[None, columns]",
        "every = torch.arange(len(layout.position)); row, column = every[rows, None], every[None, columns]",
    ),
    M(
        TREE,
        "windows one wider",
        "hidden = (distance >= window) | (distance < 0)",
        "hidden = (distance > window) | (distance < 0)",
    ),
    M(TREE, "windows see the future", "hidden = (distance >= window) | (distance < 0)", "hidden = distance >= window"),
    M(TREE, "windows that cut little are skipped", "(distance.max() >= window)", "(distance.max() > window + 1)"),
    M(TREE, "one mask for all windows", "columns.stop, window, like.dtype)", "columns.stop, like.dtype)"),
    M(
        TREE,
        "plain: windows one wider",
        "(distance < 0) | (distance >= window)\n        scores",
        "(distance < 0) | (distance > window)\n        scores",
    ),
    M(
        TREE,
        "plain: ancestors forgotten",
        "spans = [*layout.ancestors(start), (start, stop)]",
        "spans = [(start, stop)]",
    ),
    M(
        TREE,
        "plain: sinks forgotten",
        "        if sinks is not None:\n            log_sum",
        "        if False:\n            log_sum",
    ),
    M(
        TREE,
        "plain: soft-cap after the mask forgotten",
        "scores = softcap * torch.tanh(scores / softcap)",
        "scores = torch.tanh(scores / softcap)",
    ),
    M(
        TREE,
        "plain: heads grouped the other way",
        "x.repeat_interleave(groups, dim=1) if groups > 1",
        "x.repeat(1, groups, 1, 1) if groups > 1",
    ),
    M(FLEX, "causal over the buffer", "(column <= row) & (row < subtree_end[column])", "column <= row"),
    M(FLEX, "sees the future", "(column <= row) & (row < subtree_end[column])", "row < subtree_end[column]"),
    M(FLEX, "windows count in the buffer", "position[row] - position[column] < window", "row - column < window"),
    M(FLEX, "sinks' sign", "extra.lse - sinks", "extra.lse + sinks"),
    M(FLEX, "soft-cap forgotten", "score_mod=None if softcap is None else capped", "score_mod=None"),
    M(FLEX, "one mask for all windows", "if window not in layout.block_masks:", "if not layout.block_masks:"),
    M(FLEX, "padding kept", "out[:, :, :length]", "out[:, :, -length:]"),
    M(FLEX, "default scale", "        scale=scale,\n", ""),
    M(LAYOUT, "siblings are ancestors", "if b <= start < end]", "if b <= start]"),
    M(ATTENTION, "calls not counted", "forest.num_attention_calls += 1", "pass"),
    M(
        ATTENTION,
        "the family's scale ignored",
        "query.shape[-1] ** -0.5 if scaling is None else scaling",
        "query.shape[-1] ** -0.5",
    ),
    M(
        ATTENTION,
        "no window",
        "out = tree_attention(query, key, value, forest, scale=scale, window=sliding_window)",
        "out = tree_attention(query, key, value, forest, scale=scale, window=None)",
    ),
    M(ATTENTION, "soft-caps and sinks by the fused kernel", "elif softcap is None and s_aux is None and", "elif"),
    M(ATTENTION, "heads and tokens swapped", "return out.transpose(1, 2), None", "return out, None"),
    M(
        ATTENTION,
        "another attention stays behind",
        "            config._attn_implementation_internal = was",
        "            pass",
    ),
    M(
        ATTENTION,
        "SDPA though the family has none",
        '"sdpa" if getattr(model, "_supports_sdpa", False) else "eager"',
        '"sdpa"',
    ),
    M(SCORE, "positions in the buffer", "position_ids=layout.position[None], ", ""),
    M(
        SCORE,
        "rows of a sorted order",
        "source, row = torch.unique(forest.source.to(device), return_inverse=True)",
        "source, row = forest.source.to(device), forest.target.argsort()",
    ),
    M(SCORE, "multipliers forgotten on an adapted head", "adjusted(logits, *adjustment(model))[row]", "logits[row]"),
    M(SCORE, "plain rows not shifted to their start", "forest.source[chosen] - low", "forest.source[chosen]"),
    M(SCORE, "plain logp in the order of forwards", "logp[chosen.to(device)] = part", "logp[: len(part)] = part"),
    M(SCORE, "plain loss of the last forward", "total = total.to(loss.dtype) + loss", "total = loss"),
    M(
        SCORE,
        "dense weights forgotten",
        "return -(weight.to(logp.dtype) * logp).sum(), logp.detach()",
        "return -logp.sum(), logp.detach()",
    ),
    M(CHECK, "calls not looked at", "if layout.num_attention_calls != num_layers:", "if False:"),
    M(CHECK, "any difference is fine", "difference <= tolerance", "True"),
    M(
        CHECK,
        "numbers that are none are fine",
        "None if difference <= tolerance else f",
        "None if not difference > tolerance else f",
    ),
    M(CHECK, "a tolerance that sees nothing", "torch.float32: 1e-3}", "torch.float32: 1e1}"),
    M(
        CHECK,
        "errors escape",
        "except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)",
        "except ZeroDivisionError",
    ),
    M(CHECK, "the window is never outgrown", "if window is not None and longest_in_data > window:", "if False:"),
    M(
        CHECK,
        "a window that the data does not outgrow is probed",
        "if window is not None and longest_in_data > window:",
        "if window is not None:",
    ),
    M(CHECK, "longer than the model's positions", "everything_trained(x[:limit])", "everything_trained(x)"),
    M(
        CHECK,
        "one branching only",
        "third = np.concatenate([second[: half + (len(second) - half) // 2], ids[:32]])",
        "third = np.concatenate([ids[:half], ids[:32]])",
    ),
    M(CHECK, "longrope trusted", 'LONGEST_DECIDES = ("longrope", "dynamic")', 'LONGEST_DECIDES = ("dynamic",)'),
    M(
        CHECK,
        "longrope padded",
        "return ChosenScore(one_by_one, False, f",
        "return ChosenScore(partial(plain_score, model), False, f",
    ),
    M(
        CHECK,
        "RoPE by layer type overlooked",
        "by_layer_type = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]",
        "by_layer_type = [parameters]",
    ),
    M(CHECK, "chunked attention trusted", 'getattr(config, "attention_chunk_size", None)', "False"),
    M(CHECK, "windows that are switched off", 'getattr(config, "use_sliding_window", True) is False', "False"),
    M(
        CHECK,
        "sharing whether asked or not",
        "partial(forest_score, model), share,",
        "partial(forest_score, model), True,",
    ),
    M(
        MATMUL,
        "input's gradient by the wrong side",
        "grad_x = onednn(grad, weight.t(), None)",
        "grad_x = onednn(grad, weight, None)",
    ),
    M(MATMUL, "bias's gradient a mean", "grad.sum(0) if needs_bias", "grad.mean(0) if needs_bias"),
    M(
        MATMUL,
        "bias dropped",
        "return onednn(x, weight, bias)\n\n    @staticmethod",
        "return onednn(x, weight, None)\n\n    @staticmethod",
    ),
    M(MATMUL, "the last band alone", "total[band].add_(onednn", "total[band].copy_(onednn"),
    M(MATMUL, "added to nothing", "total.addmm_(x.t(), y)", "total.copy_(x.t() @ y)"),
    M(
        MATMUL,
        "bands of x only",
        "onednn(x[:, band].t(), y.t(), None)",
        "onednn(x[:, : band.stop - band.start].t(), y.t(), None)",
    ),
    M(MATMUL, "float64 by oneDNN", "x.dtype == torch.float32 and ", ""),
    M(MATMUL, "empty inputs by oneDNN", " and x.numel() > 0", ""),
    M(MATMUL, "autocast overlooked", ' or torch.is_autocast_enabled("cpu")', ""),
    M(
        MATMUL,
        "Conv1D not transposed",
        "linear(x, module.weight.t(), module.bias)",
        "linear(x, module.weight, module.bias)",
    ),
    M(MATMUL, "buffer not filled", "return product if out is None else out.copy_(product)", "return product"),
    M(SPEED, "exact GELU", 'partial(gelu, approximate="tanh")', "gelu"),
    M(
        SPEED,
        "norms taken at their word",
        "if torch.allclose(fused_rms_norm(module, probe, offset=offset, eps=eps), expected, rtol=1e-5, atol=1e-5):",
        "if True:",
    ),
    M(SPEED, "a probe's weights stay", "        weight.copy_(kept)\n", ""),
    M(SPEED, "Gemma's norms left alone", "for offset in (0.0, 1.0):", "for offset in (0.0,):"),
    M(
        SPEED,
        "another epsilon",
        "return rms_norm(x, weight.shape, weight.to(x.dtype), eps)",
        "return rms_norm(x, weight.shape, weight.to(x.dtype), 1e-5)",
    ),
    M(SPEED, "statistics in half precision", "if x.dtype in (torch.bfloat16, torch.float16):", "if False:"),
    M(
        SPEED,
        "rows read twice learn once",
        "table.grad.index_add_(0, ids, grad.to(table.grad.dtype))",
        "table.grad[ids] += grad.to(table.grad.dtype)",
    ),
    M(SPEED, "a table forgets the micro-batch before", "if table.grad is None:", "if True:"),
    M(SPEED, "padding learns", "if ctx.padding_idx is not None:", "if False:"),
    M(SPEED, "a computed table keeps its gradient", " and module.weight.is_leaf", ""),
    M(LOAD, "recomputed with another attention", '"context_fn": same_attention', '"use_reentrant": False'),
    M(LOAD, "dropout stays on", "    model.eval()\n    if not gradient", "    if not gradient"),
    M(LOAD, "nothing is recomputed", "            module.training = True\n", "            pass\n"),
    M(
        ADAPTERS,
        "new tokens frozen",
        "trainable_token_indices=_rows_of(loaded, new_token_ids) or None",
        "trainable_token_indices=None",
    ),
    M(
        ADAPTERS,
        "the head's rows frozen",
        "layers = [inner] if inner.weight is outer.weight else [inner, outer]",
        "layers = [inner]",
    ),
    M(ADAPTERS, "alpha ignored", "lora_alpha=alpha", "lora_alpha=rank"),
    M(STEP, "mean of means", "loss_of(batch.divided_by(count))", "loss_of(batch.divided_by(batch.total_weight))"),
    M(
        STEP,
        "divided by trained tokens",
        "sum(b.total_weight for b in micro_batches)",
        "sum(b.num_trained_tokens for b in micro_batches)",
    ),
    M(
        STEP,
        "every process divides by its own",
        "count = float(world.sum(torch.tensor(",
        "count = float((torch.tensor(",
    ),
    M(STEP, "gradients not summed", "    world.sum_gradients(parameters)\n", ""),
    M(
        STEP,
        "clipped before they are summed",
        "    world.sum_gradients(parameters)\n    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))",
        "    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))\n    world.sum_gradients(parameters)",
    ),
    M(STEP, "no clipping", "clip_grad_norm_(parameters, max_norm)", 'clip_grad_norm_(parameters, float("inf"))'),
    M(
        STEP,
        "largest entry for the norm",
        "clip_grad_norm_(parameters, max_norm)",
        'clip_grad_norm_(parameters, max_norm, norm_type=float("inf"))',
    ),
    M(STEP, "gradient's numbers not looked at", 'norm < float("inf") and abs', "abs"),
    M(STEP, "steps before looking", "    if not (norm", "    optimiser.step()\n    if not (norm"),
    M(STEP, "a bad gradient stays", "        optimiser.zero_grad(set_to_none=True)\n        raise", "        raise"),
    M(
        STEP,
        "gradients stay for the next step",
        "    optimiser.step()\n    optimiser.zero_grad(set_to_none=True)",
        "    optimiser.step()",
    ),
    M(STEP, "no step", "    optimiser.step()\n    optimiser.zero_grad", "    optimiser.zero_grad"),
    M(STEP, "loss of one process", "world.sum(sums).tolist()", "sums.tolist()"),
    M(STEP, "NLL's sign", "-logp_sum / num_tokens", "logp_sum / num_tokens"),
    M(STEP, "NLL per unit of weight", "-logp_sum / num_tokens", "-logp_sum / count"),
    M(STEP, "measuring learns", "@torch.no_grad()\n", ""),
    M(
        OPTIMISER,
        "norms decayed",
        '[p for p in trained if p.dim() < 2], "weight_decay": 0.0',
        '[p for p in trained if p.dim() < 2], "weight_decay": weight_decay',
    ),
    M(OPTIMISER, "nothing decayed", '"weight_decay": weight_decay}', '"weight_decay": 0.0}'),
    M(OPTIMISER, "L2 instead of decay", "torch.optim.AdamW(", "torch.optim.Adam("),
    M(OPTIMISER, "frozen weights too", " if parameter.requires_grad]", "]"),
    M(OPTIMISER, "a rate of its own at the start", "lr=0.0", "lr=0.001"),
    M(
        OPTIMISER,
        "one group's rate",
        "    for group in optimiser.param_groups:",
        "    for group in optimiser.param_groups[:1]:",
    ),
    M(SCHEDULE, "warm-up one step short", "(warmup_steps + 1)", "max(1, warmup_steps)"),
    M(SCHEDULE, "decay a step early", "(step - 1 - warmup_steps)", "(step - warmup_steps)"),
    M(SCHEDULE, "half a cosine upside down", "(1 + math.cos", "(1 - math.cos"),
    M(SCHEDULE, "half the peak", "progress)) / 2", "progress)) / 4"),
    M(SCHEDULE, "linear is cosine", 'if shape == "linear":', "if False:"),
    M(SCHEDULE, "any step", "if not 1 <= step <= total_steps:", "if False:"),
    M(
        SFT,
        "every process takes all",
        "[self.world.rank :: self.world.size]\n        return [build",
        "\n        return [build",
    ),
    M(
        SFT,
        "some forwards are lost",
        "[self.world.rank :: self.world.size]\n        return [build",
        "[: -1 or None]\n        return [build",
    ),
    M(
        SFT,
        "weights before weighing",
        "tokens for i in forward for tokens in groups[i]",
        "tokens for i in forward for tokens in conversations[i]",
    ),
    M(SFT, "shared whatever the model", "for tokens in groups[i]], share=share)", "for tokens in groups[i]])"),
    M(ROWS, "rows however long", "if len(paths[0]) > LONGEST_ROW:", "if False:"),
    M(ROWS, "copies without a limit", "> MOST_COPIES * num_tokens:", "> 1e9 * num_tokens:"),
    M(ROWS, "a closed node stays above", "above[-1][2] <= start", "above[-1][2] < start"),
    M(ROWS, "places of a batch not counted on", "            begun += longest", "            begun += len(path)"),
    M(ROW, "not causal", "forward_block(q, k, v, 0.0, True,", "forward_block(q, k, v, 0.0, False,"),
    M(ROW, "keys of later places forgotten", ".index_add_(0, rows.again_token, x[rows.again])", ""),
    M(ROW, "no scale in the backward", "attn_mask=None, scale=ctx.scale", "attn_mask=None, scale=1.0"),
    M(
        DRAW,
        "temperature the wrong way",
        "logp.double() / sampling.temperature",
        "logp.double() * sampling.temperature",
    ),
    M(DRAW, "one token too many of top-k", "scaled.topk(sampling.top_k,", "scaled.topk(sampling.top_k + 1,"),
    M(INTERVALS, "no z in the middle", "middle = num_successes + Z_95**2 / 2", "middle = num_successes"),
    M(INTERVALS, "half the reach", "reach = Z_95 *", "reach = 0.5 * Z_95 *"),
    M(CALIBRATION, "bins closed below", 'side="left")', 'side="right")'),
    M(CALIBRATION, "signed calibration error", "abs(one.accuracy - one.confidence)", "(one.accuracy - one.confidence)"),
    M(CALIBRATION, "Brier without the square", "math.fsum((confidence - right) ** 2)", "math.fsum(confidence - right)"),
    M(BIAS, "signed bias", "math.fsum(abs(one.measured - one.planted)", "math.fsum((one.measured - one.planted)"),
    M(
        KNOWLEDGE,
        "nothing is right",
        '    if is_right:\n        return "right"',
        '    if False:\n        return "right"',
    ),
]


def run_tests(folder: Path, tests: str) -> bool:
    """Whether the tests pass on the copy of the project in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    running = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return running.wait(timeout=TIMEOUT_SECONDS) == 0
    except subprocess.TimeoutExpired:  # an edit that never ends is noticed; so are processes that wait for each other
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        return False


def copy_project(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def survives(mutation: Mutation) -> bool:
    """Whether the tests stay green under the wrong edit."""
    with tempfile.TemporaryDirectory() as temporary:
        copy_project(Path(temporary))
        path = Path(temporary) / "src" / "heed" / mutation.file
        path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        return run_tests(Path(temporary), TESTS[mutation.file])


def problems(mutations: list[Mutation]) -> list[str]:
    """Why a mutation cannot be applied: the code has moved on, or the table is wrong."""
    found = []
    for mutation in mutations:
        source = (ROOT / "src" / "heed" / mutation.file).read_text(encoding="utf-8")
        count = source.count(mutation.old)
        if count != 1:
            found.append(f"{mutation.file}: {mutation.name}: what is to be replaced is there {count} times")
        elif mutation.old == mutation.new:
            found.append(f"{mutation.file}: {mutation.name}: changes nothing")
    return found


def main(words: list[str], jobs: int) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.file} {m.name}" for word in words)]
    if not chosen:
        print(f"no wrong edit has any of these in its file or name: {' '.join(words)}")
        return 2
    if wrong := problems(chosen):
        print("\n".join(wrong))
        return 2
    tests = " ".join(sorted({test for m in chosen for test in TESTS[m.file].split()}))
    with tempfile.TemporaryDirectory() as temporary:
        copy_project(Path(temporary))
        if not run_tests(Path(temporary), tests):
            print(f"the tests are red without any edit; make them green first:\n  python -m pytest {tests}")
            return 2
    num_survivors = 0
    with ThreadPoolExecutor(jobs) as pool:
        for mutation, alive in zip(chosen, pool.map(survives, chosen), strict=True):
            num_survivors += alive
            print(f"{'SURVIVED' if alive else 'killed  '}  {mutation.file}: {mutation.name}", flush=True)
    print(f"{len(chosen) - num_survivors} of {len(chosen)} wrong edits were noticed")
    return 1 if num_survivors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the project tested at the same time")
    arguments = parser.parse_args()
    sys.exit(main(arguments.words, arguments.jobs))
