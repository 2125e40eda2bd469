"""Text in, tokens out, and back: tokenizer, chat template, detokenizer. Knows no model and no torch."""
