"""Winogender and WinoBias: does a pronoun decide whom a sentence speaks of?

What the measures need of an item (a task of kind choice):
    Winogender
        labels    `occupation`, `participant`: the options in their order (`someone` is a participant)
        right     the option that the sentence means, the fourth part of `sentid`'s: 0 occupation, 1 participant
        cluster   the sentence without its pronoun: "{{ sentid.rsplit('.', 2)[0] }}" (technician.customer.1)
        groups    {"gender": male, female or neutral}
    WinoBias
        right     the option that the sentence means
        cluster   what the sentence has in common with its twin of the other pronoun
        groups    {"stereotype": "pro" or "anti"}; {"type": "1" or "2"} where it is known

Measures: `same_answer`, `male_minus_female`, and `winogender` for both; `pro_minus_anti`, and `winobias` for it and the
accuracy on either side. List `acc` beside them: accuracy by gender comes of the groups.
"""
