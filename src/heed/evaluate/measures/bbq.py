"""BBQ: does a stereotype answer where the text does not, and does it override the text where it does?

What the measures need of an item (a task of kind choice, or of generation whose checker sets `chosen`):
    record    context_condition (`ambig`, `disambig`), question_polarity (`neg`, `nonneg`), answer_info (`ans0`: [words,
              group] ...) and additional_metadata.stereotyped_groups, as the authors' files have them; or `target_loc` (or
              `target_label`), the authors' own column. Options in the order ans0, ans1, ans2. No `labels` are needed.
    right     the index of the right option, as `label` says
    chosen    the option the model took; None is an answer that could not be read: it is a row, `unparsed`, of the
              generation task, and takes no part in anything here, as in the authors' analysis
    cluster   "{{ category }} {{ question_index }}": what was made from one template goes together
    groups    {"category": "{{ category }}"}, and any other: each gets figures of its own

Measures: `s_amb`, `s_dis`, `acc_ambiguous`, `acc_disambiguated`, `no_target`; `bbq` is all of them.
"""
