"""A model as one GGUF file with a Modelfile beside it: written, read back, compared, and only then given its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from heed import files
from heed.errors import UserError, typed
from heed.export_config import ExportSettings
from heed.models.adapters.lora import next_token_logp
from heed.models.export import comparing
from heed.models.export.differs import differs
from heed.models.export.families import family_of
from heed.models.export.reading_gguf import model_of, open_gguf
from heed.models.export.vocabulary import Vocabulary, vocabulary_of
from heed.models.export.writing_gguf import Dtype, write_gguf
from heed.models.load import LoadedModel, num_positions
from heed.recipes.exporting.modelfile import Message, around, modelfile

NUM_SCORED = 5
"""questions of which every log-probability is compared"""


def export(loaded: LoadedModel, settings: ExportSettings, dtype: Dtype, say: Callable[[str], None]) -> None:
    """Write, read back, compare; nothing is at `out` unless all agrees."""
    out = Path(settings.out)
    beside = modelfile_of(out)
    for path in (out, beside):
        refuse_taken(path)
    family = family_of(loaded.model, settings.model)
    vocabulary = vocabulary_of(loaded.tokenizer, loaded.model, settings.model)
    if vocabulary.composes:
        say(
            "note: this tokenizer composes accents (NFC) first. Programs that read GGUF do not: give them composed text"
        )
    with files.new_files(out.parent, (beside.name, out.name)) as folder:
        path = folder / out.name
        wider = write_gguf(path, loaded.model, vocabulary, family, dtype, name=out.stem)
        if wider:
            say(f"{len(wider)} matrices whose rows are no whole blocks of 32 are float16: {', '.join(wider[:3])}, ...")
        check(path, loaded, vocabulary, settings.answers, say)
        text = modelfile_text(loaded, vocabulary, out.name, say)
        (folder / beside.name).write_text(text, encoding="utf-8")
    say(f"the model is in {out}: llama-server --jinja -m {typed(out)}")
    say(f"for ollama, {beside}: ollama create {typed(out.stem)} -f {typed(beside)}")


def modelfile_of(out: Path) -> Path:
    """Where the Modelfile of a GGUF file lies: beside it, under its name, so that several have room in a folder."""
    return out.with_suffix(".Modelfile")


def refuse_taken(path: Path) -> None:
    """Nothing that is there is overwritten."""
    if path.exists():
        raise UserError(
            "a file for the exported model is there already",
            where="--out",
            found=f"{path}: a {'folder' if path.is_dir() else 'file'}",
            expected="a name that nothing has yet",
            fix=f"--out {typed(path.with_name(f'{path.stem}-2.gguf'))}, or another name",
        )


def check(
    path: Path, loaded: LoadedModel, vocabulary: Vocabulary, num_answers: int, say: Callable[[str], None]
) -> None:
    """Compare a written file with what it was made from; `loaded` has the weights of the file afterwards.

    Raises:
        UserError: anything in the file is other than it was to be.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    file = open_gguf(path)
    comparing.compare_vocabulary(file, vocabulary)
    texts = comparing.texts_of(tokenizer, vocabulary)
    readers = comparing.compare_tokens(file, tokenizer, texts)
    say(
        f"all {len(vocabulary.tokens):,} tokens are there; {len(texts)} texts agree, read by {' and by '.join(readers)}"
    )

    prompts = comparing.prompts_of(tokenizer, model, num_answers)
    scored = comparing.scored_of(tokenizer, model, NUM_SCORED)
    before = [next_token_logp(model, ids) for ids in scored]
    answers = comparing.answers_of(model, prompts, vocabulary.stops)
    rounding = comparing.take_weights(model, file)
    after = [next_token_logp(model, ids) for ids in scored]
    drift = max((float((a - b).abs().max()) for a, b in zip(before, after, strict=True)), default=0.0)
    say(f"every weight is there, rounded by at most {rounding:.2g}: log-probabilities move by at most {drift:.1e} nats")

    again = model_of(file)
    compare_log_probabilities(comparing.largest_difference(model, again, scored), path, "heed", say)
    theirs = comparing.transformers_model(file)
    if isinstance(theirs, str):
        say(f"transformers did not read the file: {theirs}; heed read every tensor and every size")
    else:
        compare_log_probabilities(comparing.largest_difference(model, theirs, scored), path, "transformers", say)
        again = theirs
    compare_answers(
        answers, comparing.answers_of(again, prompts, vocabulary.stops), path, is_exact=rounding == 0, say=say
    )
    if len(prompts) < num_answers:
        say(f"{num_answers - len(prompts)} of the {num_answers} questions were not asked: they do not fit the model")


def compare_log_probabilities(apart: float, path: Path, reader: str, say: Callable[[str], None]) -> None:
    """The model of the file must say what the given one says with the same weights."""
    if not apart <= comparing.TOLERANCE:
        raise differs(
            f"read by {reader}, it gives other log-probabilities",
            path,
            f"a difference of {apart:.3g} nats",
            f"at most {comparing.TOLERANCE:g}",
        )
    say(f"read back by {reader}: log-probabilities differ by at most {apart:.1e} nats from those of the same weights")


def compare_answers(
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    path: Path,
    *,
    is_exact: bool,
    say: Callable[[str], None],
) -> None:
    """Greedy answers: the same where no weight was rounded; else it is told how many are."""
    same = sum(list(a) == list(b) for a, b in zip(before, after, strict=True))
    if is_exact and same < len(before):
        raise differs("it answers otherwise", path, f"{same} of {len(before)} answers the same", "all of them")
    if before:
        say(f"{same} of {len(before)} greedy answers are the same")


def modelfile_text(loaded: LoadedModel, vocabulary: Vocabulary, name: str, say: Callable[[str], None]) -> str:
    """The Modelfile, with ollama's own form of the chat template where it has one."""
    tokenizer = loaded.tokenizer

    def render(messages: Sequence[Message], begins_answer: bool) -> str:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=begins_answer)
        if not vocabulary.adds_bos:
            return text
        if not text.startswith(tokenizer.bos_token):
            raise ValueError("ollama begins every text with BOS, and the template does not")
        return text.removeprefix(tokenizer.bos_token)

    template = around(render) if tokenizer.chat_template is not None else None
    if template is None:
        say("ollama: no TEMPLATE is written, as the chat template is more than text around messages, or there is none")
    else:
        say("ollama: TEMPLATE says the same as the chat template on 5 conversations")
    stops = [tokenizer.convert_ids_to_tokens(each) for each in vocabulary.stops]
    return modelfile(name, template, stops, num_positions(loaded.model) or 2048)
