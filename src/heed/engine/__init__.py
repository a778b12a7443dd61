"""Another engine that draws answers: a vLLM server, spoken to over HTTP; vLLM itself is never imported."""
