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
    "objectives/ragged.py": "tests/objectives/test_ragged.py",
    "objectives/kl.py": "tests/objectives/test_kl.py",
    "objectives/advantage.py": "tests/objectives/test_advantage.py",
    "objectives/policy.py": "tests/objectives/test_policy.py",
    "objectives/reward_scale.py": "tests/objectives/test_reward_scale.py",
    "objectives/preference.py": "tests/objectives/test_preference.py",
    "models/heads/language.py": "tests/models/test_head.py tests/models/test_token_logp.py"
    " tests/models/test_adapters.py tests/models/test_families.py",
    "models/attention/tree_attention.py": "tests/models/test_tree_attention.py tests/models/test_families.py",
    "models/attention/rows.py": "tests/models/test_row_attention.py",
    "models/attention/row_attention.py": "tests/models/test_row_attention.py",
    "models/decode/draw.py": "tests/models/test_sample.py",
    "evaluate/intervals.py": "tests/evaluate/test_intervals.py",
    "evaluate/clustered.py": "tests/evaluate/test_clustered.py",
    "evaluate/calibration.py": "tests/evaluate/test_calibration.py",
    "evaluate/bias.py": "tests/evaluate/test_bias.py",
    "evaluate/knowledge.py": "tests/evaluate/test_knowledge.py",
    "models/attention/flex.py": "tests/models/test_tree_attention.py",
    "models/attention/layout.py": "tests/models/test_tree_attention.py tests/models/test_self_check.py",
    "models/attention/forest_attention.py": "tests/models/test_families.py tests/models/test_self_check.py",
    "models/score.py": "tests/models/test_token_logp.py tests/models/test_families.py tests/models/test_adapters.py",
    "models/heads/token_logp.py": "tests/models/test_token_logp.py",
    "models/heads/scalar.py": "tests/models/test_scalar.py",
    "models/adapters/switch.py": "tests/models/test_roles.py",
    "models/roles.py": "tests/models/test_roles.py",
    "models/padded_rows.py": "tests/models/test_padded_rows.py",
    "models/recompute.py": "tests/models/test_roles.py",
    "models/dropout.py": "tests/models/test_dropout.py",
    "models/self_check.py": "tests/models/test_self_check.py tests/models/test_families.py",
    "models/kernels/matmul.py": "tests/models/test_matmul.py",
    "models/kernels/speed.py": "tests/models/test_speed.py tests/models/test_rms_norm.py tests/models/test_families.py",
    "models/kernels/rotary.py": "tests/models/test_rotary.py",
    "evaluate/best_of.py": "tests/evaluate/test_best_of.py",
    "models/adapters/lora.py": "tests/models/test_adapters.py",
    "models/trained.py": "tests/models/test_trained.py",
    "models/load.py": "tests/models/test_roles.py tests/models/test_families.py",
    "train/step.py": "tests/train/test_step.py",
    "train/optimiser.py": "tests/train/test_optimiser.py",
    "train/schedule.py": "tests/train/test_schedule.py",
    "recipes/sft.py": "tests/recipes/test_equivalence.py",
    "recipes/preference/comparisons.py": "tests/recipes/test_preference_equivalence.py",
    "recipes/preference/pairwise.py": "tests/recipes/test_preference_equivalence.py",
    "recipes/training/best.py": "tests/recipes/test_best.py",
    "recipes/preference/partners.py": "tests/recipes/test_partners.py",
    "recipes/preference/reference.py": "tests/recipes/test_reference_pass.py",
    "recipes/preference/kto.py": "tests/recipes/test_preference_equivalence.py",
    "recipes/reward.py": "tests/recipes/test_preference_equivalence.py",
    "recipes/policy/rollout.py": "tests/recipes/test_policy_self_check.py tests/recipes/test_policy_equivalence.py",
    "recipes/policy/setup.py": "tests/recipes/test_policy_self_check.py",
    "recipes/policy/update.py": "tests/recipes/test_policy_equivalence.py",
    "models/decode/answers.py": "tests/recipes/test_policy_equivalence.py",
    "recipes/policy/phases.py": "tests/recipes/test_preference_runs.py tests/recipes/test_preference_resume.py",
    "recipes/grpo.py": "tests/recipes/test_policy_equivalence.py tests/recipes/test_preference_runs.py",
    "recipes/ppo.py": "tests/recipes/test_ppo_settings.py tests/recipes/test_policy_equivalence.py"
    " tests/recipes/test_reward_units.py"
    " tests/recipes/test_preference_runs.py",
    "evaluate/ranked.py": "tests/evaluate/test_ranked.py",
    "data/answers.py": "tests/data/test_preferences.py",
    "data/chat.py": "tests/data/test_nothing_is_lost.py tests/data/test_tool_calls.py",
    "data/rendering/marks.py": "tests/data/test_nothing_is_lost.py tests/data/test_tool_calls.py",
    "data/rendering/special_text.py": "tests/data/test_special_text.py",
    "data/tokens.py": "tests/data/test_special_text.py",
    "models/stops.py": "tests/models/test_stops.py",
    "data/prepare.py": "tests/data/test_prompts.py",
    "data/documents.py": "tests/recipes/test_plain_text.py",
    "data/shapes/tidy.py": "tests/data/test_field_files.py",
    "data/shapes/names.py": "tests/data/test_field_files.py",
    "recipes/training/splits.py": "tests/recipes/test_splits.py",
    "recipes/show.py": "tests/cli/test_show.py tests/recipes/test_show_runs.py",
    "train/interrupt.py": "tests/train/test_interrupt.py",
    "train/same_run.py": "tests/train/test_run.py",
    "train/run.py": "tests/train/test_run.py",
    "dist/world.py": "tests/dist",
}
"""which tests must notice a wrong edit of a file, the quickest first"""

M = Mutation
BUILD, PLAN, WEIGHTS = "forest/build.py", "forest/plan.py", "forest/weights.py"
HEAD, TREE, FLEX, ATTENTION = (
    "models/heads/language.py",
    "models/attention/tree_attention.py",
    "models/attention/flex.py",
    "models/attention/forest_attention.py",
)
PADDED, RECOMPUTE, DROPOUT = "models/padded_rows.py", "models/recompute.py", "models/dropout.py"
SCORE, CHECK, MATMUL, SPEED = (
    "models/score.py",
    "models/self_check.py",
    "models/kernels/matmul.py",
    "models/kernels/speed.py",
)
STEP, OPTIMISER, SCHEDULE, SFT = "train/step.py", "train/optimiser.py", "train/schedule.py", "recipes/sft.py"
LAYOUT, LOAD, ADAPTERS = "models/attention/layout.py", "models/load.py", "models/adapters/lora.py"
SUPERVISED, TRAINED = "objectives/supervised.py", "models/trained.py"
TOKEN_LOGP, SCALAR = "models/heads/token_logp.py", "models/heads/scalar.py"
ROLES, SWITCH = "models/roles.py", "models/adapters/switch.py"
RAGGED, KL, ADVANTAGE = "objectives/ragged.py", "objectives/kl.py", "objectives/advantage.py"
POLICY, PREFERENCE = "objectives/policy.py", "objectives/preference.py"
ROWS, ROW, DRAW = "models/attention/rows.py", "models/attention/row_attention.py", "models/decode/draw.py"
INTERVALS, CALIBRATION = "evaluate/intervals.py", "evaluate/calibration.py"
BIAS, KNOWLEDGE = "evaluate/bias.py", "evaluate/knowledge.py"
COMPARISONS, PAIRWISE, KTO = (
    "recipes/preference/comparisons.py",
    "recipes/preference/pairwise.py",
    "recipes/preference/kto.py",
)
REWARD_RECIPE, ROLLOUT, ANSWERS = "recipes/reward.py", "recipes/policy/rollout.py", "models/decode/answers.py"
POLICY_SETUP, POLICY_UPDATE = "recipes/policy/setup.py", "recipes/policy/update.py"
PPO, GRPO, PHASES = "recipes/ppo.py", "recipes/grpo.py", "recipes/policy/phases.py"
SCALE = "objectives/reward_scale.py"
ROTARY, BEST_OF = "models/kernels/rotary.py", "evaluate/best_of.py"
RANKED, INTERRUPT = "evaluate/ranked.py", "train/interrupt.py"
SAME_RUN, RUN, WORLD = "train/same_run.py", "train/run.py", "dist/world.py"
CLUSTERED = "evaluate/clustered.py"
PARTNERS, REFERENCE = "recipes/preference/partners.py", "recipes/preference/reference.py"

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
    M(HEAD, "a target twice counts once", "-weight, accumulate=True", "-weight, accumulate=False"),
    M(
        HEAD,
        "weights of other entries",
        "gradient_of_logits(shifted, total, part, weight[part.entries])",
        "gradient_of_logits(shifted, total, part, weight[: len(part.entries)])",
    ),
    M(
        HEAD,
        "logp in the order of rows",
        "entries = order[bounds[chunk.start] : bounds[chunk.stop]]",
        "entries = torch.arange(bounds[chunk.start], bounds[chunk.stop])",
    ),
    M(HEAD, "no largest logit taken off", "logits.sub_(logits.amax(dim=-1, keepdim=True))", "logits"),
    M(HEAD, "rows counted from the batch's start", "row[entries] - chunk.start, target", "row[entries], target"),
    M(HEAD, "soft-cap's slope forgotten", "grad.mul_(1 - (logits / self.softcap).square_())", "pass"),
    M(
        HEAD,
        "soft-cap's slope of the softmax",
        "logits.clone() if head.softcap is not None and needs_gradient else logits",
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
    M(HEAD, "the table's own rows learn for new tokens", "            grad[:, head.new.ids] = 0\n", ""),
    M(HEAD, "new tokens' logits by the table", "logits[:, self.new.ids] = rows @", "_ = rows @"),
    M(
        HEAD,
        "head's gradient of the last chunk",
        "add_transposed_product(self.weight,",
        "self.weight.zero_(); add_transposed_product(self.weight,",
    ),
    M(HEAD, "bias's gradient of the last chunk", "self.bias.add_(grad.sum(0))", "self.bias.copy_(grad.sum(0))"),
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
        "max(1, -(-num_rows // rows_of_chunk(vocabulary)))",
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
    M(
        ATTENTION,
        "soft-caps and sinks by the fused kernel",
        "elif suits_blocks(query, value) and softcap is None and s_aux is None:",
        "elif suits_blocks(query, value):",
    ),
    M(
        FLEX,
        "blocks of siblings skipped wrongly",
        "slice(start // BLOCK, -(-end // BLOCK))",
        "slice(start // BLOCK, end // BLOCK)",
    ),
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
        "source, row = torch.unique(forest.source.to(states.device), return_inverse=True)\n    rows, target, weight =",
        "source, row = forest.source.to(states.device), forest.target.argsort()\n    rows, target, weight =",
    ),
    M(
        SCORE,
        "rows of a sorted order, with a gradient",
        "source, row = torch.unique(forest.source.to(states.device), return_inverse=True)\n    rows, target =",
        "source, row = forest.source.to(states.device), forest.target.argsort()\n    rows, target =",
    ),
    M(
        SCORE,
        "multipliers forgotten on an adapted head",
        "adjusted(model.get_output_embeddings()(rows), *adjustment(model))",
        "model.get_output_embeddings()(rows)",
    ),
    M(PADDED, "outputs in the order of the batches", "joined[torch.argsort(place).to(joined.device)]", "joined"),
    M(PADDED, "rows of any length together", "if fits and stop - start >= SHORTEST_SHARE * longest:", "if fits:"),
    M(PADDED, "rows beyond the budget", "max_tokens is None or (len(batches[-1]) + 1) * longest <= max_tokens", "True"),
    M(
        PADDED,
        "plain states of the padding",
        "self.mask.to(output.device).bool()[..., None]",
        "self.mask.to(output.device).bool().flip(1)[..., None]",
    ),
    M(PADDED, "rows of a shared forest", "if [at + 1 for at in forest.last.tolist()] != stops:", "if False:"),
    M(
        SCORE,
        "the temperature forgotten on the way",
        "token_logp(rows, head, row, target, temperature=temperature,",
        "token_logp(rows, head, row, target,",
    ),
    M(SCORE, "the model's head as its trunk", "if model.base_model is not model:", "if True:"),
    M(
        SCORE,
        "dense weights forgotten",
        "return -(weight.to(logp.dtype) * logp).sum(), logp.detach()",
        "return -logp.sum(), logp.detach()",
    ),
    M(CHECK, "calls not looked at", "if layout.num_attention_calls != num_layers:", "if False:"),
    M(CHECK, "any difference is fine", "if difference <= TOLERANCE", "if True or TOLERANCE"),
    M(
        CHECK,
        "numbers that are none are fine",
        "if difference <= TOLERANCE.get(logp.dtype, 1e-3)",
        "if not difference > TOLERANCE.get(logp.dtype, 1e-3)",
    ),
    M(CHECK, "a tolerance that sees nothing", "torch.float32: 1e-3}", "torch.float32: 1e1}"),
    M(
        CHECK,
        "errors escape",
        "REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)",
        "REFUSALS = (ZeroDivisionError,)",
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
        "by_own_forward(model, probe, ONE_BY_ONE, ONE_BY_OWN_HEAD)",
        "by_own_forward(model, probe, BY_ROWS, BY_OWN_HEAD)",
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
        "ChosenScore(model, BY_FOREST, share,",
        "ChosenScore(model, BY_FOREST, True,",
    ),
    M(TOKEN_LOGP, "the temperature's slope forgotten", "weight = grad_logp / -ctx.temperature", "weight = -grad_logp"),
    M(TOKEN_LOGP, "the sign", "weight = grad_logp / -ctx.temperature", "weight = grad_logp / ctx.temperature"),
    M(TOKEN_LOGP, "the temperature forgotten", "divided.div_(temperature)", "pass"),
    M(TOKEN_LOGP, "temperature multiplied", "divided.div_(temperature)", "divided.mul_(temperature)"),
    M(
        TOKEN_LOGP,
        "the soft-cap's logits overwritten",
        "logits.clone() if head.softcap is not None else logits",
        "logits",
    ),
    M(TOKEN_LOGP, "no largest logit taken off", "divided.sub_(divided.amax(dim=-1, keepdim=True))", "divided"),
    M(TOKEN_LOGP, "one entropy sign", "log_total - shifted.mul_", "log_total + shifted.mul_"),
    M(TOKEN_LOGP, "an entropy without its sum", "(log_total - shifted", "(-shifted"),
    M(TOKEN_LOGP, "entropies by row", ".sum(dim=-1) / total)[part.row]", ".sum(dim=-1) / total)[: len(part.row)]"),
    M(TOKEN_LOGP, "the kept softmax taken for the first", "in reversed(list(parts(row,", "in (list(parts(row,"),
    M(TOKEN_LOGP, "the kept softmax taken for all", "                kept = None  # the", "                # the"),
    M(TOKEN_LOGP, "never a softmax kept", "ctx.kept = Kept(part, exponentials, total, logits)", "pass"),
    M(TOKEN_LOGP, "kept for good", "kept, ctx.kept = ctx.kept, None", "kept = ctx.kept"),
    M(TOKEN_LOGP, "kept while measuring", "== len(rows) and any(ctx.needs_input_grad):", "== len(rows):"),
    M(
        TOKEN_LOGP,
        "gradients of other entries",
        "each.part, weight[each.part.entries])",
        "each.part, weight[: len(each.part.entries)])",
    ),
    M(
        TOKEN_LOGP,
        "a backward in autocast",
        "torch.autocast(rows.device.type, enabled=False):  # a",
        "torch.autocast(rows.device.type, enabled=torch.is_autocast_enabled(rows.device.type)):  # a",
    ),
    M(
        TOKEN_LOGP,
        "weights changed under way",
        "ctx.save_for_backward(rows, head_weight, head_bias,",
        "ctx.save_for_backward(rows, head_weight.detach().clone(), head_bias,",
    ),
    M(
        TOKEN_LOGP,
        "dense logits untempered",
        "        logits = logits / temperature",
        "        pass",
    ),
    M(TOKEN_LOGP, "a dense entropy with a gradient", "logits, log_sum = logits.detach(), log_sum.detach()", "pass"),
    M(TOKEN_LOGP, "any temperature", "if not temperature > 0:", "if False:"),
    M(SCALAR, "values after the token", "_read(states[forest.source", "_read(states[1 + forest.source"),
    M(
        SCALAR,
        "scalars before the end",
        "_read(states[forest.last.to(states.device)]",
        "_read(states[forest.last.to(states.device) - 1]",
    ),
    M(SCALAR, "the head in autocast", "with torch.autocast(rows.device.type, enabled=False):", "if True:"),
    M(SCALAR, "too wide a start", "noise / (width + 1) ** 0.5", "noise / (width + 1) ** 0.4"),
    M(SCALAR, "the offset added", "self.head).double() - self.offset", "self.head).double() + self.offset"),
    M(
        SCALAR,
        "the offset in float32",
        "scalars_at(states, forest, self.head).double() - self.offset",
        "(scalars_at(states, forest, self.head) - self.offset).double()",
    ),
    M(SCALAR, "a language head that learns", "parameter.requires_grad_(False)\n\n\n# --", "pass\n\n\n# --"),
    M(SCALAR, "padding that ends answers", "id_ not in stops and id_ < rows)", "id_ < rows)"),
    M(SCALAR, "any tokenizer", "if theirs == ours:", "if True:"),
    M(SCALAR, "adapters in a trunk's fingerprint", 'if "lora_" in name or "trainable_tokens_" in name:', "if False:"),
    M(
        SCALAR,
        "a fingerprint of shapes",
        "        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)\n",
        "",
    ),
    M(SCALAR, "a head left where it was", "        reward_model.head.weight.copy_(score)", "        pass"),
    M(SCALAR, "any number of labels", "if config.num_labels != 1:", "if False:"),
    M(
        SWITCH,
        "nothing restored",
        "        yield\n    finally:\n        _put(layers, before)\n\n\n@contextmanager\ndef adapters_as",
        "        yield\n    finally:\n        pass\n\n\n@contextmanager\ndef adapters_as",
    ),
    M(SWITCH, "off stays off", "= names, False", "= names, layer._disable_adapters"),
    M(
        SWITCH,
        "peft told to look for weights that are not there",
        "if name is not None and name in layer._get_available_adapters() else []",
        "if name is not None else []",
    ),
    M(SWITCH, "recomputed as it is now", "        _put(layers, state)\n", ""),
    M(
        ROLES,
        "the reward adapter learns",
        'adapter_of(name) in (POLICY_ADAPTER, "value")',
        "adapter_of(name) is not None",
    ),
    M(
        ROLES,
        "the base learns",
        'parameter.requires_grad_(adapter_of(name) in (POLICY_ADAPTER, "value"))',
        "parameter.requires_grad_(True)",
    ),
    M(
        ROLES,
        "the policy's value adapter",
        'trained = (*_of_adapter(loaded.model, "value")',
        "trained = (*_of_adapter(loaded.model, POLICY_ADAPTER)",
    ),
    M(
        ROLES,
        "reference plays the policy",
        'Role("reference", model, None, layers)',
        'Role("reference", model, POLICY_ADAPTER, layers)',
    ),
    M(
        ROLES,
        "reward plays the value",
        'Role("reward", model, "reward", layers',
        'Role("reward", model, "value", layers',
    ),
    M(
        ROLES,
        "any base will do",
        'read_note(reward).get("base") == trunk_fingerprint(model)',
        'read_note(reward).get("base") is not None',
    ),
    M(
        ROLES,
        "values that share the reward's head",
        "return copy.deepcopy(head).requires_grad_(True)",
        "return head.requires_grad_(True)",
    ),
    M(
        ROLES,
        "values without the offset",
        "values_at(states, forest, self.head) - self.offset",
        "values_at(states, forest, self.head)",
    ),
    M(
        ROLES,
        "rewards without the offset",
        "scalars_at(states, forest, self.head).double() - self.offset",
        "scalars_at(states, forest, self.head).double()",
    ),
    M(
        ROLES,
        "the reference is the policy",
        "reference = copy.deepcopy(policy.model).requires_grad_(False)",
        "reference = policy.model",
    ),
    M(
        ROLES,
        "a value that starts silent",
        "_silent_head(policy) if scorer is None else",
        "_silent_head(policy) if True else",
    ),
    M(
        RECOMPUTE,
        "recomputed with the adapter of the backward",
        "with attention_named(model, attention), adapters_as(layers, state):",
        "with attention_named(model, attention):",
    ),
    M(LOAD, "every role's adapter in the policy's folder", ', selected_adapters=["default"]', ""),
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
        "if torch.allclose(found, expected, rtol=1e-5, atol=1e-5):",
        "if True:",
    ),
    M(SPEED, "a probe's weights stay", "            weight.copy_(kept)\n", "            pass\n"),
    M(SPEED, "a norm that raises stops the swap", "except Exception:  # a norm", "except ZeroDivisionError:  # a norm"),
    M(SPEED, "Gemma's norms left alone", "for offset in (0.0, 1.0):", "for offset in (0.0,):"),
    M(
        SPEED,
        "another epsilon",
        "return normed(x, weight.to(x.dtype), eps)",
        "return normed(x, weight.to(x.dtype), 1e-5)",
    ),
    M(SPEED, "statistics in half precision", "if x.dtype in (torch.bfloat16, torch.float16):", "if False:"),
    M(
        SPEED,
        "rows read twice learn once",
        "table.grad.index_add_(0, ids, grad.to(table.grad.dtype))",
        "table.grad[ids] += grad.to(table.grad.dtype)",
    ),
    M(SPEED, "the norm's gradient forgets the mean", ".addcmul_(x, mean)", ""),
    M(SPEED, "the norm's mean counts eps twice", ".add_(eps).rsqrt_()", ".add_(2 * eps).rsqrt_()"),
    M(SPEED, "the norm's weight learns from what was not normed", "product.mul_(scale).reshape", "product.reshape"),
    M(
        SPEED,
        "the norm's gradient rounded by autocast",
        "torch.mv(product.reshape(-1, len(weight)), weight)",
        "(product.reshape(-1, len(weight)) @ weight).float()",
    ),
    M(SPEED, "the norm's mean is not of the scaled", ".mul_(scale.square())", ".mul_(scale)"),
    M(
        ROTARY,
        "turned the other way",
        "rotated[..., :half].sub_(",
        "rotated[..., :half].add_(",
    ),
    M(ROTARY, "one half's angle for both", "x[..., :half] * sin[..., half:]", "x[..., :half] * sin[..., :half]"),
    M(
        ROTARY,
        "gradient turned forward",
        "grad[..., half:], sin[..., half:])",
        "grad[..., half:], sin[..., half:], value=-1)",
    ),
    M(
        ROTARY,
        "every rotation is taken for halves",
        "return len(expected) == 2 and all(",
        "return len(expected) == 2 or all(",
    ),
    M(
        ROTARY,
        "a rotation is tried on one sequence",
        "draw(2, 2, 3, 8), draw(2, 1, 3, 8), draw(2, 3, 8), draw(2, 3, 8)",
        "draw(1, 2, 3, 8), draw(1, 1, 3, 8), draw(1, 3, 8), draw(1, 3, 8)",
    ),
    M(ROTARY, "a copy for every layer", "@cache\n", ""),
    M(ROTARY, "a module elsewhere is swapped", 'parameter.device.type != "cpu"', "False"),
    M(ROTARY, "angles that learn are taken for fixed", " and not (cos.requires_grad or sin.requires_grad)", ""),
    M(ROTARY, "sines of another shape", "sin.shape == cos.shape and ", ""),
    M(ROTARY, "angles of another layout", "cos.dim() == 3 and ", ""),
    M(ROTARY, "heads of another layout", "query.dim() == key.dim() == 4 and ", ""),
    M(ROTARY, "a key of another precision", "query.dtype == key.dtype == cos.dtype", "query.dtype == cos.dtype"),
    M(ROTARY, "a part of each head rotated as a whole", " and query.shape[-1] == key.shape[-1] == cos.shape[-1]", ""),
    M(ROTARY, "low precision rounded once", "query.dtype in (torch.float32, torch.float64) and ", ""),
    M(ROTARY, "an argument forgotten", "others or named or ", ""),
    M(BEST_OF, "the lowest is taken", "key=lambda i: scores[i])", "key=lambda i: -scores[i])"),
    M(BEST_OF, "chosen with replacement", "math.comb(len(scores), n) for", "len(scores) ** n for"),
    M(BEST_OF, "KL of n - 1", "(n - 1) / n\n", "n / (n + 1)\n"),
    M(SPEED, "a table forgets the micro-batch before", "if table.grad is None:", "if True:"),
    M(SPEED, "padding learns", "if ctx.padding_idx is not None:", "if False:"),
    M(SPEED, "a computed table keeps its gradient", " and module.weight.is_leaf", ""),
    M(
        "models/intake/weights.py",
        "missing weights pass",
        "    if missing:\n        raise",
        "    if False:\n        raise",
    ),
    M(
        "models/frozen.py",
        "a matrix forgotten in the backward",
        "weight.to(grad.dtype)), None, None",
        "weight.to(grad.dtype) * 2), None, None",
    ),
    M(
        "models/adapters/new_rows.py",
        "trained rows rounded to the table's bits",
        "return is_held(layer.base_layer) or",
        "return",
    ),
    M("models/frozen.py", "a scaled table shared with a head stays", " and id(weight) not in others", ""),
    M("models/adapters/folder.py", "half an adapter passes", "    if missing or unplaced:", "    if False:"),
    M(
        LOAD,
        "recomputed with another attention",
        '"context_fn": partial(as_in_the_forward, model)',
        '"use_reentrant": False',
    ),
    M(LOAD, "dropout stays on", "    dropout_off(model)\n", ""),
    M(DROPOUT, "nothing is recomputed", "module.training = True  #", "module.training = False  #"),
    M(
        DROPOUT,
        "layers that are recomputed drop",
        "        layer.training = False\n",
        "        layer.training = True\n",
    ),
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
    M(TRAINED, "what is not named learns too", "requires_grad_(id(parameter) in chosen)", "requires_grad_(True)"),
    M(TRAINED, "the first layers for the last", "layers[num_layers - count :]", "layers[:count]"),
    M(ADAPTERS, "alpha ignored", "lora_alpha=alpha", "lora_alpha=rank"),
    M(
        STEP,
        "mean of means",
        "divided_by(count / term.coefficient)",
        "divided_by(batch.total_weight / term.coefficient)",
    ),
    M(
        STEP,
        "divided by micro-batches",
        "weight = sum(batch.total_weight for batch in term.micro_batches)",
        "weight = float(len(term.micro_batches))",
    ),
    M(
        STEP,
        "every process divides by its own",
        "count = float(world.sum(torch.tensor(weight,",
        "count = float((torch.tensor(weight,",
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
    M(STEP, "loss of one process", "world.gather_objects((loss_sum, summed(means)))", "[(loss_sum, summed(means))]"),
    M(STEP, "coefficient ignored", "divided_by(count / term.coefficient)", "divided_by(count)"),
    M(STEP, "coefficient inverted", "divided_by(count / term.coefficient)", "divided_by(count * term.coefficient)"),
    M(STEP, "the last statistic only", "(before[0] + value[0], before[1] + value[1])", "(value[0], value[1])"),
    M(STEP, "a count of one forward", "total[name] = before + value", "total[name] = value"),
    M(STEP, "NLL's sign", "(-float(logp.double().sum()), len(logp))", "(float(logp.double().sum()), len(logp))"),
    M(STEP, "NLL per forward", "(-float(logp.double().sum()), len(logp))", "(-float(logp.double().sum()), 1)"),
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
    M(PLAN, "every process takes all", "share=share)[rank::size]", "share=share)"),
    M(PLAN, "some forwards are lost", "share=share)[rank::size]", "share=share)[rank::size][: -1 or None]"),
    M(PLAN, "a total beyond the budget", "share=share)) <= max_tokens:", "share=share)) <= 2 * max_tokens:"),
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
        "else logp / sampling.temperature",
        "else logp * sampling.temperature",
    ),
    M(DRAW, "log p at temperature 1 alone", "logits / (temperature or 1.0)", "logits"),
    M(DRAW, "one token too many of top-k", "scaled.topk(sampling.top_k,", "scaled.topk(sampling.top_k + 1,"),
    M(INTERVALS, "no z in the middle", "middle = share * count + Z_95**2 / 2", "middle = share * count"),
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
    M(RAGGED, "an empty sequence passes", "bool((lengths == 0).any())", "False"),
    M(RAGGED, "too many sequences pass", "len(lengths) > num_sequences or ", ""),
    M(RAGGED, "any order passes", "sequence[1:] < sequence[:-1]", "sequence[1:] < sequence[:-1] - 9"),
    M(RAGGED, "the token after the last", ".cumsum(0) - 1", ".cumsum(0)"),
    M(KL, "the other sign", "(logp - reference_logp).clamp(", "(reference_logp - logp).clamp("),
    M(
        KL,
        "no bound on a log ratio",
        "(logp - reference_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)",
        "(logp - reference_logp)",
    ),
    M(KL, "k2 twice as large", "** 2 / 2", "** 2"),
    M(
        KL,
        "k1 in absolute value",
        "    return log_ratio(logp, reference_logp)\n",
        "    return log_ratio(logp, reference_logp).abs()\n",
    ),
    M(KL, "k3 of the other direction", "((-delta).expm1() + delta)", "(delta.expm1() - delta)"),
    M(KL, "k3 without a bound", ".clamp(max=MAX_K3)", ""),
    M(
        KL,
        "one mean for all sequences",
        "sum_by_sequence(log_ratio(logp, reference_logp), sequence, num_sequences)",
        "sum_by_sequence(log_ratio(logp, reference_logp), sequence, num_sequences) / 2",
    ),
    M(
        KL,
        "beta falls above the target",
        "(1 + error * num_sequences / horizon)",
        "(1 - error * num_sequences / horizon)",
    ),
    M(
        KL,
        "beta without a bound above",
        "min(max(measured_kl / target_kl - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)",
        "max(measured_kl / target_kl - 1, -MAX_RELATIVE_ERROR)",
    ),
    M(
        KL,
        "beta without a bound below",
        "min(max(measured_kl / target_kl - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)",
        "min(measured_kl / target_kl - 1, MAX_RELATIVE_ERROR)",
    ),
    M(KL, "a KL of nan is followed", "not math.isfinite(measured_kl)", "False"),
    M(KL, "beta may reach 0", "not horizon > MAX_RELATIVE_ERROR * num_sequences", "False"),
    M(ADVANTAGE, "the pull pushes", "reward = -beta * kl_k1", "reward = beta * kl_k1"),
    M(
        ADVANTAGE,
        "the score at every sequence's second last token",
        "reward[last_tokens(sequence, len(score))] += score",
        "reward[last_tokens(sequence, len(score)) - 1] += score",
    ),
    M(
        ADVANTAGE,
        "the score instead of the pull",
        "reward[last_tokens(sequence, len(score))] += score",
        "reward[last_tokens(sequence, len(score))] = score",
    ),
    M(ADVANTAGE, "a sequence sees the next one's value", "    next_value[starts + lengths - 1] = 0\n", ""),
    M(ADVANTAGE, "the value of the same token", "torch.cat([value[1:], value.new_zeros(1)])", "value.clone()"),
    M(ADVANTAGE, "no discount of the next value", "reward + gamma * next_value - value", "reward + next_value - value"),
    M(ADVANTAGE, "no discount of the next advantage", "gamma * lam * table[t + 1]", "lam * table[t + 1]"),
    M(ADVANTAGE, "lam forgotten", "gamma * lam * table[t + 1]", "gamma * table[t + 1]"),
    M(ADVANTAGE, "the last step but one is skipped", "range(len(table) - 2, -1, -1)", "range(len(table) - 3, -1, -1)"),
    M(ADVANTAGE, "the first step is skipped", "range(len(table) - 2, -1, -1)", "range(len(table) - 2, 0, -1)"),
    M(ADVANTAGE, "returns with the policy's lam", "gamma=gamma, lam=lam_value)", "gamma=gamma, lam=lam)"),
    M(
        ADVANTAGE,
        "returns without the value",
        "return advantage, for_value + value.detach()",
        "return advantage, for_value",
    ),
    M(
        ADVANTAGE,
        "returns with a gradient",
        "return advantage, for_value + value.detach()",
        "return advantage, for_value + value",
    ),
    M(ADVANTAGE, "variance about 0", "total_squares / count - mean**2", "total_squares / count"),
    M(
        ADVANTAGE,
        "an unbiased variance",
        "total_squares / count - mean**2",
        "(total_squares - count * mean**2) / max(1, count - 1)",
    ),
    M(
        ADVANTAGE,
        "variance for its root",
        "/ math.sqrt(variance + VARIANCE_EPSILON)",
        "/ (variance + VARIANCE_EPSILON)",
    ),
    M(ADVANTAGE, "no epsilon", "VARIANCE_EPSILON)\n    return (whitened", "0)\n    return (whitened"),
    M(
        ADVANTAGE,
        "the mean the other way round",
        "whitened if shift_mean else whitened + mean",
        "whitened + mean if shift_mean else whitened",
    ),
    M(
        ADVANTAGE,
        "the mean is scaled too",
        "whitened if shift_mean else whitened + mean",
        "whitened if shift_mean else whitened + mean / variance",
    ),
    M(
        ADVANTAGE,
        "explained by the value's own variance",
        "/ returns.double().var(correction=0)",
        "/ value.double().var(correction=0)",
    ),
    M(ADVANTAGE, "constant returns are explained", "returns.min() == returns.max()", "returns.numel() == 0"),
    M(
        ADVANTAGE,
        "those that stopped pay",
        "torch.where(stopped, score, score - penalty)",
        "torch.where(stopped, score - penalty, score)",
    ),
    M(ADVANTAGE, "a missing stop is rewarded", "score - penalty)", "score + penalty)"),
    M(
        ADVANTAGE,
        "groups compared with the first score",
        "deviation = against_first - (sum_by_sequence(against_first, group, num_groups) / sizes)[group]",
        "deviation = against_first",
    ),
    M(
        ADVANTAGE,
        "equal groups equal up to rounding",
        "against_first = score - score[sizes.cumsum(0) - sizes][group]",
        "against_first = score - 0",
    ),
    M(ADVANTAGE, "a biased standard deviation", "squares / (sizes - 1).clamp(min=1)", "squares / sizes"),
    M(ADVANTAGE, "the variance for the standard deviation", ").clamp(min=1)).sqrt(), sizes", ").clamp(min=1)), sizes"),
    M(ADVANTAGE, "one standard deviation for all", "/ (std + STD_EPSILON)[group]", "/ (std.mean() + STD_EPSILON)"),
    M(ADVANTAGE, "no epsilon of a group", "(std + STD_EPSILON)", "std"),
    M(
        ADVANTAGE,
        "not scaled up",
        "deviation * sizes[group] / (sizes - 1)",
        "deviation * (sizes - 1)[group] / (sizes - 1)",
    ),
    M(
        POLICY,
        "the ratio upside down",
        "log_ratio(logp, old_logp.detach()).exp()",
        "log_ratio(old_logp.detach(), logp).exp()",
    ),
    M(
        POLICY,
        "the ratio's gradient flows to both",
        "log_ratio(logp, old_logp.detach()).exp()",
        "log_ratio(logp, old_logp).exp()",
    ),
    M(
        POLICY,
        "the gainful of two losses",
        "loss = torch.maximum(-advantage * ratio",
        "loss = torch.minimum(-advantage * ratio",
    ),
    M(
        POLICY,
        "the other sign of the loss",
        "torch.maximum(-advantage * ratio, -advantage * ratio.clamp",
        "torch.maximum(advantage * ratio, advantage * ratio.clamp",
    ),
    M(POLICY, "nothing clipped", "ratio.clamp(1 - epsilon_low, 1 + epsilon_high))", "ratio)"),
    M(
        POLICY,
        "epsilons exchanged",
        "ratio.clamp(1 - epsilon_low, 1 + epsilon_high))",
        "ratio.clamp(1 - epsilon_high, 1 + epsilon_low))",
    ),
    M(POLICY, "advantages learn", "    advantage = advantage.detach()\n", ""),
    M(
        POLICY,
        "dual clip of better tokens",
        "torch.where(advantage < 0, torch.minimum",
        "torch.where(advantage > 0, torch.minimum",
    ),
    M(
        POLICY,
        "dual clip the wrong way",
        "torch.minimum(loss, -advantage * dual_clip)",
        "torch.maximum(loss, -advantage * dual_clip)",
    ),
    M(
        POLICY,
        "clipped whatever the sign",
        "((advantage > 0) & (ratio > 1 + epsilon_high))",
        "(ratio > 1 + epsilon_high)",
    ),
    M(POLICY, "clipped below not counted", "ratio < 1 - epsilon_low)", "ratio < 0)"),
    M(POLICY, "KL of the new to the old", "kl_k3(old_logp, logp)", "kl_k3(logp, old_logp)"),
    M(POLICY, "an importance weight bounded below", ".clamp(max=limit)", ".clamp(min=1 / limit, max=limit)"),
    M(POLICY, "an importance weight without a limit", ".clamp(max=limit)", ""),
    M(
        POLICY,
        "the gainful of two errors",
        "return torch.maximum((value - returns) ** 2",
        "return torch.minimum((value - returns) ** 2",
    ),
    M(POLICY, "a whole squared error", "- returns) ** 2) / 2", "- returns) ** 2)"),
    M(POLICY, "returns learn", "    returns = returns.detach()\n", ""),
    M(POLICY, "the old value learns", "    old_value = old_value.detach()\n", ""),
    M(
        POLICY,
        "values held on one side",
        "torch.minimum(torch.maximum(value, old_value - epsilon), old_value + epsilon)",
        "torch.minimum(value, old_value + epsilon)",
    ),
    M(POLICY, "a value is clipped where it loses", "- returns).abs() > (value", "- returns).abs() < (value"),
    M(
        POLICY,
        "tokens divided by answers",
        "torch.float64), float(lengths.sum()))",
        "torch.float64), float(num_sequences))",
    ),
    M(POLICY, "answers divided by tokens", "[sequence], float(num_sequences))", "[sequence], float(len(sequence)))"),
    M(
        POLICY,
        "answers weighted by length",
        "(1 / lengths_of(sequence, num_sequences).double())",
        "(lengths_of(sequence, num_sequences).double())",
    ),
    M(
        POLICY,
        "a constant length that cancels",
        "1 / length, dtype=torch.float64), float(num_sequences))",
        "1 / length, dtype=torch.float64), len(sequence) / length)",
    ),
    M(POLICY, "a constant length unchecked", "    lengths_of(sequence, num_sequences)\n    return", "    return"),
    M(PREFERENCE, "one answer is enough", "if size < 2:", "if size < 1:"),
    M(PREFERENCE, "scores may rise", "a >= b for a, b", "True for a, b"),
    M(PREFERENCE, "any number of scores", "len(of_group) != size or not", "not"),
    M(
        PREFERENCE,
        "winner and loser exchanged",
        "winners += [start + better for better, _",
        "winners += [start + better for _, better",
    ),
    M(PREFERENCE, "losers of the first prompt", "losers += [start + worse", "losers += [worse"),
    M(PREFERENCE, "no ties", "bool(of_group) and of_group[better] == of_group[worse]", "False"),
    M(PREFERENCE, "every comparison weighs 1", "[1 / len(pairs)] * len(pairs)", "[1.0] * len(pairs)"),
    M(PREFERENCE, "weight by answers", "[1 / len(pairs)] * len(pairs)", "[1 / (size - 1)] * len(pairs)"),
    M(
        PREFERENCE,
        "neighbours only",
        "pairs = list(combinations(range(size), 2))",
        "pairs = list(pairwise(range(size)))",
    ),
    M(
        PREFERENCE,
        "smoothing of the wrong side",
        "-target * logsigmoid(logit) - (1 - target) * logsigmoid(-logit)",
        "-(1 - target) * logsigmoid(logit) - target * logsigmoid(-logit)",
    ),
    M(PREFERENCE, "a naive log of sigma", "-target * logsigmoid(logit)", "-target * logit.sigmoid().log()"),
    M(PREFERENCE, "smoothing forgotten", "torch.full_like(like, 1 - label_smoothing)", "torch.full_like(like, 1.0)"),
    M(PREFERENCE, "a tie is won", "torch.full_like(like, 0.5)", "torch.full_like(like, 1.0)"),
    M(PREFERENCE, "the difference the wrong way", "difference = winner - loser", "difference = loser - winner"),
    M(PREFERENCE, "the margin helps", "difference - margin)", "difference + margin)"),
    M(PREFERENCE, "ties keep a margin", "torch.where(is_tie, difference, difference - margin)", "difference - margin"),
    M(PREFERENCE, "difference centred", "(winner + loser) ** 2", "(winner - loser) ** 2"),
    M(PREFERENCE, "equal is right", "(winner > loser).to(winner.dtype)", "(winner >= loser).to(winner.dtype)"),
    M(PREFERENCE, "beta forgotten in the implicit reward", "beta * (logp - reference_logp)", "(logp - reference_logp)"),
    M(
        PREFERENCE,
        "the winner alone has beta",
        "bradley_terry_loss(beta * winner, beta * loser, is_tie, margin=0.0",
        "bradley_terry_loss(beta * winner, loser, is_tie, margin=0.0",
    ),
    M(
        PREFERENCE,
        "beta twice",
        "bradley_terry_loss(beta * winner, beta * loser, is_tie, margin=0.0",
        "bradley_terry_loss(beta**2 * winner, beta**2 * loser, is_tie, margin=0.0",
    ),
    M(PREFERENCE, "half the distance", "1 / (2 * beta)", "1 / (4 * beta)"),
    M(
        PREFERENCE,
        "IPO against ties",
        "torch.where(is_tie, torch.zeros_like(winner), torch",
        "torch.where(is_tie, torch.ones_like(winner), torch",
    ),
    M(
        PREFERENCE,
        "IPO one-sided",
        "return (winner - loser - wanted) ** 2",
        "return (winner - loser - wanted).clamp(max=0) ** 2",
    ),
    M(PREFERENCE, "gamma times beta", "margin=gamma", "margin=beta * gamma"),
    M(PREFERENCE, "gamma forgotten", "margin=gamma", "margin=0.0"),
    M(PREFERENCE, "a negative reference point", "mismatched.mean().clamp(min=0)", "mismatched.mean()"),
    M(PREFERENCE, "a summed reference point", "mismatched.mean().clamp(min=0)", "mismatched.sum().clamp(min=0)"),
    M(PREFERENCE, "a reference point of nothing", "if len(mismatched) == 0:", "if False:"),
    M(PREFERENCE, "the reference point learns", "reference_point.detach()", "reference_point"),
    M(PREFERENCE, "the reference point added", "log_ratio - reference_point", "log_ratio + reference_point"),
    M(
        PREFERENCE,
        "KTO the wrong way",
        "desirable_weight * torch.sigmoid(-from_point)",
        "desirable_weight * torch.sigmoid(from_point)",
    ),
    M(
        PREFERENCE,
        "undesirable as desirable",
        "undesirable_weight * torch.sigmoid(from_point)",
        "undesirable_weight * torch.sigmoid(-from_point)",
    ),
    M(PREFERENCE, "weights exchanged", "desirable = desirable_weight *", "desirable = undesirable_weight *"),
    M(PREFERENCE, "labels exchanged", "torch.where(is_desirable, desirable,", "torch.where(~is_desirable, desirable,"),
    M(
        COMPARISONS,
        "weights are not divided",
        "weight=self.compared.weight / count",
        "weight=self.compared.weight",
    ),
    M(
        COMPARISONS,
        "margins where only an order is known",
        "r.scores if r.has_margins else np.zeros_like(r.scores)",
        "r.scores",
    ),
    M(
        COMPARISONS,
        "margins of the other side",
        "points[pairs.winner] - points[pairs.loser]",
        "points[pairs.loser] - points[pairs.winner]",
    ),
    M(
        COMPARISONS,
        "answers of other rankings",
        "batching.forest([ranking.sequences for ranking in some])",
        "batching.forest([ranking.sequences for ranking in some[::-1]])",
    ),
    M(
        REWARD_RECIPE,
        "every comparison weighs the same",
        "(pairs.weight * loss).sum()",
        "(pairs.weight.mean() * loss).sum()",
    ),
    M(REWARD_RECIPE, "centring forgotten", "if settings.centring:", "if False:"),
    M(PAIRWISE, "IPO by whole answers", "ratio = (logp - reference) / lengths", "ratio = logp - reference"),
    M(PAIRWISE, "SimPO by whole answers", "mean = logp / lengths", "mean = logp"),
    M(PAIRWISE, "no reference", "ratio = logp - reference\n", "ratio = logp\n"),
    M(KTO, "weights are not divided", "replace(self, weight=self.weight / count)", "self"),
    M(
        KTO,
        "the point of each forward's own",
        "point = self.reference_point(judged)\n        batches = []",
        "point = self.reference_point(judged[:1])\n        batches = []",
    ),
    M(
        PARTNERS,
        "in the order of the file",
        "np.random.default_rng(len(described.prompt)).permutation(len(described.prompt))",
        "np.arange(len(described.prompt))",
    ),
    M(
        PARTNERS,
        "an answer that does belong",
        "(last_of_run[run] + 1) % len(prompt)",
        "(np.arange(len(prompt)) + 1) % len(prompt)",
    ),
    M(
        "recipes/training/best.py",
        "patience forgotten by a resumed run",
        'OF_THE_SETTINGS = ("folder",',
        'OF_THE_SETTINGS = ("num_since", "folder",',
    ),
    M("recipes/training/best.py", "the last model for the best", "if not self.keeps or self.step == last:", "if True:"),
    M(PREFERENCE, "long answers weigh more in the supervised term", "return -logp / lengths", "return -logp"),
    M(COMPARISONS, "a supervised term that is not divided", "self.sft_weight / count", "self.sft_weight"),
    M(PARTNERS, "longer than the data may be", "        if answer_length[other] <= room:", "        if True:"),
    M(
        REFERENCE,
        "a block written in part taken for whole",
        'kept[row : row + len(digests), :2].tobytes() != b"".join(digests)',
        "kept[row : row + 1, :2].tobytes() != digests[0]",
    ),
    M(REFERENCE, "a row of zeros is believed", "yield _checksum(content[:-8]) == content[-8:]", "yield True"),
    M(
        "data/chat.py",
        "what is shown behind the answer counts as read",
        "each.shown_by is not None and each.shown_by <= place[0]",
        "each.shown_by is not None",
    ),
    M("data/chat.py", "the list of tools need not be read", "[TOOLS] * bool(given.tools) + ", ""),
    M("data/chat.py", "calls without a stop token stay without", "[0]).rstrip() + stop", "[0]).rstrip()"),
    M(
        "data/rendering/marks.py",
        "one mark of two is enough",
        "max(ends, default=0) if len(ends) == len(shown) else None",
        "max(ends, default=0)",
    ),
    M(
        "data/rendering/special_text.py",
        "a token is left over where two are folded",
        "while pattern.search(text):",
        "if pattern.search(text):",
    ),
    M(
        "data/tokens.py",
        "text is a special token",
        "plain.encode_special_tokens = True",
        "plain.encode_special_tokens = False",
    ),
    M("models/stops.py", "the checkpoint's ends are replaced", "for token in taught), *real]", "for token in taught)]"),
    M("models/stops.py", "a word is an end", "(each in special or each not in defaults)", "True"),
    M("data/documents.py", "a piece trains its first token again", "weight[0] = 0", "weight[0] = 1"),
    M("data/documents.py", "pieces do not overlap", "len(tokens) - 1, max_length - 1)", "len(tokens), max_length)"),
    M("data/shapes/tidy.py", "a greeting is trained", "if i < first_user and", "if i < 0 and"),
    M("data/shapes/names.py", "a bad answer is a good one", '"0", "0.0"], False)', '"0", "0.0"], True)'),
    M(
        "recipes/training/splits.py",
        "the test is measured",
        "splits.of(VALIDATION) if splits and",
        "splits.of(TEST) if splits and",
    ),
    M("data/answers.py", "ranks are distances", "has_margins=not ranking.are_ranks", "has_margins=True"),
    M("data/prepare.py", "always the model's limit", "if option is not None:", "if False:"),
    M("recipes/show.py", "an answer shares with itself", "enumerate(sequences) if i != j)", "enumerate(sequences))"),
    M("recipes/show.py", "one token too many is shared", "index <= num_shared", "index <= num_shared + 1"),
    M("recipes/show.py", "ranks are scores", "if scores and not ranking.are_ranks else None", "if scores else None"),
    M("recipes/show.py", "what is behind an answer is shown", "whole.text[: whole.spans[-1].stop]", "whole.text"),
    M(
        "recipes/show.py",
        "what is behind it is a token",
        "up_to_last_trained(tokenise(whole, tokenizer).tokens)",
        "tokenise(whole, tokenizer).tokens",
    ),
    M("recipes/show.py", "a policy imitates", '_prompts if "reward" in config else _records', "_records"),
    M("recipes/show.py", "a judged answer is imitated", "elif isinstance(record, Judged):", "elif False:"),
    M(
        ROLLOUT,
        "the policy for its own reference",
        "models.logp(roles.reference, forest)",
        "models.logp(roles.policy, forest)",
    ),
    M(ROLLOUT, "temperature of sampling alone", ".logp(forest, self.temperature,", ".logp(forest, 1.0,"),
    M(
        ROLLOUT,
        "rewards are read as the policy reads",
        "share=models.forwards[reward.model].shares_prefixes",
        "share=True",
    ),
    M(ROLLOUT, "drawn at temperature 1", "Sampling(models.temperature, top_p=1.0)", "Sampling(1.0, top_p=1.0)"),
    M(ROLLOUT, "one seed for all", "            seed=seed,\n", "            seed=0,\n"),
    M(ROLLOUT, "each process numbers its own prompts", "numbers=mine", "numbers=None"),
    M(
        ANSWERS,
        "stop tokens in the text",
        "completion.ids[:-1] if completion.stopped else completion.ids",
        "completion.ids",
    ),
    M(ANSWERS, "the prompt is trained", "weight[len(prompt) :] = 1", "weight[:] = 1"),
    M(
        ROLLOUT,
        "drawn in float32",
        " as model, autocast(opened.loaded.device, models.dtype):",
        " as model:",
    ),
    M(ROLLOUT, "the gap at temperature 1", "answer.tempered_logp for answer", "answer.sampler_logp for answer"),
    M(POLICY_UPDATE, "weights are not divided", "weight=self.weights.weight / count", "weight=self.weights.weight"),
    M(POLICY_UPDATE, "KL forgotten", "if kl_weight:", "if False:"),
    M(
        POLICY_SETUP,
        "one model's proof for all",
        "chosen[model] = found",
        "chosen[model] = replace(chosen.get(present[0].model, found), model=model)",
    ),
    M(POLICY_SETUP, "a model is proved for every role", "if role.model in chosen:", "if False:"),
    M(
        POLICY_SETUP,
        "values read as the policy reads",
        "share = all(forwards[role.model].shares_prefixes for role in present if role is not roles.reward)",
        "share = forwards[roles.policy.model].shares_prefixes",
    ),
    M(
        POLICY_SETUP,
        "the reward model decides how all read",
        "for role in present if role is not roles.reward)",
        "for role in present)",
    ),
    M(POLICY_UPDATE, "minibatches of the first pass", "default_rng([seed, step, epoch])", "default_rng([seed, step])"),
    M(
        POLICY_UPDATE,
        "minibatches of the first phase",
        "default_rng([seed, step, epoch])",
        "default_rng([seed, epoch])",
    ),
    M(
        POLICY_UPDATE,
        "values of the returns",
        "torch.cat([each.old_value for each in some])",
        "torch.cat([each.returns for each in some])",
    ),
    M(
        PPO,
        "advantages are not whitened",
        "return whiten(advantage, moments(advantage), shift_mean=True), returns",
        "return advantage, returns",
    ),
    M(PPO, "the KL has a price of its own unit", "beta=beta / unit", "beta=beta"),
    M(PPO, "the value keeps its old unit", "    training.value.change_unit(ratio)\n", ""),
    M(PPO, "values are read in the old unit", "value=outputs.value / ratio", "value=outputs.value"),
    M(
        PPO,
        "the value learns at the policy's rate",
        "(training.value_optimiser, value_rate)",
        "(training.value_optimiser, rate)",
    ),
    M(POLICY_UPDATE, "clipped alike up and down", "clip if clip_high is None else clip_high", "clip"),
    M(GRPO, "the KL in the reward is for nothing", "price = kl_in_reward *", "price = 0 *"),
    M(SCALE, "each batch counts alike", "share = len(earned) / count if count else 0.0", "share = 0.5"),
    M(SCALE, "about the mean", "(earned.double() / largest)", "((earned - earned.mean()).double() / largest)"),
    M(PPO, "the KL is not paid for", "sequence, beta=beta)", "sequence, beta=0.0)"),
    M(PHASES, "one draw for all phases", "settings.seed * 1_000_003 + step", "settings.seed * 1_000_003"),
    M(PPO, "a missing stop costs nothing", "penalty=settings.missing_stop)", "penalty=0.0)"),
    M(PHASES, "no budget is ever spent", "kl > settings.kl.budget", "False"),
    M(PHASES, "the latest KL is forgotten", '        kl = kept["kl"]\n', ""),
    M(PHASES, "the learning is not put back", "        put_back(kept)\n", ""),
    M(PPO, "the policy moves at once", "if is_policy_learning:", "if True:"),
    M(
        PPO,
        "learns from the phase that broke the budget",
        "    if is_over_budget(settings, kl):\n        return metrics\n",
        "",
    ),
    M(PPO, "a beta that stays 0", "settings.kl.target is None or settings.kl.beta > 0", "True"),
    M(
        PPO,
        "value clip of the policy",
        "is_value_clipped(value.detach(), old, returns, epsilon=clip)",
        "is_value_clipped(value.detach(), old, returns, epsilon=2.0)",
    ),
    M(GRPO, "centred taken for the group's", '"group": group_advantages', '"group": centred_group_advantages'),
    M(GRPO, "answers weigh as tokens", '"sequence": sequence_mean_weights', '"sequence": token_mean_weights'),
    M(
        RANKED,
        "ties are comparisons",
        "if ranks[better] > ranks[worse]",
        "if ranks[better] >= ranks[worse] and better != worse",
    ),
    M(
        RANKED,
        "prompts that want length count",
        "return clustered_correlation(lengths, rewards)",
        "return clustered_correlation([np.concatenate(list(lengths))], [np.concatenate(list(rewards))])",
    ),
    M(
        CLUSTERED,
        "comparisons of a prompt taken as independent",
        "wilson_of_share(share, min(effective, float(n)))",
        "wilson_of_share(share, float(n))",
    ),
    M(
        CLUSTERED,
        "a cluster's size taken for all alike",
        "left = sums - float(sums.sum()) / total * counts",
        "left = sums - sums.mean()",
    ),
    M(CLUSTERED, "the spread of Pearson's r by its numerator alone", "- r / 2 * (of_x + of_y)", "- 0 * (of_x + of_y)"),
    M(
        INTERRUPT,
        "a second Ctrl-C is only heard",
        "        self.asked = number\n        self._let_through()\n",
        "        self.asked = number\n",
    ),
    M(
        INTERRUPT,
        "takes over what is ignored",
        "if signal.getsignal(number) is default:",
        "if True:",
    ),
    M(
        CHECK,
        "the best of all verdicts",
        "way, shares_not, note = max(verdicts",
        "way, shares_not, note = min(verdicts",
    ),
    M(SAME_RUN, "what decides may change", "if name not in FREE or name in decides}", "if name in LENGTH}"),
    M(SAME_RUN, "content is never compared", "if known.get(name, mark) != mark:", "if False:"),
    M(RUN, "damage inside a file is not seen", "_checksum(path) != checksums[name]", "False"),
    M(WORLD, "talking inside the work of one", "        if self._inside:\n", "        if False:\n"),
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
