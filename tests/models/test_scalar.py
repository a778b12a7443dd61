"""Scalar heads and reward models: what is read where, and that transformers and peft score what was saved alike."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as t
from families import branching_sequences, casts_in, gradient_of
from families import tiny as family_model
from peft import AutoPeftModelForSequenceClassification, PeftModel
from tiny import CHATML_TOKENS, CPU, END, PLAIN, make_tokenizer, opened, train, trained, write_base

from heed.errors import UserError
from heed.forest.build import build
from heed.models.heads.scalar import (
    RewardModel,
    load_reward_model,
    new_head,
    new_reward_model,
    padding_id,
    require_same_tokenizer,
    restore_reward_model,
    save_reward_model,
    scalars_at,
    tokenizer_fingerprint,
    trunk_fingerprint,
    values_at,
    zero_head,
)
from heed.models.intake.access import peft_warnings_hidden
from heed.models.kernels.speed import speed_up
from heed.models.load import LoadedModel, load_model, load_tokenizer, save
from heed.models.score import forest_states, rows_states
from heed.models.self_check import everything_trained

ITEMS = branching_sequences()
ANSWERS = ["How are you?", "Xin chào các bạn.", "How are you today? " * 3, "a"]
FAMILIES = ("gpt2 tied", "llama untied", "llama tied")
WRITTEN = {"template": PLAIN, "template_name": "plain", "stop_tokens": [END]}


def encoded(tokenizer, answers=ANSWERS):
    return [[*tokenizer(answer).input_ids, tokenizer.convert_tokens_to_ids(END)] for answer in answers]


def forest_of(ids, *, share=True):
    return build([everything_trained(np.array(each, dtype=np.int32)) for each in ids], share=share)


def rewards_of(reward_model: RewardModel, ids):
    """By heed's forest."""
    forest = forest_of(ids)
    with torch.no_grad():
        return reward_model.rewards(forest_states(reward_model.loaded.model, forest), forest)


def classified(classifier, ids):
    """By transformers, as a padded batch and one by one, which must agree."""
    padding = classifier.config.pad_token_id
    longest = max(map(len, ids))
    batch = torch.tensor([each + [padding] * (longest - len(each)) for each in ids])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in ids])
    with torch.no_grad():
        together = classifier.eval()(input_ids=batch, attention_mask=mask).logits[:, 0]
        alone = torch.cat([classifier(input_ids=torch.tensor([each])).logits[0] for each in ids])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    return alone.double()


def loaded_by_peft(folder):
    """With what its base's config does not say: one label, and the padding."""
    padding = json.loads((folder / "reward.json").read_text())["pad_token_id"]
    with peft_warnings_hidden():
        return AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=padding)


def tuned(tmp_path, shape, rank, offset=0.75):
    base = write_base(tmp_path / "original", shape)
    loaded = opened(base, tmp_path / "run", rank=rank, new_tokens=(), stop_tokens=(END,))
    speed_up(loaded.model)
    reward_model = new_reward_model(loaded, seed=0)
    train(loaded)
    return RewardModel(reward_model.loaded, reward_model.head, offset)


def written(tmp_path, reward_model):
    folder = tmp_path / "run" / "reward"
    folder.mkdir(parents=True)
    save_reward_model(reward_model, folder, **WRITTEN)
    return folder


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_values_are_read_before_each_trained_token_and_scalars_at_each_last_one(share):
    torch.manual_seed(0)
    forest, head = build(ITEMS, share=share), new_head(5, seed=3).double()
    # A state that tells its token's position and id: what is read must be that of the sequence's own tokens.
    states = (1000 * forest.position + forest.ids).double()[:, None].expand(-1, 5)
    slope = head.weight.sum().item()
    positions = [[k for k, w in enumerate(each.weight.tolist()) if w] for each in ITEMS]
    before = [1000 * (k - 1) + int(each.ids[k - 1]) for each, ks in zip(ITEMS, positions, strict=True) for k in ks]
    last = [1000 * (len(each) - 1) + int(each.ids[-1]) for each in ITEMS]
    assert values_at(states, forest, head).tolist() == pytest.approx([slope * x for x in before], rel=1e-12)
    assert scalars_at(states, forest, head).tolist() == pytest.approx([slope * x for x in last], rel=1e-12)


def test_a_new_head_has_the_spread_that_its_width_asks_for_and_its_seeds_weights():
    head = new_head(40_000, seed=1)
    assert head.bias is None
    assert head.weight.std().item() == pytest.approx(40_001**-0.5, rel=0.02)
    assert abs(head.weight.mean().item()) < 4 * 40_001**-0.5 / 200
    assert torch.equal(head.weight, new_head(40_000, seed=1).weight)
    assert not torch.equal(head.weight, new_head(40_000, seed=2).weight)
    assert not zero_head(40_000).weight.any()


def test_making_a_head_draws_from_no_other_generator():
    state = torch.random.get_rng_state()
    new_head(10, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_autocast_does_not_round_what_a_head_says():
    forest, head = build(ITEMS), new_head(32, seed=0)
    states = torch.randn(forest.num_tokens, 32, generator=torch.Generator().manual_seed(0))
    for read in (values_at, scalars_at):
        expected = read(states, forest, head)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(read(states, forest, head), expected)
            low = read(states.bfloat16(), forest, head)
        assert low.dtype == torch.float32
        assert torch.equal(low, read(states.bfloat16().float(), forest, head))


def test_a_scalars_gradient_is_that_of_the_sequence_alone():
    """Through the forest, from the last tokens of sequences that share prefixes, as one by one."""
    gradients = {}
    for way in ("shared", "alone"):
        model, head = family_model("llama"), new_head(32, seed=0).double()
        forest = build(ITEMS, share=way == "shared")
        with casts_in(torch.float64):
            states = (forest_states if way == "shared" else rows_states)(model, forest)
            (scalars_at(states, forest, head) * torch.linspace(-1, 2, 7)).sum().backward()
        gradients[way] = gradient_of(model) | {"score": head.weight.grad}
    largest = max(float(g.abs().max()) for g in gradients["alone"].values())
    for name, gradient in gradients["alone"].items():
        assert float((gradients["shared"][name] - gradient).abs().max()) < 1e-12 * largest


# -- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("shape", ["gpt2 tied", "llama untied"])
def test_everything_that_is_trained_gets_a_gradient(tmp_path, shape, rank):
    reward_model = tuned(tmp_path, shape, rank)
    ids = encoded(reward_model.loaded.tokenizer)
    forest = forest_of(ids)
    scalars_at(forest_states(reward_model.loaded.model, forest), forest, reward_model.head).sum().backward()
    named = reward_model.trained_parameters()
    assert named[-1][0] == "score.weight"
    assert all(parameter.grad is not None for _, parameter in named)
    assert not any("lm_head" in name for name, _ in named)


def test_a_far_offset_costs_no_digits(tmp_path):
    reward_model = tuned(tmp_path, "llama tied", 0, offset=1e9)
    ids = encoded(reward_model.loaded.tokenizer)
    far = rewards_of(reward_model, ids)
    near = rewards_of(RewardModel(reward_model.loaded, reward_model.head, 0.0), ids)
    assert far.dtype == torch.float64
    assert (far + 1e9).tolist() == pytest.approx(near.tolist(), abs=1e-6)


# -- on disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", FAMILIES)
def test_transformers_scores_a_saved_reward_model_alike(tmp_path, shape):
    reward_model = tuned(tmp_path, shape, 0)
    folder = written(tmp_path, reward_model)
    ids = encoded(reward_model.loaded.tokenizer)
    ours = rewards_of(reward_model, ids)
    classifier = t.AutoModelForSequenceClassification.from_pretrained(folder)
    assert classifier.config.num_labels == 1
    assert classifier.config.architectures == [type(classifier).__name__]
    torch.testing.assert_close(classified(classifier, ids) - 0.75, ours, rtol=1e-5, atol=1e-5)
    assert float(ours.std()) > 0.05, "rewards that are all alike would prove nothing"
    found = load_reward_model(str(folder), CPU)
    assert found.offset == 0.75
    assert not found.loaded.trained_parameters()
    torch.testing.assert_close(rewards_of(found, ids), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", FAMILIES)
def test_peft_scores_a_saved_reward_adapter_alike(tmp_path, shape):
    reward_model = tuned(tmp_path, shape, 3)
    folder = written(tmp_path, reward_model)
    ids = encoded(reward_model.loaded.tokenizer)
    ours = rewards_of(reward_model, ids)
    classifier = loaded_by_peft(folder)
    torch.testing.assert_close(classified(classifier, ids) - 0.75, ours, rtol=1e-5, atol=1e-5)
    plain = t.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "original", num_labels=1, pad_token_id=classifier.config.pad_token_id
    )
    with peft_warnings_hidden():
        adapted = PeftModel.from_pretrained(plain, folder)
    torch.testing.assert_close(classified(adapted, ids) - 0.75, ours, rtol=1e-5, atol=1e-5)
    found = load_reward_model(str(folder), CPU)
    assert found.base == trunk_fingerprint(load_model(str(tmp_path / "original"), CPU))
    assert found.offset == 0.75
    torch.testing.assert_close(rewards_of(found, ids), ours, rtol=0, atol=1e-6)
    assert float(ours.std()) > 0.05


@pytest.mark.parametrize("rank", [0, 3])
def test_real_weights_are_scored_alike(tmp_path, shared, rank):
    model = shared / "models" / "stories260K"
    if not model.is_dir():
        pytest.skip("stories260K is not among the shared data")
    base = shutil.copytree(model, tmp_path / "original", copy_function=shutil.copyfile)
    loaded = opened(str(base), tmp_path / "run", rank=rank, new_tokens=(), stop_tokens=("</s>",))
    reward_model = new_reward_model(loaded, seed=0)
    if rank:
        train(loaded)
    folder = tmp_path / "run" / "reward"
    folder.mkdir(parents=True)
    save_reward_model(reward_model, folder, template=PLAIN, template_name="plain", stop_tokens=["</s>"])
    tokenizer = loaded.tokenizer
    ids = [
        [*tokenizer(text).input_ids, tokenizer.convert_tokens_to_ids("</s>")] for text in ("Once upon a time", "Lily")
    ]
    ours = rewards_of(reward_model, ids)
    classifier = loaded_by_peft(folder) if rank else t.AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(classified(classifier, ids), ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rewards_of(load_reward_model(str(folder), CPU), ids), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_a_family_without_a_classifier_is_kept_in_a_layout_of_our_own(tmp_path, family):
    model = family_model(family, dtype=torch.float32)
    tokenizer = make_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    reward_model = RewardModel(LoadedModel(model, tokenizer), new_head(32, seed=0), -2.0)
    folder = written(tmp_path, reward_model)
    assert (folder / "score.safetensors").is_file()
    found = load_reward_model(str(folder), CPU)
    ids = encoded(tokenizer)
    torch.testing.assert_close(rewards_of(found, ids), rewards_of(reward_model, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("shape", FAMILIES)
def test_what_was_saved_comes_back_bit_for_bit(tmp_path, shape, rank):
    reward_model = tuned(tmp_path, shape, rank)
    folder = written(tmp_path, reward_model)
    expected = trained(reward_model.loaded) | {"score": reward_model.head.weight.detach().clone()}
    train(reward_model.loaded, seed=5)
    with torch.no_grad():
        reward_model.head.weight.add_(1.0)
    restore_reward_model(reward_model, folder)
    found = trained(reward_model.loaded) | {"score": reward_model.head.weight.detach()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_padding_is_no_token_that_ends_an_answer(tmp_path):
    tokenizer = make_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    assert padding_id(tokenizer, {end}, len(tokenizer)) != end  # the one special token is taken: any other will do
    tokenizer.pad_token = END
    assert padding_id(tokenizer, {end}, len(tokenizer)) != end
    assert padding_id(tokenizer, {5}, len(tokenizer)) == end
    tokenizer.add_special_tokens({"extra_special_tokens": list(CHATML_TOKENS)})
    assert padding_id(tokenizer, {end}, len(tokenizer)) == tokenizer.convert_tokens_to_ids(CHATML_TOKENS[0])
    reward_model = tuned(tmp_path, "llama tied", 0)
    folder = written(tmp_path, reward_model)
    saved = t.AutoTokenizer.from_pretrained(folder)
    assert saved.pad_token_id == t.AutoConfig.from_pretrained(folder).pad_token_id != end
    assert reward_model.loaded.tokenizer.pad_token_id is None, "the tokenizer in memory is the caller's"
    assert saved.chat_template == PLAIN


def test_the_note_says_what_it_was_trained_with(tmp_path):
    reward_model = tuned(tmp_path, "llama tied", 0, offset=0.1 + 0.2)
    note = json.loads((written(tmp_path, reward_model) / "reward.json").read_text())
    assert note["offset"] == 0.1 + 0.2
    assert note["template"] == "plain"
    assert note["tokenizer"] == tokenizer_fingerprint(make_tokenizer())


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 3])
def test_a_language_model_is_no_reward_model(tmp_path, rank):
    loaded = opened(
        write_base(tmp_path / "original", "llama tied"), tmp_path / "run", rank=rank, new_tokens=(), stop_tokens=(END,)
    )
    folder = tmp_path / "run" / "tuned"
    folder.mkdir()
    save(loaded, folder, template=PLAIN, stop_tokens=[END])
    with pytest.raises(UserError, match="this is no reward model") as caught:
        load_reward_model(str(folder), CPU)
    assert f"heed reward --model {folder}" in caught.value.fix
    assert ("adapter without a scalar head" if rank else "LlamaForCausalLM") in caught.value.found


def test_a_classifier_of_several_labels_is_no_reward_model(tmp_path):
    config = t.LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    t.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="this is no reward model") as caught:
        load_reward_model(str(tmp_path), CPU)
    assert "3 labels" in caught.value.found


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_reward_model(str(tmp_path / "nowhere"), CPU)


def test_another_tokenizer_is_refused_and_the_same_is_not(tmp_path):
    reward_model = tuned(tmp_path, "llama tied", 0)
    same = load_tokenizer(str(tmp_path / "original"))
    require_same_tokenizer(reward_model.loaded.tokenizer, same, where="--reward X")
    same.add_special_tokens({"extra_special_tokens": ["<new>"]})
    with pytest.raises(UserError, match="another tokenizer") as caught:
        require_same_tokenizer(reward_model.loaded.tokenizer, same, where="--reward X")
    assert "1 tokens differ; '<new>' is missing in the reward model's" in caught.value.found
    assert caught.value.where == "--reward X"
    assert tokenizer_fingerprint(same) != tokenizer_fingerprint(reward_model.loaded.tokenizer)


def test_a_trunks_fingerprint_sees_one_bit_and_no_adapter(tmp_path):
    base = write_base(tmp_path / "original", "gpt2 tied")
    plain = load_model(base, CPU)
    expected = trunk_fingerprint(plain)
    adapted = opened(base, tmp_path / "run", rank=3, new_tokens=(), stop_tokens=(END,))
    train(adapted)
    assert trunk_fingerprint(adapted.model) == expected
    with torch.no_grad():
        weight = next(plain.transformer.h[1].parameters())
        weight.view(-1)[3] = torch.nextafter(weight.view(-1)[3], torch.tensor(9.0))
    assert trunk_fingerprint(plain) != expected
