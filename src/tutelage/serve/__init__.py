"""A file that answers over HTTP: for programs that cannot, or do not want to, load it themselves.

connection ─► application ─► reading: a body becomes rows, or a refusal ─► batching: rows of several requests, one call
           ◄─ JSON ◄─ answers: probabilities, classes, logits ◄────────────┘ each request gets its own rows
"""

from tutelage.serve.batching import Batcher
from tutelage.serve.limits import Limits
from tutelage.serve.refusals import RefusedError
from tutelage.serve.server import Served, serve, serve_runner

__all__ = ["Batcher", "Limits", "RefusedError", "Served", "serve", "serve_runner"]
