"""The language model studied: where its weights come from, its tokens, its residual streams, its chat turns."""

from saefeat.subject.chat import Turn, render_chat
from saefeat.subject.fetch import fetch
from saefeat.subject.hooks import Edit, editing, reading
from saefeat.subject.load import choose_device, choose_dtype, cpu_has_bf16, load_subject, resolve
from saefeat.subject.model import Fingerprint, Subject
from saefeat.subject.registry import Recipe, is_fetched, model_directory, recipe, recipes

__all__ = [
    "Edit",
    "Fingerprint",
    "Recipe",
    "Subject",
    "Turn",
    "choose_device",
    "choose_dtype",
    "cpu_has_bf16",
    "editing",
    "fetch",
    "is_fetched",
    "load_subject",
    "model_directory",
    "reading",
    "recipe",
    "recipes",
    "render_chat",
    "resolve",
]
