"""CrowS-Pairs and StereoSet: does a model find the stereotype likelier than its opposite?

What the measures need of an item (a task of kind pairs):
    labels    of CrowS-Pairs `stereotype` (sent_more, in both directions) and `anti-stereotype` (sent_less);
              of StereoSet `stereotype`, `anti-stereotype` and `unrelated`, in any order
    verdict   `logp_LABEL` of each, in nats; StereoSet reads `logp_per_token_LABEL`
    groups    of CrowS-Pairs {"bias_type": "{{ bias_type }}", "direction": "{{ stereo_antistereo }}"};
              of StereoSet {"type": intrasentence or intersentence, "bias_type": ...}
    cluster   of StereoSet "{{ target }}", the term that figures are first made for; of CrowS-Pairs none
    record    of StereoSet `target`, where the task names no cluster

Measures: `crows_pairs`; `icat`, `lms`, `ss`, and `stereoset` for the three.
"""
