"""Real random language models, small enough to build in code within a fraction of a second."""

from __future__ import annotations

import functools
from typing import Any

import torch

from saefeat.subject import Subject

LAYOUTS = ("llama", "qwen2", "mistral", "gemma3", "gpt2", "neox", "opt", "phi")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a tiny model.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = """The rent was due and the account was empty. She counted the coins again, slowly, and the wind at the door
would not stop. He laughed until his sides hurt, because nobody at the party had guessed. They walked to the station
in the rain without a word. In short, I feel so tired of waiting for the letter that was promised in the spring. My
sister made bread, the children sang in the garden, and the old dog slept beside the stove. Nothing happened for days,
and then everything did: the phone rang, the train was late, the light went out, and we were home before the storm."""


@functools.cache
def _bpe(vocab: int) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer.to_str()


def tiny_tokenizer(vocab: int = 512, *, bos: bool = False, chat_template: str | None = CHATML) -> Any:
    """A byte-level BPE with ChatML tokens; with `bos` it puts <|endoftext|> before every text."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(_bpe(vocab))
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<pad>"
    )
    fast.chat_template = chat_template
    return fast


def tiny_model(layout: str, *, layers: int, d_model: int, vocab: int, context: int, seed: int) -> Any:
    """A random HF causal language model of the given layout, float32 on the CPU."""
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": d_model, "num_hidden_layers": layers, "num_attention_heads": 4,
        "max_position_embeddings": context, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    gated = {**common, "intermediate_size": 2 * d_model, "num_key_value_heads": 2}
    heads = {"head_dim": d_model // 4, "layer_types": ["full_attention"] * layers}
    made = {
        "llama": lambda: hf.LlamaConfig(**gated),
        "qwen2": lambda: hf.Qwen2Config(**gated),
        "mistral": lambda: hf.MistralConfig(**gated, sliding_window=None),
        "gemma3": lambda: hf.Gemma3TextConfig(**gated, **heads),
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=vocab, n_embd=d_model, n_layer=layers, n_head=4, n_positions=context, bos_token_id=0,
            eos_token_id=2,
        ),
        "neox": lambda: hf.GPTNeoXConfig(**common, intermediate_size=2 * d_model),
        "opt": lambda: hf.OPTConfig(**common, ffn_dim=2 * d_model, word_embed_proj_dim=d_model),
        "phi": lambda: hf.PhiConfig(**gated),
    }  # fmt: skip
    config = made[layout]()
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    with torch.no_grad():  # the usual initialisation is so small that every block is nearly the identity
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def tiny_subject(
    layout: str = "llama", *, layers: int = 3, d_model: int = 32, vocab: int = 512, context: int = 512,
    bos: bool = False, seed: int = 0,
) -> Subject:  # fmt: skip
    """A small random model with a real tokenizer. Layouts: LAYOUTS."""
    state = torch.random.get_rng_state()
    try:
        model = tiny_model(layout, layers=layers, d_model=d_model, vocab=vocab, context=context, seed=seed)
    finally:
        torch.random.set_rng_state(state)
    return Subject(f"tiny-{layout}", model, tiny_tokenizer(vocab, bos=bos))
