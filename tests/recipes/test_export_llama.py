"""llama.cpp itself reads what `heed export` writes: an optional check, by `make test-llama`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from heed.cli.main import main
from heed.lab.base_model import BASE_MODEL
from heed.models.export import comparing
from heed.models.export.vocabulary import vocabulary_of
from heed.models.intake.vocabulary import num_rows
from heed.models.load import load_with_tokenizer
from heed.models.stops import stop_ids_of

PROGRAM = Path(__file__).parents[2] / "tools" / "llama" / "llama.mjs"
INSTALLED = Path(os.environ.get("HEED_LLAMA", ".venv/llama")) / "node_modules" / "node-llama-cpp"
pytestmark = [
    pytest.mark.llama,
    pytest.mark.skipif(
        not INSTALLED.is_dir() or shutil.which("node") is None,
        reason=f"llama.cpp is not installed in {INSTALLED}: make test-llama, which needs node and npm",
    ),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def of_llama_cpp(folder, model, texts, prompts):
    program = INSTALLED.parents[1] / PROGRAM.name
    shutil.copy(PROGRAM, program)  # node looks for packages beside the program
    asked, answered = folder / "asked.json", folder / "answered.json"
    wanted = {"model": str(model), "texts": texts, "prompts": prompts, "newTokens": comparing.NEW_TOKENS}
    asked.write_text(json.dumps(wanted))
    subprocess.run(["node", str(program), str(asked), str(answered)], check=True, timeout=600)
    return json.loads(answered.read_text())


def test_llama_cpp_says_what_the_tuned_model_says(colours, tune, tmp_path):
    """All texts tokenised alike, 25 of 25 greedy answers, probabilities to 2e-4: its cache holds float16."""
    data = tmp_path / "colours.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in colours))
    how = {"template": "chatml", "steps": 12, "batch_size": 8, "optim_lr": 1e-2, "lora_rank": 4}
    assert tune(model=BASE_MODEL, data=data, out=tmp_path / "run", **how) == 0
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "m.gguf"), "--answers", "0"]) == 0
    compared(tmp_path, str(tmp_path / "run"))


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_llama_cpp_tokenises_as_real_tokenizers_do(name, shared, tmp_path):
    import gguf_files
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    small = {**gguf_files.LLAMA, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = t.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **small)
    model = gguf_files.write_model(tmp_path / "model", config, tokenizer)
    assert main(["export", str(model), "--out", str(tmp_path / "m.gguf"), "--answers", "0"]) == 0
    compared(tmp_path, str(model), num_prompts=0)


def test_llama_cpp_reads_scores_as_sentencepiece_does(shared, tmp_path):
    model = shared / "models" / "stories260K"
    assert main(["export", str(model), "--out", str(tmp_path / "m.gguf"), "--answers", "0"]) == 0
    compared(tmp_path, str(model), num_prompts=0)


def compared(folder, model, num_prompts=25):
    loaded = load_with_tokenizer(model, torch.device("cpu"))
    tokenizer = loaded.tokenizer
    vocabulary = vocabulary_of(tokenizer, num_rows(loaded.model), stop_ids_of(loaded.model), model)
    texts = comparing.texts_of(tokenizer, vocabulary)
    prompts = comparing.prompts_of(tokenizer, loaded.model, num_prompts)
    found = of_llama_cpp(folder, folder / "m.gguf", texts, prompts)
    ours = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert [text for text, a, b in zip(texts, ours, found["tokens"], strict=True) if a != b] == []
    answers = comparing.answers_of(loaded.model, prompts, vocabulary.stops)
    assert found["answers"] == answers
    for ids, probabilities in zip(prompts, found["logp"], strict=True):
        theirs = torch.zeros(len(vocabulary.tokens))
        for token, probability in probabilities:
            theirs[token] = probability
        with torch.no_grad():
            mine = torch.softmax(loaded.model(torch.tensor([ids])).logits[0, -1], -1)
        assert (theirs - mine).abs().max() < 2e-4
