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
from heed.models.export.early import brings_code
from heed.models.export.families import Family, family_of
from heed.models.export.fields import compare_fields
from heed.models.export.reading_gguf import Opened, model_of, open_gguf
from heed.models.export.vocabulary import Vocabulary, vocabulary_of
from heed.models.export.writing_gguf import Dtype, write_gguf
from heed.models.intake.vocabulary import num_rows
from heed.models.load import LoadedModel, SavedModel, SavedTokenizer, drop_weights, num_positions
from heed.models.stops import stop_ids_of
from heed.recipes.exporting.modelfile import CONVERSATIONS, Message, around, modelfile, value_of

NUM_SCORED = 5
"""questions of which every log-probability is compared"""


def export(loaded: LoadedModel, settings: ExportSettings, dtype: Dtype, say: Callable[[str], None]) -> None:
    """Write, read back, compare; nothing is at `out` unless all agrees."""
    out = Path(settings.out)
    beside = modelfile_of(out)
    for path in (out, beside):
        refuse_taken(path)
    family = family_of(loaded.model.config, settings.model, own_code=brings_code(loaded.model))
    vocabulary = vocabulary_of(loaded.tokenizer, num_rows(loaded.model), stop_ids_of(loaded.model), settings.model)
    if vocabulary.composes:
        say(
            "note: this tokenizer composes accents (NFC) first. Programs that read GGUF do not: give them composed text"
        )
    with files.new_files(out.parent, (beside.name, out.name)) as folder:
        path = folder / out.name
        wider = write_gguf(path, loaded.model, vocabulary, family, dtype, name=out.stem)
        if wider:
            say(f"{len(wider)} matrices whose rows are no whole blocks of 32 are float16: {', '.join(wider[:3])}, ...")
        check(path, loaded, vocabulary, family, dtype, settings.answers, say)
        text = modelfile_text(loaded, vocabulary, out.name, say)
        (folder / beside.name).write_text(text, encoding="utf-8")
    say(f"the model is in {out}: llama-server --jinja -m {typed(out)}")
    say(f"for ollama, {beside}: ollama create {typed(out.stem)} -f {typed(beside)}")


def modelfile_of(out: Path) -> Path:
    """Where the Modelfile of a GGUF file lies: beside it, under its name, so that several have room in a folder."""
    return out.with_suffix(".Modelfile")


def refuse_taken(path: Path) -> None:
    """Nothing that is there is overwritten."""
    if path.exists() or path.is_symlink():
        raise UserError(
            "a file for the exported model is there already",
            where="--out",
            found=f"{path}: a {'folder' if path.is_dir() else 'file' if path.exists() else 'link that leads nowhere'}",
            expected="a name that nothing has yet",
            fix=f"--out {typed(path.with_name(f'{path.stem}-2.gguf'))}, or another name",
        )


def check(
    path: Path,
    loaded: LoadedModel,
    vocabulary: Vocabulary,
    family: Family,
    dtype: Dtype,
    num_answers: int,
    say: Callable[[str], None],
) -> None:
    """Compare a written file with what it was made from; the weights of `loaded` are gone afterwards.

    One model at a time is in memory: the given one, then each that is read back. What is kept of each is what it says.

    Raises:
        UserError: anything in the file is other than it was to be.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    file = open_gguf(path)
    compare_fields(file, model, vocabulary, family, dtype, path.stem)
    texts = comparing.texts_of(tokenizer, vocabulary)
    readers = comparing.compare_tokens(file, tokenizer, texts)
    say(
        f"all {len(vocabulary.tokens):,} tokens are there; {len(texts)} texts agree, read by {' and by '.join(readers)}"
    )

    compare_answering(file, loaded, vocabulary.stops, num_answers, say)


def compare_answering(
    file: Opened, loaded: LoadedModel, stops: Sequence[int], num_answers: int, say: Callable[[str], None]
) -> None:
    """Compare weights, log-probabilities and greedy answers; see `check`."""
    model, tokenizer, path = loaded.model, loaded.tokenizer, file.path
    prompts = comparing.prompts_of(tokenizer, model, num_answers)
    scored = comparing.scored_of(tokenizer, model, NUM_SCORED)
    before = [next_token_logp(model, ids) for ids in scored]
    answers = comparing.answers_of(model, prompts, stops)
    rounding = comparing.take_weights(model, file)
    after = [next_token_logp(model, ids) for ids in scored]
    drop_weights(model)
    drift = comparing.largest_difference(before, after)
    say(f"every weight is there, rounded by at most {rounding:.2g}: log-probabilities move by at most {drift:.1e} nats")

    readers: dict[str, Callable[[], SavedModel | str]] = {
        "transformers": lambda: comparing.transformers_model(file),
        "heed": lambda: model_of(file),
    }
    answered: list[list[int]] | None = None
    for reader, read in readers.items():
        again = read()
        if isinstance(again, str):
            say(f"{reader} did not read the file: {again}; heed reads every tensor and every size")
            continue
        of_copy = [next_token_logp(again, ids) for ids in scored]
        compare_log_probabilities(comparing.largest_difference(after, of_copy), path, reader, say)
        if answered is None:
            answered = comparing.answers_of(again, prompts, stops)
        drop_weights(again)
    assert answered is not None, "heed reads every file that it writes"
    compare_answers(answers, answered, path, is_exact=rounding == 0, say=say)
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


def text_of(tokenizer: SavedTokenizer, token_id: int) -> str:
    """What a program that looks for a stop in the answer's text has to look for: the text, not the token's name."""
    if token_id in tokenizer.added_tokens_decoder:
        return str(tokenizer.added_tokens_decoder[token_id].content)
    text: str = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    return text


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
        say(
            "ollama: TEMPLATE is the fixed texts that the chat template puts around messages; put together by heed, "
            f"they give what it renders on {len(CONVERSATIONS)} conversations. ollama itself did not run it"
        )
    stops = [text_of(tokenizer, each) for each in vocabulary.stops]
    for stop in stops:
        if value_of(stop) is None:
            say(f"ollama: a Modelfile cannot hold the stop {stop!a}; without it answers may go on behind it")
    return modelfile(name, template, stops, num_positions(loaded.model) or 2048)
