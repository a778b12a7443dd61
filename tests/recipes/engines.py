"""A small HTTP server that speaks vLLM's protocol and draws by heed's own sampler; and the troubles it can be put into.

It loads adapters and weights from the folders that it is given, as the real one does.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from heed.engine.client import seed_of_prompt
from heed.models.decode.answers import draw_answers
from heed.models.decode.draw import Sampling
from heed.models.load import load_model, load_tokenizer


class Engine:
    """A server at an address of its own, which may die and come back there."""

    def __init__(
        self, model: Path, seeds: range, *, version: str = "0.32.0", positions: int = 256, port: int = 0
    ) -> None:
        self.version, self.positions, self.base = version, positions, str(model)
        self.tokenizer = load_tokenizer(str(model))
        self.of_seed = {seed_of_prompt(s, n): (s, n) for s in seeds for n in range(64)}
        self.of_seed |= {n: (0, n) for n in range(8)}  # of the proof
        self.lock, self.calls, self.trouble = threading.Lock(), [], None
        self.port, self.told_apart = port, 0.0  # what it says its log-probabilities are off by
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """With the base alone, as a server that starts anew."""
        self.models = {self.base: load_model(self.base, torch.device("cpu"))}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                engine.answer(self, None)

            def do_POST(self):
                engine.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *words):
                pass

        class Listening(ThreadingHTTPServer):
            daemon_threads, request_queue_size, allow_reuse_address = True, 128, True

        self.http = Listening(("127.0.0.1", self.port), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def die_for(self, seconds: float | None) -> None:
        """Die, and come back without what was loaded; None: for good."""

        def away():
            self.stop()
            if seconds is not None:
                time.sleep(seconds)
                self.start()

        threading.Thread(target=away, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, body) -> None:
        with self.lock:
            self.calls.append((handler.path, body))
            trouble = self.trouble(handler.path, len(self.calls)) if self.trouble else None
            status, said = (200, "") if trouble == "gone" else self.said(handler.path, body)
        text = (said if isinstance(said, str) else json.dumps(said)).encode()
        if trouble == "gone":
            handler.connection.close()
            return
        if trouble == "hanging":
            time.sleep(3)
            return
        if trouble == "broken":
            status, text = 500, b"EngineDeadError"
        if trouble == "cut":
            text = text[: len(text) // 2]
        with suppress(ConnectionError):  # who asked may have given up
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text)

    def said(self, path: str, body):
        if path == "/version":
            return 200, {"version": self.version}
        if path == "/v1/models":
            base = {"id": self.base, "owned_by": "vllm", "parent": None, "max_model_len": self.positions}
            return 200, {"data": [base]}
        if path == "/tokenize":
            return 200, {"tokens": self.tokenizer.encode(body["prompt"], add_special_tokens=False)}
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.models:
                return 400, "The lora adapter has already been loaded"
            self.models[body["lora_name"]] = load_model(body["lora_path"], torch.device("cpu"))
            return 200, "Success"
        if path == "/v1/unload_lora_adapter":
            return (200, "Success") if self.models.pop(body["lora_name"], None) else (404, "not found")
        if path == "/collective_rpc":
            self.models[self.base] = load_model(body["kwargs"]["weights_path"], torch.device("cpu"))
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, ""
        return self.completions(body) if path == "/v1/completions" else (404, "Not Found")

    def completions(self, body):
        if body["model"] not in self.models:
            return 404, "The model does not exist"
        seed, number = self.of_seed[body["seed"]]
        [group] = draw_answers(
            self.models[body["model"]],
            [body["prompt"]],
            decode=str,
            stop_ids=body["stop_token_ids"],
            max_new_tokens=body["max_tokens"],
            sampling=Sampling(body["temperature"], body["top_p"]),
            num_samples=body["n"],
            seed=seed,
            numbers=[number],
        )
        choices = [
            {
                "index": i,
                "token_ids": each.ids,
                "logprobs": {"token_logprobs": (each.tempered_logp + self.told_apart).tolist()},
                "finish_reason": "stop" if each.stopped else "length",
                "prompt_token_ids": body["prompt"],
            }
            for i, each in enumerate(group)
        ]
        return 200, {"choices": choices}


def once(at: str, number: int, does: Callable[[], str | None]):
    """A trouble at the `number`th request of a path alone."""
    seen = []

    def trouble(path, count):
        if path == at:
            seen.append(count)
        return does() if path == at and len(seen) == number else None

    return trouble


if __name__ == "__main__":  # as vLLM is started
    given = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    Engine(Path(given["--model"]), range(10), port=int(given["--port"]))
    threading.Event().wait()
